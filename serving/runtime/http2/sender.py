"""The sending half of a connection: frames out, flow control, and no more unread output than the limit."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from functools import lru_cache
from struct import Struct
from typing import NamedTuple

from serving.runtime.http2 import codes
from serving.runtime.http2.codes import FRAME, WORD, ErrorCode
from serving.runtime.http2.hpack import Fields, HeaderEncoder, Headers
from serving.runtime.http2.limits import Limits
from serving.runtime.http2.stream import Stream

_pack = FRAME.pack
_JOIN_LIMIT = 1 << 16
"""Below it, copying chunks together is cheaper than a vectored write."""
_EARNED_BY_DATA = 4
_KEPT_SHAPES = 64


class Frames(NamedTuple):
    """Answers of one shape differ in stream, extra headers and data; this is the rest of them.

    Connections whose tables are alike share one: what is written for all of them at once tells by identity.
    """

    layout: Struct
    first: bytes
    """Length, type and flags of HEADERS."""
    block: bytes
    second: bytes
    """... of DATA."""
    third: bytes
    """... of the trailers."""
    end: bytes

    def fill(self, stream_id: int, extra: bytes, data: bytes) -> bytes:
        return self.layout.pack(
            self.first,
            stream_id,
            self.block,
            extra,
            self.second,
            stream_id,
            data,
            self.third,
            stream_id,
            self.end,
        )


@lru_cache(512)
def _frames(block: bytes, size: int, extra: int, end: bytes) -> Frames:
    return Frames(
        Struct(f">5sI{len(block)}s{extra}s5sI{size}s5sI{len(end)}s"),
        _pack((len(block) + extra) << 8 | codes.HEADERS, codes.END_HEADERS, 0)[:5],
        block,
        _pack(size << 8 | codes.DATA, 0, 0)[:5],
        _pack(len(end) << 8 | codes.HEADERS, codes.END_HEADERS | codes.END_STREAM, 0)[:5],
        end,
    )


Shape = tuple[Fields, Fields, int, int]
"""Headers, trailers, bytes of data, bytes of further headers."""


class Sender:
    """Chunks gather in a list and leave once a loop tick: one system call for all answers of a batch."""

    __slots__ = (
        "_blocked",
        "_encoder",
        "_flushing",
        "_leaving",
        "_loop",
        "_out",
        "_out_size",
        "_paused",
        "_peer_frame_size",
        "_refused",
        "_shapes",
        "_transport",
        "_window",
        "answered",
        "earned",
        "initial_window",
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
        self._shapes: dict[Shape, tuple[int, Frames]] = {}
        """With the state of the encoder's table: while it stays, the blocks say the same."""
        self._out: list[bytes | memoryview] = []
        self._out_size = 0
        self._flushing = False
        self._paused = False
        self._window = codes.DEFAULT_WINDOW
        self.initial_window = codes.DEFAULT_WINDOW
        self._peer_frame_size = codes.DEFAULT_FRAME_SIZE
        self._blocked: dict[int, Stream] = {}
        self._refused: dict[int, None] = {}
        """Streams that we reset: the peer may send on them until it knows."""
        self._leaving = False
        """No new streams: close when the last one ends."""

    # Output.

    def _write(self, chunk: bytes | memoryview) -> None:
        self._out.append(chunk)
        self._out_size += len(chunk)
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _write_now(self, chunk: bytes) -> None:
        """As `_write`, where it is one chunk for all answers of a tick: saves another turn of the loop."""
        if self._flushing or self._out or self._transport is None:
            self._write(chunk)
        else:
            self._transport.write(chunk)

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

    def send_response(
        self, stream: Stream, headers: Fields, extra: bytes, data: bytes, trailers: Fields
    ) -> None:
        size = len(data)
        stream.answered = True
        if (
            size > self._window
            or size > stream.send_window
            or size > self._peer_frame_size
            or self._paused
            or stream.pending
        ):
            self.send_headers(stream, headers, extra, False)
            self.send_data(stream, data, None, False)
            self.send_data(stream, b"", trailers, True)
            return
        self._window -= size
        shape = (headers, trailers, size, len(extra))
        frames = self.frames(shape) or self._frame_response(shape)
        if frames is None:
            self._header_frames(stream.id, self._encoder.encode(headers) + extra, False)
            self._frame(codes.DATA, 0, stream.id, data)
            self._header_frames(stream.id, self._encoder.encode(trailers), True)
        else:
            self._write(frames.fill(stream.id, extra, data))
        self._finish(stream)

    def frames(self, shape: Shape) -> Frames | None:
        """None where the shape has to be made first, or anew."""
        known = self._shapes.get(shape)
        return known[1] if known is not None and known[0] == self._encoder.changes else None

    def _frame_response(self, shape: Shape) -> Frames | None:
        """What all answers of a shape have in common: the frames without stream, extra headers and data.

        None when a block would put something into the table, which is said once, or takes several frames.
        """
        headers, trailers, size, extra = shape
        block, end = self._encoder.known(headers), self._encoder.known(trailers)
        if block is None or end is None or max(len(block) + extra, len(end)) > codes.DEFAULT_FRAME_SIZE:
            return None
        frames = _frames(block, size, extra, end)
        if len(self._shapes) >= _KEPT_SHAPES:
            self._shapes.clear()
        self._shapes[shape] = (self._encoder.changes, frames)
        return frames

    def send_headers(self, stream: Stream, headers: Fields | Headers, extra: bytes, end: bool) -> None:
        self._header_frames(stream.id, self._encode(headers) + extra, end)
        if end:
            self._finish(stream)

    def _encode(self, headers: Fields | Headers) -> bytes:
        if isinstance(headers, Fields):
            return self._encoder.encode(headers)
        return self._encoder.encode_once(headers)

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
        self, stream: Stream, data: bytes | memoryview, trailers: Fields | Headers | None, end: bool
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
                self._header_frames(stream.id, self._encode(trailers), True)
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
        if self._leaving and not self.streams:
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


def respond_all(
    targets: Iterable[tuple[Sender, int]],
    headers: Fields,
    extras: Iterable[bytes],
    bodies: Sequence[bytes],
    trailers: Fields,
) -> None:
    """`send_response` for many streams, by connection and id: all bodies are of one length.

    Streams that are no more are passed over. What it does once a connection and not once an answer is half
    of the work of answering.
    """
    size = len(bodies[0])
    sender: Sender | None = None
    extra_size = -1
    frames: Frames | None = None
    for (target, stream_id), extra, body in zip(targets, extras, bodies, strict=True):
        if target is not sender or len(extra) != extra_size:
            sender, streams, extra_size = target, target.streams, len(extra)
            frames = None if sender._paused else sender.frames((headers, trailers, size, extra_size))
            if frames is not None:
                layout, first, block, second, third, end = frames
                pack, whole = layout.pack, layout.size
        stream = streams.pop(stream_id, None)
        if stream is None:
            continue
        if (
            frames is None
            or size > sender._window
            or size > stream.send_window
            or size > codes.DEFAULT_FRAME_SIZE
        ):
            streams[stream_id] = stream
            sender.send_response(stream, headers, extra, body, trailers)
            sender = None
            continue
        sender._window -= size
        # The inside of _write, once for each answer.
        sender._out.append(
            pack(first, stream_id, block, extra, second, stream_id, body, third, stream_id, end)
        )
        sender._out_size += whole
        if not sender._flushing:
            sender._flushing = True
            sender._loop.call_soon(sender._flush)
        sender.answered += 1
        stream.closed = True
        if not stream.remote_closed:
            sender.send_reset(stream_id, ErrorCode.NO_ERROR)
        if sender._leaving and not streams:
            sender.settle()
