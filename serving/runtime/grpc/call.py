"""One gRPC call: message framing, compression, deadlines, status; the methods themselves are elsewhere."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from serving.runtime.grpc.infer_codec import frame
from serving.runtime.grpc.status import (
    CONTENT_TYPE,
    STATUS_OK,
    CallFailed,
    Status,
    explain,
    kind_of,
    trailers,
)
from serving.runtime.http2 import Fields, Headers, Stream, literal
from serving.runtime.tracing import Trace, parse_traceparent
from slipway.errors import DeadlineExceeded, ModelNotReady, PayloadTooLarge, SlipwayError

if TYPE_CHECKING:
    from serving.runtime.grpc.application import GrpcApplication

log = logging.getLogger("slipway.grpc")

ENCODINGS = ("identity", "deflate", "gzip")
ACCEPTS = (b"grpc-accept-encoding", b",".join(name.encode() for name in ENCODINGS))
ANSWER_HEADERS = Fields(STATUS_OK, CONTENT_TYPE, ACCEPTS)
OK_TRAILERS = Fields((b"grpc-status", b"0"))
_WINDOW_BITS = {"deflate": zlib.MAX_WBITS, "gzip": zlib.MAX_WBITS | 16}


class CallHead(msgspec.Struct, eq=False):
    """What the headers of a call mean; shared by all calls with the same headers."""

    method: Any = None
    metadata: dict[str, str] | None = None
    encoding: str = "identity"
    timeout: float | None = None
    refused: Exception | None = None
    """Why the call cannot be taken."""
    plain: tuple[Headers, bytes] | None = None
    """Answer to an HTTP client that speaks no gRPC."""
    request_id: str = ""
    traceparent: str = ""
    anonymous: bool = True
    """Neither an id nor a trace has to be given back."""
    plainest: bool = False
    """Nor is there a deadline, nor anything wrong."""
    template: Any = None
    """The method's own, of the first head of its kind: what the last call looked like, and how many
    before it looked the same."""
    alike: int = 0

    def trace(self) -> Trace | None:
        """A span of its own for every call."""
        return parse_traceparent(self.traceparent) if self.traceparent else None


class Call(Stream):
    """Unary calls hand one whole message to their method; streaming calls hand each as it comes."""

    application: ClassVar[GrpcApplication]
    """Set once, on a subclass, so that no call carries it."""

    arrived: float = 0.0
    request: Any = None
    """The engine's request, to be dropped when nobody waits."""
    buffer: bytearray | None = None
    expected: int = -1
    """Bytes of the message that is coming, with its prefix; -1 while the prefix is not whole."""
    timer: Any = None
    on_cancel: Callable[[], None] | None = None
    model: str = ""
    """The name in the message, once it is read: for counting errors."""
    state: Any = None
    """A streaming method's own."""

    # -- the stream's events -----------------------------------------------------------------------

    def begin(self) -> None:
        head: CallHead = self.head.prepared
        self.arrived = perf_counter()
        if head.plain is not None:
            if self.remote_closed:
                self._answer_plainly(head.plain)
            return
        if head.refused is not None:
            self.fail(head.refused)
            return
        if head.timeout is not None:
            self.deadline = self.arrived + head.timeout
            self.application.deadlines.watch(self.deadline)
        method = head.method
        if method.client_streaming and not self.closed:
            self.guard(method.open, self)
        elif self.remote_closed:
            self.fail(CallFailed(Status.INTERNAL, "the call has no message"))

    def receive(self, data: bytes, start: int, stop: int) -> None:
        head: CallHead = self.head.prepared
        if head.plain is not None:
            # Not before the request is whole: what breaks HTTP/2 in the rest of it has to be told as such.
            if self.remote_closed:
                self._answer_plainly(head.plain)
            return
        method = head.method
        if (
            self.remote_closed
            and self.buffer is None
            and method.unary
            and stop - start >= 5
            and data[start] == 0
            and int.from_bytes(data[start + 1 : start + 5], "big") == stop - start - 5
            and stop - start - 5 <= self.application.max_message
        ):
            try:
                method.call(self, data, start + 5, stop)
            except Exception as error:
                self.fail(error)
            return
        self.guard(self._collect, data, start, stop)

    def cancelled(self) -> None:
        self._drop()
        if self.on_cancel is not None:
            self.on_cancel()

    def overdue(self, now: float) -> None:
        """The server's own limit, for calls that bring none."""
        if (
            self.deadline is None
            and not self.head.prepared.method.long
            and self.arrived + self.application.default_timeout < now
        ):
            self.too_late()

    @property
    def waits_for_peer(self) -> bool:
        if self.remote_closed or self.held:
            return False
        return self.buffer is not None or not self.head.prepared.method.client_streaming

    # -- messages ----------------------------------------------------------------------------------

    def _collect(self, data: bytes, start: int, stop: int) -> None:
        """Messages that come in pieces, in company, or compressed."""
        buffer = self.buffer
        if buffer is None:
            buffer = self.buffer = bytearray()
        if stop > start:
            buffer += memoryview(data)[start:stop]
            self.application.buffered += stop - start
        method = self.head.prepared.method
        while True:
            if self.expected < 0:
                if len(buffer) < 5:
                    break
                self.expected = 5 + int.from_bytes(buffer[1:5], "big")
                self._check_size(self.expected - 5)
            if len(buffer) < self.expected:
                break
            if method.unary and (len(buffer) > self.expected or not self.remote_closed):
                if len(buffer) > self.expected:
                    raise CallFailed(Status.INTERNAL, "a unary call takes one message, and more came")
                break
            message = self._take(buffer)
            if method.unary:
                method.call(self, message, 0, len(message))
                return
            method.message(self, message)
            if self.closed:
                return
        if self.application.buffered > self.application.max_buffered:
            raise CallFailed(
                Status.RESOURCE_EXHAUSTED, "too much is being received at once; try again, or send less"
            )
        if self.remote_closed:
            if buffer or method.unary:
                raise CallFailed(Status.INTERNAL, "the call ends inside a message")
            method.end(self)
        elif not buffer:
            self.buffer = None

    def _check_size(self, size: int) -> None:
        if size > self.application.max_message:
            raise PayloadTooLarge(
                f"a message of {size} bytes, and this server takes {self.application.max_message}",
                fix="send fewer rows at once, or raise --max-body",
            )

    def _take(self, buffer: bytearray) -> bytes:
        expected = self.expected
        flag = buffer[0]
        payload = bytes(memoryview(buffer)[5:expected])
        del buffer[:expected]
        self.application.buffered -= expected
        self.expected = -1
        if flag == 0:
            return payload
        if flag != 1:
            raise CallFailed(Status.INTERNAL, f"a message begins with {flag}, not with 0 or 1")
        encoding = self.head.prepared.encoding
        if encoding == "identity":
            raise CallFailed(Status.INTERNAL, "a message is compressed, and grpc-encoding does not say how")
        return self._inflate(payload, encoding)

    def _inflate(self, payload: bytes, encoding: str) -> bytes:
        """Never more than a message may have: a bomb is given up where it passes the limit."""
        limit = self.application.max_message
        inflater = zlib.decompressobj(_WINDOW_BITS[encoding])
        try:
            message = inflater.decompress(payload, limit + 1)
        except zlib.error as error:
            raise CallFailed(Status.INTERNAL, f"a message is no {encoding}: {error}") from None
        if len(message) > limit:
            self._check_size(len(message))
        if not inflater.eof or inflater.unused_data:
            raise CallFailed(Status.INTERNAL, f"a {encoding} message is cut off, or something follows it")
        return message

    # -- answers -----------------------------------------------------------------------------------

    def reply(self, message: bytes, headers: Fields = ANSWER_HEADERS, extra: bytes = b"") -> None:
        """The answer of a unary call."""
        self._settle(Status.OK)
        self.respond(headers, extra, frame(message), OK_TRAILERS)

    def send_message(self, message: bytes) -> None:
        """One of the answers of a streaming call."""
        if not self.answered:
            self.send_headers(ANSWER_HEADERS, self.identity())
        self.send_data(frame(message))

    def finish(self) -> None:
        self._settle(Status.OK)
        if not self.answered:
            self.send_headers(ANSWER_HEADERS, self.identity())
        self.send_trailers(OK_TRAILERS)

    def identity(self) -> bytes:
        """The request's id as a header: the client's, or one made here for what the engine works on."""
        given = self._known_id()
        return literal(b"x-request-id", given.encode("ascii")) if given else b""

    def _known_id(self) -> str:
        given: str = self.head.prepared.request_id
        if self.request is not None:
            given = self.request.request_id = given or self.request.request_id or self.application.ids.new()
        return given

    def fail(self, error: BaseException) -> None:
        if self.closed:
            return
        status, message, extra = explain(error)
        identity = self.identity()
        if self.request is not None:
            self.model = self.request.model.name
        self.application.count_failure(self, kind_of(error))
        if status is Status.INTERNAL and isinstance(error, SlipwayError):
            log.error(
                "%s",
                message,
                extra={
                    "request_id": self._known_id(),
                    "kind": kind_of(error),
                    "path": self.head.path.decode("latin-1"),
                },
            )
        self._settle(status)
        end = trailers(status, message, extra)
        if self.answered:
            self.send_trailers(end)
        else:
            self.send_headers((STATUS_OK, CONTENT_TYPE, *end), identity, end=True)

    def guard(self, work: Callable[..., None], *arguments: Any) -> None:
        try:
            work(*arguments)
        except Exception as error:
            self.fail(error)

    def _answer_plainly(self, plain: tuple[Headers, bytes]) -> None:
        headers, body = plain
        self.application.count_failure(self, "NotGrpc")
        self.send_headers(headers)
        self.send_data(body, end=True)

    # -- deadlines and the end ---------------------------------------------------------------------

    def too_late(self) -> None:
        if self.closed:
            return
        waited = perf_counter() - self.arrived
        if self.request is not None:
            self.request.cancelled = True
        self.fail(
            DeadlineExceeded(
                f"no answer within the deadline, after {waited * 1000:.0f} ms", fix="give it longer"
            )
        )
        if self.on_cancel is not None:
            self.on_cancel()

    def limit(self, deadline: float) -> None:
        """An earlier deadline, which the message names."""
        if self.deadline is None or deadline < self.deadline:
            self.deadline = deadline
            self.application.deadlines.watch(deadline)

    def abandoned(self) -> None:
        request = self.request
        if request is not None:
            request.cancelled = True
        self.fail(ModelNotReady("the server is shutting down", fix="ask again, another replica will answer"))
        if self.on_cancel is not None:
            self.on_cancel()

    def _settle(self, status: Status) -> None:
        """The call is over."""
        ended = self.application.ended
        if ended is not None:
            ended(self, status, perf_counter())
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        if self.buffer:
            self.application.buffered -= len(self.buffer)
        self.buffer = None
        self.request = None

    def _drop(self) -> None:
        """Nobody waits any more."""
        request = self.request
        if request is not None:
            request.cancelled = True
        self._settle(Status.CANCELLED)
