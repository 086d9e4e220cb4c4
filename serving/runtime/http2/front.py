"""All HTTP/2 connections of a process: their listening socket, their timeouts, their end."""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
from time import perf_counter

from serving.runtime.http2.codes import ErrorCode
from serving.runtime.http2.connection import Application, Connection
from serving.runtime.http2.limits import Limits

SWEEP_SECONDS = 0.5
DRAIN_ANSWER_SECONDS = 1.0
"""For the peer to answer the ping of the first GOAWAY."""
FAREWELL_SECONDS = 0.1
"""For what is said at the end of the grace period to leave."""
LINGER_SECONDS = 1.0
"""For the peer to read why it was hung up on."""

Mark = tuple[int, int, int]


class _Watch:
    """What the sweep remembers of a connection; the hot path pays one flag for it."""

    __slots__ = (
        "born",
        "continuing_since",
        "drained_at",
        "faulted_at",
        "marks",
        "max_age",
        "quiet_since",
        "unread",
    )

    def __init__(self, now: float, max_age: float) -> None:
        self.born = now
        self.max_age = max_age
        self.quiet_since = now
        self.continuing_since: float | None = None
        self.faulted_at: float | None = None
        self.drained_at: float | None = None
        self.unread: tuple[int, float] | None = None
        self.marks: dict[int, tuple[Mark, float]] = {}


class Front:
    """Made on a running loop; `start` it, `drain` it at the end. One timer sweeps for all timeouts."""

    def __init__(self, application: Application, limits: Limits | None = None) -> None:
        self.application = application
        self.limits = limits or Limits()
        self.connections: set[Connection] = set()
        self._watches: dict[Connection, _Watch] = {}
        self._server: asyncio.Server | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()

    async def start(self, sock: socket.socket, tls: ssl.SSLContext | None = None) -> None:
        """Take connections on a listening socket; `tls` must offer h2 by ALPN."""

        def connection() -> Connection:
            return Connection(self.application, self.limits, self._loop, self.connections)

        self._server = await self._loop.create_server(connection, sock=sock, ssl=tls)
        self._timer = self._loop.call_later(SWEEP_SECONDS, self._sweep)

    async def drain(self, seconds: float) -> None:
        """Take no new connections, let every call that is under way end, then close."""
        if self._server is not None:
            self._server.close()
        for connection in list(self.connections):
            connection.drain()
        deadline = self._loop.time() + seconds
        while self.connections and self._loop.time() < deadline:
            await asyncio.sleep(0.02)
        for connection in list(self.connections):
            connection.abandon()
        if self.connections:
            await asyncio.sleep(FAREWELL_SECONDS)
        await self.close()

    async def close(self) -> None:
        """At once: what is under way is dropped."""
        if self._server is not None:
            self._server.close()
        if self._timer is not None:
            self._timer.cancel()
        for connection in list(self.connections):
            connection.abort()
        await asyncio.sleep(0)

    # Timeouts

    def _sweep(self) -> None:
        now = self._loop.time()
        self._timer = self._loop.call_later(SWEEP_SECONDS, self._sweep)
        for connection in list(self.connections):
            watch = self._watches.get(connection)
            if watch is None:
                # A tenth of spread, so that connections made together do not all leave together.
                max_age = self.limits.age_seconds * random.uniform(0.9, 1.1)
                watch = self._watches[connection] = _Watch(now, max_age)
            self._check(connection, watch, now)
        for gone in self._watches.keys() - self.connections:
            del self._watches[gone]

    def _check(self, connection: Connection, watch: _Watch, now: float) -> None:
        limits = self.limits
        if connection.faulted:
            watch.faulted_at = watch.faulted_at or now
            if now - watch.faulted_at >= LINGER_SECONDS:
                connection.abort()
            return
        if connection.heard:
            connection.heard = False
            watch.quiet_since = now
        if connection.draining:
            watch.drained_at = watch.drained_at or now
            if now - watch.drained_at >= DRAIN_ANSWER_SECONDS:
                connection.finish_draining()
        elif self._has_lived(connection, watch, now):
            connection.drain()
        if now - watch.born > limits.preface_seconds:
            if not connection.greeted:
                connection.abort()
                return
            if not connection.settings_acknowledged:
                connection.fail(ErrorCode.SETTINGS_TIMEOUT, "our SETTINGS were not acknowledged")
                return
        watch.continuing_since = (watch.continuing_since or now) if connection.continuing else None
        if watch.continuing_since and now - watch.continuing_since > limits.preface_seconds:
            connection.fail(ErrorCode.ENHANCE_YOUR_CALM, "a header block without end")
            return
        if self._does_not_read(connection, watch, now):
            connection.abort()
            return
        self._check_streams(connection, watch, now)
        quiet = now - watch.quiet_since
        if connection.ping_sent and quiet > limits.ping_after_seconds + limits.ping_answer_seconds:
            connection.abort()
        elif not connection.ping_sent and limits.ping_after_seconds < quiet:
            connection.ping()

    def _has_lived(self, connection: Connection, watch: _Watch, now: float) -> bool:
        if watch.max_age and now - watch.born > watch.max_age:
            return True
        idle = self.limits.idle_seconds
        return bool(idle) and not connection.streams and now - watch.quiet_since > idle

    def _does_not_read(self, connection: Connection, watch: _Watch, now: float) -> bool:
        unread = connection.unread
        if unread is None:
            watch.unread = None
        elif watch.unread is None or watch.unread[0] != unread:
            watch.unread = (unread, now)
        else:
            return now - watch.unread[1] > self.limits.stalled_seconds
        return False

    def _check_streams(self, connection: Connection, watch: _Watch, now: float) -> None:
        marks: dict[int, tuple[Mark, float]] = {}
        clock = perf_counter()
        for stream in list(connection.streams.values()):
            stream.overdue(clock)
            if stream.closed or not (stream.pending or stream.waits_for_peer):
                continue
            mark = (stream.received, stream.send_window, stream.backlog)
            before = watch.marks.get(stream.id)
            since = before[1] if before is not None and before[0] == mark else now
            marks[stream.id] = (mark, since)
            if now - since > self.limits.stalled_seconds:
                connection.give_up(stream)
        watch.marks = marks
