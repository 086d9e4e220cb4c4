"""All frames but HEADERS and DATA: settings, windows, pings, resets; and how a connection ends."""

from __future__ import annotations

import asyncio
import logging

from serving.runtime.http2 import codes
from serving.runtime.http2.codes import WORD, ConnectionFault, ErrorCode
from serving.runtime.http2.limits import Limits
from serving.runtime.http2.sender import Sender
from serving.runtime.http2.stream import Stream

log = logging.getLogger(__name__)

_word = WORD.unpack_from
_DRAIN_PING = b"draining"
_ALIVE_PING = b"alive?  "
RESET_COST = 4


class Control(Sender):
    """What is of the connection and of no request."""

    __slots__ = (
        "_credit",
        "_credited_answers",
        "_credited_at",
        "_drained_above",
        "_faulted",
        "_last_id",
        "_rest",
        "draining",
        "greeted",
        "ping_sent",
        "settings_acknowledged",
    )

    def __init__(self, limits: Limits, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(limits, loop)
        self._rest = b""
        """What came in and is no whole frame yet."""
        self._last_id = 0
        self._credit = limits.nuisance_burst
        self._credited_at = loop.time()
        self._credited_answers = 0
        self._drained_above = codes.LARGEST_STREAM_ID
        self._faulted = False
        # What the front's sweep reads.
        self.greeted = False
        """The preface is here."""
        self.settings_acknowledged = False
        self.ping_sent = False
        self.draining = False

    def _frame_of_control(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if kind == codes.WINDOW_UPDATE:
            self._window_update(stream_id, payload)
        elif kind == codes.PING:
            self._ping(flags, stream_id, payload)
        elif kind == codes.SETTINGS:
            self._settings(flags, stream_id, payload)
        elif kind == codes.RST_STREAM:
            self._rst_stream(stream_id, len(payload))
        elif kind == codes.PRIORITY:
            self._priority(stream_id, payload)
        elif kind == codes.GOAWAY:
            self._goaway(stream_id, len(payload))
        elif kind == codes.PUSH_PROMISE:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "clients do not push")
        else:
            self._annoy(1)  # unknown kinds are ignored (section 5.5)

    def _window_update(self, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "WINDOW_UPDATE has 4 bytes")
        increment = _word(payload)[0] & codes.LARGEST_WINDOW
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
            change = value - self.initial_window
            self.initial_window = value
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
        self._annoy(RESET_COST)
        self.forget(stream)
        stream.cancelled()
        self.settle()

    def _priority(self, stream_id: int, payload: bytes) -> None:
        """Checked and ignored: RFC 9113 took priorities out."""
        self._annoy(1)
        if stream_id == 0:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PRIORITY belongs to a stream")
        code = ErrorCode.FRAME_SIZE_ERROR if len(payload) != 5 else None
        if len(payload) >= 4 and _word(payload)[0] & codes.LARGEST_STREAM_ID == stream_id:
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
        self._annoy(RESET_COST)
        self.reset_stream(stream, code)
        stream.cancelled()

    def _refuse(self, stream_id: int, code: ErrorCode) -> None:
        self._annoy(RESET_COST)
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
        if not self.greeted:
            self.introduce()
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
    def open(self) -> bool:
        return self._transport is not None and not self._faulted

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

    def introduce(self) -> None:
        """Send our settings."""

    def finish_draining(self) -> None:
        """Second step, when the peer has seen the first: the last stream that is taken."""
        if self._drained_above == codes.LARGEST_STREAM_ID and not self._faulted:
            self._drained_above = self._last_id
            self._leaving = True
            self._frame(codes.GOAWAY, 0, 0, WORD.pack(self._last_id) + WORD.pack(ErrorCode.NO_ERROR))
            self.settle()

    def abandon(self) -> None:
        """The grace period is over."""
        for stream in list(self.streams.values()):
            stream.abandoned()
        self.close()

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
