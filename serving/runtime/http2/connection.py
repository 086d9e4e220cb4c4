"""The receiving half of an HTTP/2 server connection (RFC 9113), as an asyncio protocol.

One loop walks the frames of what came in, without an object a frame. Requests are told to the application
through its Stream subclass; answers go out through `Sender`.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Protocol, cast

from serving.runtime.http2 import codes
from serving.runtime.http2.codes import ConnectionFault, ErrorCode, MalformedRequest
from serving.runtime.http2.hpack import HeaderDecoder
from serving.runtime.http2.limits import Limits
from serving.runtime.http2.request import RequestHead, check_trailers
from serving.runtime.http2.sender import FRAME, WORD, Sender
from serving.runtime.http2.stream import Headers, Stream

log = logging.getLogger(__name__)

_unpack = FRAME.unpack_from
_word = WORD.unpack_from
_CACHED_BLOCK = 1024
_CACHED_BLOCKS = 64
_SKIPPED_RANGES = 32
_DRAIN_PING = b"draining"
_ALIVE_PING = b"alive?  "
_RESET_COST = 4


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


class Connection(Sender, asyncio.Protocol):
    __slots__ = (
        "_ahead",
        "_application",
        "_block",
        "_block_frames",
        "_block_stream",
        "_consumed",
        "_continuing",
        "_credit",
        "_credited_answers",
        "_credited_at",
        "_decoder",
        "_drained_above",
        "_faulted",
        "_heads",
        "_last_id",
        "_leaving",
        "_make_stream",
        "_peers",
        "_rest",
        "_skipped",
        "draining",
        "greeted",
        "heard",
        "ping_sent",
        "settings_acknowledged",
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
        self._make_stream = application.stream
        self._peers = peers
        self._decoder = HeaderDecoder(limits.header_list)
        self._heads: dict[bytes, RequestHead] = {}
        self._rest = b""
        self._last_id = 0
        self._skipped: list[tuple[int, int]] = []
        self._consumed = 0
        self._continuing = False
        self._block = bytearray()
        self._block_frames = 0
        self._block_stream = (0, False, False)
        self._credit = limits.nuisance_burst
        self._credited_at = loop.time()
        self._credited_answers = 0
        self._drained_above = codes.LARGEST_STREAM_ID
        self._faulted = False
        self._leaving = False
        # What the front's sweep reads.
        self.greeted = False
        self.settings_acknowledged = False
        self.heard = True
        """Something came in since the last sweep."""
        self.ping_sent = False
        self.draining = False

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast(asyncio.Transport, transport)
        transport.set_write_buffer_limits(self.limits.write_buffer)
        self._peers.add(self)
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
        self._out.clear()
        for stream in list(self.streams.values()):
            self.forget(stream)
            stream.cancelled()
        self._rest = b""

    def eof_received(self) -> bool | None:
        return None  # the peer hung up: the transport closes, connection_lost cancels

    def data_received(self, data: bytes) -> None:
        self.heard = True
        if self._rest:
            data = self._rest + data
            self._rest = b""
        try:
            position = 0 if self.greeted else self._greet(data)
            if position >= 0:
                position = self._walk(data, position)
                if position < len(data):
                    self._rest = data[position:]
            else:
                self._rest = data
        except ConnectionFault as fault:
            self.fail(fault.code, fault.reason)
        except Exception:
            log.exception("the HTTP/2 front failed on a connection")
            self.fail(ErrorCode.INTERNAL_ERROR, "an error of the server")

    # Frames

    def _greet(self, data: bytes) -> int:
        """Where the first frame begins, or -1 while the preface is not whole."""
        if self._faulted:
            return len(data)
        preface = codes.PREFACE
        if data.startswith(preface):
            self.greeted = True
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
                stream.receive(data, start, stop)
                if (
                    stream.consumed * 2 > limits.stream_window
                    and not stream.held
                    and not stream.remote_closed
                    and not stream.closed
                ):
                    self.return_credit(stream)
            elif kind == codes.HEADERS:
                self._headers(flags, stream_id, data, start, stop)
            elif kind == codes.WINDOW_UPDATE:
                self._window_update(stream_id, data, start, size)
            elif kind == codes.PING:
                self._ping(flags, stream_id, data[start:stop])
            elif kind == codes.SETTINGS:
                self._settings(flags, stream_id, data[start:stop])
            elif kind == codes.RST_STREAM:
                self._rst_stream(stream_id, size)
            elif kind == codes.CONTINUATION:
                self._continuation(flags, stream_id, data[start:stop])
            elif kind == codes.PRIORITY:
                self._priority(stream_id, data, start, size)
            elif kind == codes.GOAWAY:
                self._goaway(stream_id, size)
            elif kind == codes.PUSH_PROMISE:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "clients do not push")
            else:
                self._annoy(1)  # unknown kinds are ignored (section 5.5)
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
            self._annoy(_RESET_COST)
            self.send_reset(stream_id, ErrorCode.STREAM_CLOSED)

    # Headers

    def _headers(self, flags: int, stream_id: int, data: bytes, start: int, stop: int) -> None:
        depends_on_itself = False
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
            self._header_block(stream_id, ended, depends_on_itself, data[start:stop])
            return
        self._continuing = True
        self._block = bytearray(data[start:stop])
        self._block_frames = 0
        self._block_stream = (stream_id, ended, depends_on_itself)

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

    def _header_block(self, stream_id: int, ended: bool, depends_on_itself: bool, block: bytes) -> None:
        if stream_id <= self._last_id or stream_id % 2 == 0:
            self._headers_again(stream_id, ended, block)
            return
        if stream_id > self._last_id + 2:
            del self._skipped[: len(self._skipped) - _SKIPPED_RANGES + 1]
            self._skipped.append((self._last_id, stream_id))
        self._last_id = stream_id
        head = self._heads.get(block)
        if head is None:
            try:
                head = self._decode_head(block)
            except MalformedRequest as error:
                log.debug("stream %d: %s", stream_id, error)
                self._refuse(stream_id, ErrorCode.PROTOCOL_ERROR)
                return
        if depends_on_itself:
            self._refuse(stream_id, ErrorCode.PROTOCOL_ERROR)
            return
        if len(self.streams) >= self.limits.concurrent_streams:
            self._refuse(stream_id, ErrorCode.REFUSED_STREAM)
            return
        if stream_id > self._drained_above:
            return  # the last GOAWAY told the peer that it is not taken
        if head is None:
            stream = Stream(self, stream_id, None, self._initial_window)
            stream.remote_closed = ended
            self.streams[stream_id] = stream
            self._annoy(_RESET_COST)
            stream.send_headers(self._application.headers_too_large, end=True)
            return
        stream = self._make_stream(self, stream_id, head, self._initial_window)
        self.streams[stream_id] = stream
        if ended:
            stream.remote_closed = True
            if head.content_length:
                self._cancel(stream, ErrorCode.PROTOCOL_ERROR)
                return
        stream.begin()

    def _decode_head(self, block: bytes) -> RequestHead | None:
        changes = self._decoder.changes
        headers = self._decoder.decode(block)
        changed = self._decoder.changes != changes
        if changed:
            self._heads.clear()
        if headers is None:
            return None
        head = RequestHead(headers)
        head.prepared = self._application.prepare(head)
        if not changed and len(block) <= _CACHED_BLOCK:
            if len(self._heads) >= _CACHED_BLOCKS:
                self._heads.clear()
            self._heads[block] = head
        return head

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
            self._heads.clear()
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

    # The other frames

    def _window_update(self, stream_id: int, data: bytes, start: int, size: int) -> None:
        if size != 4:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "WINDOW_UPDATE has 4 bytes")
        increment = _word(data, start)[0] & codes.LARGEST_WINDOW
        self._annoy(1)
        if stream_id == 0:
            if increment == 0:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a window update of 0")
            self._window += increment
            if self._window > codes.LARGEST_WINDOW:
                raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "the connection's window passes 2^31-1")
            if self._blocked:
                self._pump()
            return
        stream = self.streams.get(stream_id)
        if stream is None:
            self._must_have_been(stream_id, "WINDOW_UPDATE")
            return
        stream.send_window += increment
        if increment == 0:
            self._cancel(stream, ErrorCode.PROTOCOL_ERROR)
        elif stream.send_window > codes.LARGEST_WINDOW:
            self._cancel(stream, ErrorCode.FLOW_CONTROL_ERROR)
        elif stream_id in self._blocked:
            self._pump()

    def _must_have_been(self, stream_id: int, kind: str) -> None:
        if stream_id > self._last_id or stream_id % 2 == 0:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"{kind} on stream {stream_id}, which is idle")

    def _ping(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PING belongs to the connection")
        if len(payload) != 8:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "PING has 8 bytes")
        if flags & codes.ACK:
            self.ping_sent = False
            if payload == _DRAIN_PING and self.draining:
                self.finish_draining()
            return
        self._annoy(1)
        self._frame(codes.PING, codes.ACK, 0, payload)

    def _settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "SETTINGS belong to the connection")
        if flags & codes.ACK:
            if payload:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "an acknowledgement carries no settings")
            self.settings_acknowledged = True
            return
        if len(payload) % 6:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS come in 6 bytes each")
        self._annoy(4 + len(payload) // 6)
        for start in range(0, len(payload), 6):
            key = payload[start] << 8 | payload[start + 1]
            self._setting(key, _word(payload, start + 2)[0])
        self._frame(codes.SETTINGS, codes.ACK, 0, b"")
        if self._blocked:
            self._pump()

    def _setting(self, key: int, value: int) -> None:
        if key == codes.HEADER_TABLE_SIZE:
            self._encoder.limit(value)
        elif key == codes.ENABLE_PUSH:
            if value > 1:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"ENABLE_PUSH is {value}")
        elif key == codes.INITIAL_WINDOW_SIZE:
            if value > codes.LARGEST_WINDOW:
                raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, f"an initial window of {value}")
            change = value - self._initial_window
            self._initial_window = value
            for stream in self.streams.values():
                stream.send_window += change
                if stream.send_window > codes.LARGEST_WINDOW:
                    raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "a stream's window passes 2^31-1")
        elif key == codes.MAX_FRAME_SIZE:
            if not codes.DEFAULT_FRAME_SIZE <= value <= codes.LARGEST_FRAME_SIZE:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"a largest frame of {value}")
            self._peer_frame_size = value

    def _rst_stream(self, stream_id: int, size: int) -> None:
        if size != 4:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "RST_STREAM has 4 bytes")
        stream = self.streams.get(stream_id)
        if stream is None:
            self._must_have_been(stream_id, "RST_STREAM")
            self._annoy(1)
            return
        self._annoy(_RESET_COST)
        self.forget(stream)
        stream.cancelled()
        self.settle()

    def _priority(self, stream_id: int, data: bytes, start: int, size: int) -> None:
        """Checked and ignored: RFC 9113 took priorities out."""
        self._annoy(1)
        if stream_id == 0:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PRIORITY belongs to a stream")
        code = ErrorCode.FRAME_SIZE_ERROR if size != 5 else None
        if size >= 4 and _word(data, start)[0] & codes.LARGEST_STREAM_ID == stream_id:
            code = code or ErrorCode.PROTOCOL_ERROR
        if code is None:
            return
        stream = self.streams.get(stream_id)
        if stream is not None:
            self._cancel(stream, code)
        else:
            self.send_reset(stream_id, code)

    def _goaway(self, stream_id: int, size: int) -> None:
        if stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "GOAWAY belongs to the connection")
        if size < 8:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "GOAWAY has at least 8 bytes")
        self._leaving = True  # it opens no more streams: what is open is answered, then we close
        self.settle()

    # Errors and limits

    def _cancel(self, stream: Stream, code: ErrorCode) -> None:
        """A stream error."""
        self._annoy(_RESET_COST)
        self.reset_stream(stream, code)
        stream.cancelled()

    def _refuse(self, stream_id: int, code: ErrorCode) -> None:
        self._annoy(_RESET_COST)
        self.send_reset(stream_id, code)

    def _annoy(self, cost: int) -> None:
        """Frames that bring nothing draw on a credit, which answers and time fill up again."""
        self._credit -= cost
        if self._credit < 0:
            now = self._loop.time()
            earned = int((now - self._credited_at) * self.limits.nuisance_per_second) + self.earned
            earned += 8 * (self.answered - self._credited_answers)
            self._credited_at, self._credited_answers, self.earned = now, self.answered, 0
            self._credit = min(self._credit + earned, self.limits.nuisance_burst)
            if self._credit < 0:
                raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "too many resets, pings or empty frames")

    def fail(self, code: ErrorCode, reason: str) -> None:
        """A connection error: say why, drop all streams, hang up."""
        if self._faulted:
            return
        self._faulted = True
        log.debug("closing a connection: %s: %s", code.name, reason)
        for stream in list(self.streams.values()):
            self.forget(stream)
            stream.cancelled()
        self._frame(codes.GOAWAY, 0, 0, WORD.pack(self._last_id) + WORD.pack(code) + reason.encode())
        self._hang_up()

    def _hang_up(self) -> None:
        """Send what is to be sent, then end our side only: closing with unread input resets the connection,
        and the peer would never read why. The front's sweep closes what the peer leaves open."""
        self._rest = b""
        self._flush()
        if self._transport is None:
            return
        if self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self._transport.close()

    # What the front calls

    @property
    def faulted(self) -> bool:
        return self._faulted

    @property
    def continuing(self) -> bool:
        """A header block is not whole."""
        return self._continuing

    @property
    def unread(self) -> int | None:
        """Bytes of output that the peer does not read; None while it reads."""
        if not self._paused or self._transport is None:
            return None
        return self._transport.get_write_buffer_size()

    def give_up(self, stream: Stream) -> None:
        """The stream made no progress for too long."""
        self.reset_stream(stream, ErrorCode.CANCEL)
        stream.cancelled()

    def ping(self) -> None:
        self.ping_sent = True
        self._frame(codes.PING, 0, 0, _ALIVE_PING)

    def drain(self) -> None:
        """First step: no new streams, please. Those that are under way to us are still taken."""
        if self.draining or self._faulted:
            return
        self.draining = True
        if not self.greeted:
            self.close()
            return
        self._frame(codes.GOAWAY, 0, 0, WORD.pack(codes.LARGEST_STREAM_ID) + WORD.pack(ErrorCode.NO_ERROR))
        self._frame(codes.PING, 0, 0, _DRAIN_PING)

    def finish_draining(self) -> None:
        """Second step, when the peer has seen the first: the last stream that is taken."""
        if self._drained_above == codes.LARGEST_STREAM_ID and not self._faulted:
            self._drained_above = self._last_id
            self._leaving = True
            self._frame(codes.GOAWAY, 0, 0, WORD.pack(self._last_id) + WORD.pack(ErrorCode.NO_ERROR))
            self.settle()

    def settle(self) -> None:
        if self._leaving and not self.streams and not self._faulted:
            self.close()

    def close(self) -> None:
        self._flush()
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()


def _unpad(data: bytes, start: int, stop: int) -> tuple[int, int]:
    padding = data[start] if start < stop else 0
    if stop - start < 1:
        raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "a padded frame has room for its padding length")
    if padding >= stop - start:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "the padding is longer than the frame")
    return start + 1, stop - padding
