"""One request and its answer on an HTTP/2 connection."""

from __future__ import annotations

from typing import Any

import msgspec

from serving.runtime.http2.codes import ErrorCode
from serving.runtime.http2.hpack import Fields, Headers


class Stream(msgspec.Struct, eq=False):
    """Subclass it: the application's call is the stream itself, so a request makes one object, not two.

    A msgspec.Struct, because its constructor runs in C: 0.2 us where a Python __init__ takes 1.5.
    """

    connection: Any
    """Connection"""
    id: int
    head: Any
    """RequestHead"""
    send_window: int
    consumed: int = 0
    """Received since we last returned credit."""
    received: int = 0
    held: bool = False
    """True keeps credit back: the application has more than it can work on."""
    remote_closed: bool = False
    """The peer has sent all."""
    answered: bool = False
    """Our headers are out."""
    closed: bool = False
    pending: Any = None
    """What flow control keeps back, as a deque: data, or trailers (then data is empty), and whether it is
    the end."""
    deadline: float | None = None
    """On the clock of time.perf_counter."""

    # What the application overrides.

    def begin(self) -> None:
        """The headers are here (`self.head`); `remote_closed` says whether a body follows."""

    def receive(self, data: bytes, start: int, stop: int) -> None:
        """A part of the body; `remote_closed` says whether it is the last. Keep no reference to `data`
        beyond what the whole needs: it may be a large buffer with a small part of ours in it."""

    def cancelled(self) -> None:
        """Nobody waits for the answer any more: reset by the peer, or the connection is gone."""

    # What the application calls. Nothing happens on a closed stream.

    def send_headers(self, headers: Fields | Headers, extra: bytes = b"", *, end: bool = False) -> None:
        """Fields for what comes again and again; `extra` is from `hpack.literal`, for what never does."""
        if not self.closed:
            self.answered = True
            self.connection.send_headers(self, headers, extra, end)

    def send_data(self, data: bytes | memoryview, *, end: bool = False) -> None:
        if not self.closed:
            self.connection.send_data(self, data, None, end)

    def send_trailers(self, headers: Fields | Headers) -> None:
        if not self.closed:
            self.connection.send_data(self, b"", headers, True)

    def respond(self, headers: Fields, extra: bytes, data: bytes, trailers: Fields) -> None:
        """A whole answer at once: the way of unary calls."""
        if not self.closed:
            self.connection.send_response(self, headers, extra, data, trailers)

    def reset(self, code: ErrorCode) -> None:
        if not self.closed:
            self.connection.reset_stream(self, code)

    def hold(self) -> None:
        self.held = True

    def release(self) -> None:
        """Let the peer send on."""
        self.held = False
        if not self.closed and not self.remote_closed:
            self.connection.return_credit(self)

    def too_late(self) -> None:
        """The deadline has passed."""

    def overdue(self, now: float) -> None:
        """Called twice a second with time.perf_counter."""

    def abandoned(self) -> None:
        """The server ends before this is answered: the last chance to say so."""

    @property
    def waits_for_peer(self) -> bool:
        """The peer owes us something, and is cut off when nothing comes; streaming calls may be silent."""
        return not self.remote_closed and not self.held

    @property
    def backlog(self) -> int:
        """Parts of the answer that the peer has not made room for."""
        return len(self.pending) if self.pending else 0
