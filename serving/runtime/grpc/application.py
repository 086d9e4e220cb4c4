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
from serving.runtime.grpc.methods import Unary
from serving.runtime.grpc.request_ids import RequestIds
from serving.runtime.grpc.status import CONTENT_TYPE, STATUS_OK, CallFailed, Status, trailers
from serving.runtime.http2 import Headers, RequestHead

_TIMEOUT = re.compile(r"(\d{1,8})([HMSmun])")
_SECONDS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_NOT_GRPC = b"This port speaks gRPC over HTTP/2. The REST API is on the HTTP port.\n"
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")

Gate = Callable[[Call, Action, str], None]
"""The access policy, asked for every call when its message has been read: what is to be done with which
model ("" for what concerns none). Raises Unauthorized or Forbidden."""
Observer = Callable[[Call, str], None]
"""Told of every call that fails, and the kind of failure."""


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
    ) -> None:
        self.methods = methods
        self.loop = loop
        self.ids = ids
        self.max_message = max_message
        self.max_buffered = max(max_buffered, 2 * max_message)
        self.default_timeout = default_timeout
        self.gate = gate
        self.observer = observer
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

    def _read(self, head: RequestHead, call: CallHead) -> None:
        path = head.path.decode("ascii", "replace")
        method = self.methods.get(path) or self.methods.get(_unquoted(head.path))
        call.metadata = metadata = read_metadata(head)
        call.request_id = metadata.get("x-request-id", "")
        if not _REQUEST_ID.fullmatch(call.request_id):
            call.request_id = ""
        call.traceparent = metadata.get("traceparent", "")
        call.anonymous = not call.request_id and not call.traceparent
        if method is None:
            services = sorted({known.split("/")[1] for known in self.methods})
            raise CallFailed(
                Status.UNIMPLEMENTED,
                f"there is no method {path[:200]}\n  to mend it: the services are {', '.join(services)}",
            )
        call.method = method
        call.encoding = metadata.get("grpc-encoding", "identity")
        if call.encoding not in ENCODINGS:
            raise CallFailed(
                Status.UNIMPLEMENTED,
                f"grpc-encoding {call.encoding[:40]!r} is not one of {', '.join(ENCODINGS)}",
                (ACCEPTS,),
            )
        timeout = metadata.get("grpc-timeout")
        if timeout is not None:
            found = _TIMEOUT.fullmatch(timeout)
            if found is None:
                raise CallFailed(Status.INVALID_ARGUMENT, f"grpc-timeout is {timeout[:40]!r}")
            call.timeout = int(found[1]) * _SECONDS[found[2]]

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


_NOTHING = Unary()
"""Stands for the method of a call that is refused by its headers."""
