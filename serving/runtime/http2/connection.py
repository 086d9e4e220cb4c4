"""The receiving half of an HTTP/2 server connection (RFC 9113), as an asyncio protocol.

One loop walks the frames of what came in, without an object a frame. Requests are told to the application
through its Stream subclass; answers go out through `Sender`.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Protocol, cast

from serving.runtime.http2 import codes
from serving.runtime.http2.blocks import Blocks
from serving.runtime.http2.codes import FRAME, WORD, ConnectionFault, ErrorCode, MalformedRequest
from serving.runtime.http2.control import RESET_COST
from serving.runtime.http2.hpack import Header, HeaderDecoder, Headers
from serving.runtime.http2.limits import Limits
from serving.runtime.http2.patterns import WINDOW_BYTES
from serving.runtime.http2.request import RequestHead, check_trailers, fixed_headers
from serving.runtime.http2.stream import Stream
from serving.runtime.http2.taking import Taking

log = logging.getLogger(__name__)

_unpack = FRAME.unpack_from
_word = WORD.unpack_from
_CACHED_BLOCK = 1024
_CACHED_BLOCKS = 64
_CACHED_BASES = 32
_SKIPPED_RANGES = 32


class Application(Protocol):
    """What answers the requests."""

    @property
    def stream(self) -> type[Stream]: ...

    @property
    def headers_too_large(self) -> Headers:
        """The answer to a request whose headers pass the limit."""

    @property
    def not_http2(self) -> bytes:
        """What an HTTP/1 client is told, with its head."""

    def prepare(self, head: RequestHead) -> Any:
        """What the application makes of a header block; kept as long as the block comes again."""

    def vary(self, head: RequestHead) -> Any:
        """As `prepare`, of a head with the same fixed headers as `head.base`, which was prepared before."""


class Connection(Taking, asyncio.Protocol):
    __slots__ = (
        "_application",
        "_bases",
        "_block",
        "_block_frames",
        "_block_stream",
        "_blocks",
        "_decoder",
        "_heads",
        "_peers",
        "_skipped",
        "heard",
        "make_stream",
        "more",
    )

    def __init__(
        self,
        application: Application,
        limits: Limits,
        loop: asyncio.AbstractEventLoop,
        peers: set[Connection],
    ) -> None:
        super().__init__(limits, loop)
        self._application = application
        self.make_stream = application.stream
        self._peers = peers
        self._decoder = HeaderDecoder(limits.header_list)
        self._heads: dict[bytes, RequestHead] = {}
        self._blocks = Blocks()
        self._bases: dict[tuple[Header, ...], RequestHead] = {}
        self._skipped: list[tuple[int, int]] = []
        self._block = bytearray()
        self._block_frames = 0
        self._block_stream = (0, False, False)
        self.heard = True
        """Something came in since the front's last sweep."""
        self.more = False
        """More frames came with what a stream receives than the window update that C-core sends behind it."""

    @property
    def continuing(self) -> bool:
        """A header block is not whole."""
        return self._continuing

    @property
    def certificate(self) -> Any:
        """What the TLS layer verified, as ssl.getpeercert gives it; None without one."""
        return self._transport.get_extra_info("peercert") if self._transport is not None else None

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast(asyncio.Transport, transport)
        transport.set_write_buffer_limits(self.limits.write_buffer)
        self._peers.add(self)
        if len(self._peers) > self.limits.connections:
            self.fail(ErrorCode.ENHANCE_YOUR_CALM, "too many open connections")

    def introduce(self) -> None:
        """Our half of the preface; not before the peer's: a client of HTTP/1 would take it for the answer."""
        limits = self.limits
        settings = (
            (codes.MAX_CONCURRENT_STREAMS, limits.concurrent_streams),
            (codes.INITIAL_WINDOW_SIZE, limits.stream_window),
            (codes.MAX_FRAME_SIZE, limits.frame_size),
            (codes.MAX_HEADER_LIST_SIZE, limits.header_list),
        )
        payload = b"".join(key.to_bytes(2, "big") + value.to_bytes(4, "big") for key, value in settings)
        self._frame(codes.SETTINGS, 0, 0, payload)
        self._frame(codes.WINDOW_UPDATE, 0, 0, WORD.pack(limits.connection_window - codes.DEFAULT_WINDOW))

    def connection_lost(self, exc: Exception | None) -> None:
        self._peers.discard(self)
        self._transport = None
        self.owed = None
        self._out.clear()
        for stream in list(self.streams.values()):
            self.forget(stream)
            stream.cancelled()
        self._rest = b""

    def eof_received(self) -> bool | None:
        return None  # the peer hung up: the transport closes, connection_lost cancels

    def data_received(self, data: bytes) -> None:
        self.heard = True
        if self._faulted:
            return
        if self._rest:
            data = self._rest + data
            self._rest = b""
        # What is answered at once leaves at once, without another turn of the loop.
        scheduled = self._flushing
        self._flushing = True
        try:
            if self.owed is not None:
                self.owed()
            position = 0 if self.greeted else self._greet(data)
            if position >= 0:
                position = self._walk(data, position)
                if position < len(data):
                    self._rest = data[position:]
            else:
                self._rest = data
        except ConnectionFault as fault:
            self._found.clear()
            self.fail(fault.code, fault.reason)
        except Exception:
            log.exception("the HTTP/2 front failed on a connection")
            self._found.clear()
            self.fail(ErrorCode.INTERNAL_ERROR, "an error of the server")
        if not scheduled:
            self._flushing = False
            if self._out:
                self._flush()

    # Frames

    def _greet(self, data: bytes) -> int:
        """Where the first frame begins, or -1 while the preface is not whole."""
        if self._faulted:
            return len(data)
        preface = codes.PREFACE
        if data.startswith(preface):
            self.greeted = True
            self.introduce()
            if len(data) >= len(preface) + 4 and data[len(preface) + 3] != codes.SETTINGS:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "the first frame is not SETTINGS")
            return len(preface)
        if preface.startswith(data):
            return -1
        if b"HTTP/1." in data[:4096].partition(b"\n")[0]:
            self._write(self._application.not_http2)
            self._faulted = True
            self._hang_up()
            return len(data)
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "no HTTP/2 preface")

    def _walk(self, data: bytes, position: int) -> int:
        """Take the whole frames; the answer is where the first unfinished one begins."""
        length = len(data)
        limits = self.limits
        frame_size, window = limits.frame_size, limits.connection_window
        streams = self.streams
        while length - position >= 9:
            usual = self._usual
            if usual is not None:
                position = self._take_usual(usual, data, position)
                if length - position < 9:
                    break
            first, flags, stream_id = _unpack(data, position)
            size = first >> 8
            kind = first & 0xFF
            if size > frame_size:
                raise ConnectionFault(
                    ErrorCode.FRAME_SIZE_ERROR, f"a frame of {size} bytes, the settings allow {frame_size}"
                )
            start = position + 9
            stop = start + size
            if stop > length:
                break
            position = stop
            if self._faulted:
                return length
            if stream_id > codes.LARGEST_STREAM_ID:
                stream_id &= codes.LARGEST_STREAM_ID  # the reserved bit is ignored
            if self._continuing and kind != codes.CONTINUATION:
                raise ConnectionFault(
                    ErrorCode.PROTOCOL_ERROR, "another frame stands between HEADERS and CONTINUATION"
                )
            if kind == codes.HEADERS:
                position = self._headers(flags, stream_id, data, start, stop)
                continue
            if self._found and (kind != codes.WINDOW_UPDATE or stream_id):
                self._hand_over()
            if kind == codes.DATA:
                self._consumed += size
                if self._consumed > window:
                    raise ConnectionFault(
                        ErrorCode.FLOW_CONTROL_ERROR, "more data than the connection's window"
                    )
                if self._consumed * 2 > window:
                    self._frame(codes.WINDOW_UPDATE, 0, 0, WORD.pack(self._consumed))
                    self._consumed = 0
                stream = streams.get(stream_id)
                if stream is None or stream.remote_closed:
                    self._data_on_closed(stream, stream_id)
                    continue
                if flags & codes.PADDED:
                    start, stop = _unpad(data, start, stop)
                if not flags & codes.END_STREAM or stream.consumed:
                    stream.consumed += size
                    if stream.consumed > limits.stream_window:
                        self._cancel(stream, ErrorCode.FLOW_CONTROL_ERROR)
                        continue
                    if size == 0 and not flags & codes.END_STREAM:
                        self._annoy(1)
                elif size > limits.stream_window:
                    self._cancel(stream, ErrorCode.FLOW_CONTROL_ERROR)
                    continue
                stream.received += stop - start
                if flags & codes.END_STREAM:
                    stream.remote_closed = True
                if stream.head.content_length is not None and not self._fits_length(stream):
                    continue
                self.more = length - position > WINDOW_BYTES
                stream.receive(data, start, stop)
                if (
                    stream.consumed * 2 > limits.stream_window
                    and not stream.held
                    and not stream.remote_closed
                    and not stream.closed
                ):
                    self.return_credit(stream)
            elif kind == codes.CONTINUATION:
                self._continuation(flags, stream_id, data[start:stop])
            else:
                self._frame_of_control(kind, flags, stream_id, data[start:stop])
        if self._found:
            self._hand_over()
        return position

    def _fits_length(self, stream: Stream) -> bool:
        length = stream.head.content_length
        if stream.received > length or (stream.remote_closed and stream.received != length):
            self._cancel(stream, ErrorCode.PROTOCOL_ERROR)
            return False
        return True

    def _data_on_closed(self, stream: Stream | None, stream_id: int) -> None:
        if stream is not None:
            self._cancel(stream, ErrorCode.STREAM_CLOSED)
        elif stream_id == 0 or stream_id > self._last_id or stream_id % 2 == 0:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"DATA on stream {stream_id}, which is not open")
        elif stream_id not in self._refused:
            self._annoy(RESET_COST)
            self.send_reset(stream_id, ErrorCode.STREAM_CLOSED)

    # Headers

    def _headers(self, flags: int, stream_id: int, data: bytes, start: int, stop: int) -> int:
        """The answer is where the next frame begins that has not been taken."""
        depends_on_itself = False
        after = stop
        if flags & (codes.PADDED | codes.PRIORITY_FLAG):
            if flags & codes.PADDED:
                start, stop = _unpad(data, start, stop)
            if flags & codes.PRIORITY_FLAG:
                if stop - start < 5:
                    raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "HEADERS is too short for its priority")
                depends_on_itself = _word(data, start)[0] & codes.LARGEST_STREAM_ID == stream_id
                start += 5
        ended = bool(flags & codes.END_STREAM)
        if flags & codes.END_HEADERS:
            return self._header_block(stream_id, ended, depends_on_itself, data[start:stop], data, after)
        self._continuing = True
        self._block = bytearray(data[start:stop])
        self._block_frames = 0
        self._block_stream = (stream_id, ended, depends_on_itself)
        return after

    def _continuation(self, flags: int, stream_id: int, payload: bytes) -> None:
        if not self._continuing or stream_id != self._block_stream[0]:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "CONTINUATION follows no HEADERS of its stream")
        self._block += payload
        self._block_frames += 1
        if len(self._block) > self.limits.header_block or self._block_frames > self.limits.continuations:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "a header block without end")
        if flags & codes.END_HEADERS:
            self._continuing = False
            block, self._block = bytes(self._block), bytearray()
            self._header_block(*self._block_stream, block)

    def _header_block(
        self,
        stream_id: int,
        ended: bool,
        depends_on_itself: bool,
        block: bytes,
        data: bytes = b"",
        after: int = 0,
    ) -> int:
        """`after` is where in `data` the next frame begins; the answer, where the next that is not taken."""
        if stream_id <= self._last_id or stream_id % 2 == 0:
            self._hand_over()
            self._headers_again(stream_id, ended, block)
            return after
        if stream_id > self._last_id + 2:
            del self._skipped[: len(self._skipped) - _SKIPPED_RANGES + 1]
            self._skipped.append((self._last_id, stream_id))
        self._last_id = stream_id
        head = self._heads.get(block)
        if head is not None:
            if head.base.pattern is not None:
                self._learn_usual(head, block)
        else:
            try:
                head = self._blocks.find(block)
                if head is None:
                    head = self._decode_head(block)
                else:
                    head.prepared = self._application.vary(head)
            except MalformedRequest as error:
                log.debug("stream %d: %s", stream_id, error)
                self._refuse(stream_id, ErrorCode.PROTOCOL_ERROR)
                return after
        if depends_on_itself:
            self._refuse(stream_id, ErrorCode.PROTOCOL_ERROR)
            return after
        if len(self.streams) + len(self._found) >= self.limits.concurrent_streams:
            self._refuse(stream_id, ErrorCode.REFUSED_STREAM)
            return after
        if stream_id > self._drained_above:
            return after  # the last GOAWAY told the peer that it is not taken
        if head is None:
            stream = Stream(self, stream_id, None, self.initial_window)
            stream.remote_closed = ended
            self.streams[stream_id] = stream
            self._annoy(RESET_COST)
            stream.send_headers(self._application.headers_too_large, end=True)
            return after
        pattern = head.base.pattern
        if pattern is not None and not ended:
            beyond = self._take_body(pattern, head, stream_id, data, after)
            if beyond > after:
                return beyond
        stream = self.make_stream(self, stream_id, head, self.initial_window)
        self.streams[stream_id] = stream
        if ended:
            stream.remote_closed = True
            if head.content_length:
                self._cancel(stream, ErrorCode.PROTOCOL_ERROR)
                return after
        stream.begin()
        return after

    def _decode_head(self, block: bytes) -> RequestHead | None:
        changes = self._decoder.changes
        headers = self._decoder.decode(block)
        changed = self._decoder.changes != changes
        if changed:
            self._forget_heads()
        if headers is None:
            return None
        base = self._bases.get(fixed_headers(headers))
        head = base.varied(headers) if base is not None else None
        if head is not None:
            head.prepared = self._application.vary(head)
        else:
            head = RequestHead(headers)
            head.prepared = self._application.prepare(head)
            if len(self._bases) >= _CACHED_BASES:
                self._bases.clear()
            self._bases.setdefault(head.key, head)
        if not changed and len(block) <= _CACHED_BLOCK:
            if len(self._heads) >= _CACHED_BLOCKS:
                del self._heads[next(iter(self._heads))]
            self._heads[block] = head
            self._blocks.learn(block, head, self.limits.header_list)
        return head

    def _forget_heads(self) -> None:
        """The decoder's table is another: the same bytes may mean something else now."""
        self._heads.clear()
        self._blocks.clear()
        self._usual = None

    def _headers_again(self, stream_id: int, ended: bool, block: bytes) -> None:
        """HEADERS on a stream that there was already: trailers, or an error."""
        stream = self.streams.get(stream_id)
        if stream is None:
            if stream_id == 0 or stream_id % 2 == 0:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"clients do not open stream {stream_id}")
            if any(low < stream_id < high for low, high in self._skipped):
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"stream {stream_id} comes after later ones")
            if stream_id not in self._refused:
                raise ConnectionFault(
                    ErrorCode.STREAM_CLOSED, f"HEADERS on stream {stream_id}, which is closed"
                )
        changes = self._decoder.changes
        trailers = self._decoder.decode(block)
        if self._decoder.changes != changes:
            self._forget_heads()
        if stream is None:
            return
        if stream.remote_closed:
            self._cancel(stream, ErrorCode.STREAM_CLOSED)
            return
        try:
            check_trailers(trailers or [], ended)
        except MalformedRequest as error:
            log.debug("stream %d: %s", stream_id, error)
            self._cancel(stream, ErrorCode.PROTOCOL_ERROR)
            return
        stream.remote_closed = True
        if stream.head.content_length is None or self._fits_length(stream):
            stream.receive(b"", 0, 0)


def _unpad(data: bytes, start: int, stop: int) -> tuple[int, int]:
    padding = data[start] if start < stop else 0
    if stop - start < 1:
        raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "a padded frame has room for its padding length")
    if padding >= stop - start:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "the padding is longer than the frame")
    return start + 1, stop - padding
