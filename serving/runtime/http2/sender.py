"""The sending half of a connection: frames out, flow control, and no more unread output than the limit."""

from __future__ import annotations

import asyncio
from collections import deque
from struct import Struct

from serving.runtime.http2 import codes
from serving.runtime.http2.codes import ErrorCode
from serving.runtime.http2.hpack import HeaderEncoder
from serving.runtime.http2.limits import Limits
from serving.runtime.http2.stream import Headers, Stream

FRAME = Struct(">IBI")
"""Length and type (24 + 8 bits) as one number, flags, stream."""
WORD = Struct(">I")

_pack = FRAME.pack
_JOIN_LIMIT = 1 << 16
"""Below it, copying chunks together is cheaper than a vectored write."""
_EARNED_BY_DATA = 4


class Sender:
    """Chunks gather in a list and leave once a loop tick: one system call for all answers of a batch."""

    __slots__ = (
        "_blocked",
        "_encoder",
        "_flushing",
        "_initial_window",
        "_loop",
        "_out",
        "_out_size",
        "_paused",
        "_peer_frame_size",
        "_refused",
        "_transport",
        "_window",
        "answered",
        "earned",
        "limits",
        "streams",
    )

    def __init__(self, limits: Limits, loop: asyncio.AbstractEventLoop) -> None:
        self.limits = limits
        self.streams: dict[int, Stream] = {}
        self.answered = 0
        """Streams that we brought to their end."""
        self.earned = 0
        """Credit for the frames with which a peer takes up large answers."""
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._encoder = HeaderEncoder()
        self._out: list[bytes | memoryview] = []
        self._out_size = 0
        self._flushing = False
        self._paused = False
        self._window = codes.DEFAULT_WINDOW
        self._initial_window = codes.DEFAULT_WINDOW
        self._peer_frame_size = codes.DEFAULT_FRAME_SIZE
        self._blocked: dict[int, Stream] = {}
        self._refused: dict[int, None] = {}
        """Streams that we reset: the peer may send on them until it knows."""

    # Output.

    def _write(self, chunk: bytes | memoryview) -> None:
        self._out.append(chunk)
        self._out_size += len(chunk)
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        out = self._out
        if not out or self._transport is None:
            return
        small = self._out_size <= _JOIN_LIMIT
        self._out = []
        self._out_size = 0
        if len(out) == 1:
            self._transport.write(out[0])
        elif small:
            self._transport.write(b"".join(out))
        else:
            self._transport.writelines(out)

    def _frame(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        self._write(_pack(len(payload) << 8 | kind, flags, stream_id) + payload)

    def pause_writing(self) -> None:
        """The peer does not read. Whoever does not read is not read from either: nothing piles up."""
        self._paused = True
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._paused = False
        if self._transport is not None:
            self._transport.resume_reading()
        self._pump()

    # Answers.

    def send_response(self, stream: Stream, headers: Headers, data: bytes, trailers: Headers) -> None:
        size = len(data)
        if (
            size > self._window
            or size > stream.send_window
            or size > self._peer_frame_size
            or self._paused
            or stream.pending
        ):
            self.send_headers(stream, headers, False)
            self.send_data(stream, data, None, False)
            self.send_data(stream, b"", trailers, True)
            return
        self._window -= size
        block = self._encoder.encode(headers)
        end_block = self._encoder.encode(trailers)
        stream_id = stream.id
        if len(block) > self._peer_frame_size or len(end_block) > self._peer_frame_size:
            self._header_frames(stream_id, block, False)
            self._frame(codes.DATA, 0, stream_id, data)
            self._header_frames(stream_id, end_block, True)
        else:
            chunk = b"".join(
                (
                    _pack(len(block) << 8 | codes.HEADERS, codes.END_HEADERS, stream_id),
                    block,
                    _pack(size << 8 | codes.DATA, 0, stream_id),
                    data,
                    _pack(
                        len(end_block) << 8 | codes.HEADERS, codes.END_HEADERS | codes.END_STREAM, stream_id
                    ),
                    end_block,
                )
            )
            # The inside of _write, once for each answer.
            self._out.append(chunk)
            self._out_size += len(chunk)
            if not self._flushing:
                self._flushing = True
                self._loop.call_soon(self._flush)
        self._finish(stream)

    def send_headers(self, stream: Stream, headers: Headers, end: bool) -> None:
        block = self._encoder.encode_once(headers) if end else self._encoder.encode(headers)
        self._header_frames(stream.id, block, end)
        if end:
            self._finish(stream)

    def _header_frames(self, stream_id: int, block: bytes, end: bool) -> None:
        size = self._peer_frame_size
        flags = codes.END_STREAM if end else 0
        if len(block) <= size:
            self._frame(codes.HEADERS, flags | codes.END_HEADERS, stream_id, block)
            return
        self._frame(codes.HEADERS, flags, stream_id, block[:size])
        for start in range(size, len(block), size):
            last = codes.END_HEADERS if start + size >= len(block) else 0
            self._frame(codes.CONTINUATION, last, stream_id, block[start : start + size])

    def send_data(
        self, stream: Stream, data: bytes | memoryview, trailers: Headers | None, end: bool
    ) -> None:
        if stream.pending is None:
            stream.pending = deque()
        stream.pending.append((data, trailers, end))
        if stream.id not in self._blocked:
            while stream.pending:
                if not self._advance(stream):
                    self._blocked[stream.id] = stream
                    return

    def _pump(self) -> None:
        """Send what was kept back, a frame a stream in turn, so that no large answer starves the others."""
        moved = True
        while moved and self._blocked and not self._paused:
            moved = False
            for stream in list(self._blocked.values()):
                if self._advance(stream):
                    moved = True
                    if not stream.pending:
                        self._blocked.pop(stream.id, None)

    def _advance(self, stream: Stream) -> bool:
        """One frame of a stream; False when there is no room for it."""
        pending = stream.pending
        if not pending or self._paused:
            return False
        data, trailers, end = pending[0]
        size = len(data)
        if size == 0:
            pending.popleft()
            if trailers is not None:
                self._header_frames(stream.id, self._encoder.encode(trailers), True)
            elif end:
                self._frame(codes.DATA, codes.END_STREAM, stream.id, b"")
            if end:
                self._finish(stream)
            return True
        room = min(size, self._window, stream.send_window, self._peer_frame_size, _JOIN_LIMIT)
        if room <= 0:
            return False
        self._window -= room
        stream.send_window -= room
        self.earned += _EARNED_BY_DATA
        last = room == size
        self._write(_pack(room << 8 | codes.DATA, codes.END_STREAM if end and last else 0, stream.id))
        if last:
            pending.popleft()
            self._write(data)
            if end:
                self._finish(stream)
        else:
            view = memoryview(data)
            pending[0] = (view[room:], trailers, end)
            self._write(view[:room])
        if self._out_size > self.limits.write_buffer:
            self._flush()
        return True

    # The end of streams.

    def reset_stream(self, stream: Stream, code: ErrorCode) -> None:
        self.send_reset(stream.id, code)
        self.forget(stream)
        self.settle()

    def send_reset(self, stream_id: int, code: ErrorCode) -> None:
        self._refused[stream_id] = None
        if len(self._refused) > self.limits.concurrent_streams:
            del self._refused[next(iter(self._refused))]
        self._frame(codes.RST_STREAM, 0, stream_id, WORD.pack(code))

    def _finish(self, stream: Stream) -> None:
        """All is sent."""
        stream.closed = True
        self.answered += 1
        self.streams.pop(stream.id, None)
        if not stream.remote_closed:
            # Answered before the request was whole: tell the peer to stop, the answer stands (section 8.1).
            self.send_reset(stream.id, ErrorCode.NO_ERROR)
        if not self.streams:
            self.settle()

    def forget(self, stream: Stream) -> None:
        stream.closed = True
        stream.pending = None
        self.streams.pop(stream.id, None)
        self._blocked.pop(stream.id, None)

    def settle(self) -> None:
        """Called when streams ended: a draining connection closes after its last."""

    def return_credit(self, stream: Stream) -> None:
        if stream.consumed:
            self._frame(codes.WINDOW_UPDATE, 0, stream.id, WORD.pack(stream.consumed))
            stream.consumed = 0
