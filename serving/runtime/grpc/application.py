"""gRPC as an application of the HTTP/2 front: what the headers of a call mean, and which method takes it."""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from collections.abc import Callable, Coroutine
from typing import Any
from urllib.parse import unquote_to_bytes

from serving.runtime.access import Action
from serving.runtime.grpc.call import ACCEPTS, ENCODINGS, Call, CallHead
from serving.runtime.grpc.deadlines import Deadlines
from serving.runtime.grpc.methods import Unary
from serving.runtime.grpc.request_ids import RequestIds
from serving.runtime.grpc.status import CONTENT_TYPE, STATUS_OK, CallFailed, Status, trailers
from serving.runtime.http2 import Headers, RequestHead

_TIMEOUT = re.compile(rb"([0-9]{1,8})([HMSmun])")
_SECONDS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_NOT_GRPC = b"This port speaks gRPC over HTTP/2. The REST API is on the HTTP port.\n"
_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")

Gate = Callable[[Call, Action, str], None]
"""The access policy, asked for every call when its message has been read: what is to be done with which
model ("" for what concerns none). Raises Unauthorized or Forbidden."""
Observer = Callable[[Call, str], None]
"""Told of every call that fails, and the kind of failure."""

EndObserver = Callable[[Call, Status, float], None]
"""Told of every call that ends, and when; while the engine's request is still there."""


class GrpcApplication:
    """Methods by path, and what all calls share."""

    def __init__(
        self,
        methods: dict[str, Any],
        loop: asyncio.AbstractEventLoop,
        ids: RequestIds,
        *,
        max_message: int = 64 << 20,
        max_buffered: int = 256 << 20,
        default_timeout: float = 60.0,
        gate: Gate | None = None,
        observer: Observer | None = None,
        ended: EndObserver | None = None,
    ) -> None:
        self.methods = methods
        self.loop = loop
        self.ids = ids
        self.max_message = max_message
        self.max_buffered = max(max_buffered, 2 * max_message)
        self.default_timeout = default_timeout
        self.gate = gate
        self.observer = observer
        self.ended = ended
        """When somebody listens, answers are written one by one."""
        self.deadlines = Deadlines(loop)
        self.buffered = 0
        """Bytes of messages that are not whole, over all calls."""
        self._tasks: set[asyncio.Task[None]] = set()

        class BoundCall(Call):
            application = self

        self.stream = BoundCall
        self.headers_too_large: Headers = (
            STATUS_OK,
            CONTENT_TYPE,
            *trailers(Status.RESOURCE_EXHAUSTED, "the metadata are larger than this server takes"),
        )
        self.not_http2 = (
            b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\nconnection: close\r\n"
            b"content-length: %d\r\n\r\n%b" % (len(_NOT_GRPC), _NOT_GRPC)
        )

    def prepare(self, head: RequestHead) -> CallHead:
        """Everything that can be known before the message comes; asked once for each header block."""
        call = CallHead(method=_NOTHING)
        kind = next((value for name, value in head.headers if name == b"content-type"), b"")
        if head.method != b"POST" or not _is_grpc(kind):
            call.plain = _not_grpc(head.method)
            return call
        try:
            self._read(head, call)
        except Exception as error:
            call.refused = error
        return call

    def vary(self, head: RequestHead) -> CallHead:
        """A call like one before but for metadata: what the other headers mean is known. 3 us, not 20."""
        known: CallHead = head.base.prepared
        told = dict(head.headers)
        if known.plain is not None or known.refused is not None or len(told) != len(head.headers):
            return self.prepare(head)
        call = CallHead(known.method, None, known.encoding)
        try:
            for name in told:
                if name[-4:] == b"-bin":
                    call.metadata = read_metadata(head)
                    break
            self._read_call(
                call,
                told.get(b"grpc-timeout"),
                told.get(b"x-request-id", b""),
                told.get(b"traceparent", b""),
            )
        except Exception as error:
            call.refused = error
        return call

    def _read_call(
        self, call: CallHead, timeout: bytes | None, request_id: bytes, traceparent: bytes
    ) -> None:
        """What is of one call."""
        if request_id and _REQUEST_ID.fullmatch(request_id):
            call.request_id = request_id.decode()
        call.traceparent = traceparent.decode("latin-1")
        call.anonymous = not call.request_id and not traceparent
        if timeout is not None:
            found = _TIMEOUT.fullmatch(timeout)
            if found is None:
                raise CallFailed(
                    Status.INVALID_ARGUMENT, f"grpc-timeout is {timeout[:40].decode('latin-1')!r}"
                )
            call.timeout = int(found[1]) * _SECONDS[found[2]]
        call.plainest = call.anonymous and timeout is None

    def _read(self, head: RequestHead, call: CallHead) -> None:
        path = head.path.decode("ascii", "replace")
        method = self.methods.get(path) or self.methods.get(_unquoted(head.path))
        call.metadata = metadata = read_metadata(head)
        timeout = metadata["grpc-timeout"].encode("latin-1") if "grpc-timeout" in metadata else None
        request_id, traceparent = (
            metadata.get(name, "").encode("latin-1") for name in ("x-request-id", "traceparent")
        )
        if method is None:
            self._read_call(call, None, request_id, traceparent)
            services = sorted({known.split("/")[1] for known in self.methods})
            raise CallFailed(
                Status.UNIMPLEMENTED,
                f"there is no method {path[:200]}\n  to mend it: the services are {', '.join(services)}",
            )
        call.method = method
        call.encoding = metadata.get("grpc-encoding", "identity")
        self._read_call(call, timeout, request_id, traceparent)
        if call.encoding not in ENCODINGS:
            raise CallFailed(
                Status.UNIMPLEMENTED,
                f"grpc-encoding {call.encoding[:40]!r} is not one of {', '.join(ENCODINGS)}",
                (ACCEPTS,),
            )

    def authorize(self, call: Call, action: Action, model: str = "") -> None:
        if self.gate is not None:
            self.gate(call, action, model)

    def spawn(self, call: Call, work: Coroutine[Any, Any, None]) -> None:
        """Work that takes more than a tick; its failure is the call's, and the call's end is its own."""
        task = self.loop.create_task(work)
        self._tasks.add(task)

        def done(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            if not task.cancelled():
                error = task.exception()
                if error is not None:
                    call.fail(error)

        task.add_done_callback(done)

    def count_failure(self, call: Call, kind: str) -> None:
        if self.observer is not None:
            self.observer(call, kind)


def _is_grpc(kind: bytes) -> bool:
    """application/grpc, or +proto, with parameters or without; other codecs are not spoken."""
    kind = kind.partition(b";")[0].strip().lower()
    return kind in (b"application/grpc", b"application/grpc+proto")


def _not_grpc(method: bytes) -> tuple[Headers, bytes]:
    status = b"415" if method == b"POST" else b"405"
    headers: Headers = ((b":status", status), (b"content-type", b"text/plain"))
    return (headers if method == b"POST" else (*headers, (b"allow", b"POST"))), (
        b"" if method == b"HEAD" else _NOT_GRPC
    )


def _unquoted(path: bytes) -> str:
    return unquote_to_bytes(path).decode("utf-8", "replace")


def read_metadata(head: RequestHead) -> dict[str, str]:
    """Metadata by name; repeated ones are joined with a comma, -bin ones are checked to be base64."""
    metadata: dict[str, str] = {}
    for raw_name, raw_value in head.headers:
        name, value = raw_name.decode("ascii"), raw_value.decode("latin-1")
        if name.endswith("-bin"):
            for part in value.split(","):
                try:
                    base64.b64decode(part.strip() + "=" * (-len(part.strip()) % 4), validate=True)
                except (binascii.Error, ValueError):
                    raise CallFailed(Status.INTERNAL, f"metadata {name[:80]!r} is not base64") from None
        metadata[name] = f"{metadata[name]},{value}" if name in metadata else value
    return metadata


def metadata_of(head: RequestHead) -> dict[str, str]:
    """Read when somebody asks: few calls need more of them than what CallHead holds."""
    prepared: CallHead = head.prepared
    if prepared.metadata is None:
        prepared.metadata = read_metadata(head)
    return prepared.metadata


_NOTHING = Unary()
"""Stands for the method of a call that is refused by its headers."""
