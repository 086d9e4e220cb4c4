"""Connections: framing, order of answers, limits and timeouts. What a request means is in routes.py."""

from __future__ import annotations

import asyncio
import select
from collections import deque
from collections.abc import Callable
from http import HTTPStatus
from time import perf_counter
from typing import TYPE_CHECKING, Any

import msgspec

from serving.runtime.http1.body import Chunks, decompress, too_large
from serving.runtime.http1.head import Head, HeaderTooLarge, cut_names, named, parse_head
from serving.runtime.lane import INLINE_SECONDS
from slipway.errors import InvalidRequest, ServingError

if TYPE_CHECKING:
    from serving.runtime.config import Config
    from serving.runtime.messages import InferRequest

MAX_PIPELINED = 64
_CACHED_HEADS = 1024


class RequestTimeout(ServingError):
    status = 408


class TooManyConnections(ServingError):
    status = 503


STATUS_LINES = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus
}
JSON_TYPE = b"content-type: application/json\r\n"
CLOSE = b"connection: close\r\n"
KEEP_ALIVE = b"connection: keep-alive\r\n"
"""For HTTP/1.0, whose connections end with their answer unless both sides say so."""


class Exchange(msgspec.Struct, eq=False):
    """One request and its answer. Answers leave in the order of the requests."""

    connection: Connection
    head: Head
    body: bytes
    arrived: float
    request: InferRequest | None = None
    data: bytes | None = None

    def answer(self, status: int, body: bytes, headers: bytes = JSON_TYPE) -> None:
        """`headers` are whole lines."""
        self.send(
            b"%b%b%b%bcontent-length: %d\r\n\r\n%b"
            % (
                STATUS_LINES[status],
                headers,
                self.head.extra,
                b"" if self.head.keep_alive else CLOSE,
                len(body),
                b"" if self.head.is_head else body,
            )
        )

    def send(self, data: bytes) -> None:
        connection = self.connection
        log = connection.server.log
        if log is not None:
            log(self, data)
        pending = connection.pending
        self.data = data
        if pending and pending[0] is self:
            if len(pending) == 1:
                pending.popleft()
                connection.write(data, self.head.keep_alive)
            else:
                connection.write_finished()


class Connection(asyncio.Protocol):
    """One client. `server` knows limits, routes and all connections."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.transport: asyncio.Transport = None  # type: ignore[assignment]
        self.pending: deque[Exchange] = deque()
        self.since = 0.0
        """When the request that is not yet whole began, or when the connection fell idle."""
        self.receiving: str = ""
        """"head" or "body" while a request is not yet whole."""
        self._buffer = b""
        self._head: Head | None = None
        self.usual: Head | None = None
        """That of the last request which was whole at once."""
        self.owed: Callable[[], None] | None = None
        """Writes the answer that this connection waits for outside of `pending`; see express.py."""
        self._chunks: Chunks | None = None
        self._parts: list[bytes] = []
        self._missing = 0
        self.closing = False
        self.fresh = True
        """Nothing is left over: what comes next is the begin of a request. False while the server drains."""
        self.heads = server.heads
        self._paused = False
        self._held: bytes = b""

    # -- asyncio -----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self.since = perf_counter()
        self.fresh = not self.server.draining
        self.server.connections.add(self)
        if len(self.server.connections) > self.server.config.max_connections:
            self.fail(TooManyConnections("too many open connections"))

    def connection_lost(self, error: Exception | None) -> None:
        self.closing, self.fresh, self.owed = True, False, None
        self.server.connections.discard(self)
        for exchange in self.pending:
            if exchange.request is not None:
                exchange.request.cancelled = True
        self.pending.clear()

    def pause_writing(self) -> None:
        """The client does not read its answers: do not read its requests."""
        self._paused = True
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        self._paused = False
        self._resume()

    def eof_received(self) -> bool:
        """Gone, or half-closed by a client that still reads: nobody can tell the two apart.

        What is answered within this tick is answered. Who lets a slow model work for him has to stay.
        """
        if self.owed is not None:
            self.owed()
            return False
        slow = [
            exchange.request
            for exchange in self.pending
            if exchange.request is not None
            and exchange.request.model.behaviour.predict(exchange.request.rows) > INLINE_SECONDS
        ]
        if slow or not self.pending:
            return False
        self.closing, self.fresh = True, False
        self.pending[-1].head = _closing(self.pending[-1].head)
        return True

    def data_received(self, data: bytes) -> None:
        now = perf_counter()
        if self.fresh:
            # The usual case in one frame: one whole request with a head that was seen before.
            head = self.usual
            if head is None or not data.startswith(head.raw):
                head = self.heads.get(data[: data.find(b"\r\n\r\n") + 4])
            if head is not None and head.simple and len(data) == head.size + head.length:
                self.usual = head
                if head.take is not None and head.take(self, head, data, now):
                    self.since = now
                    return
                exchange = Exchange(self, head, data[head.size :], now)
                self.pending.append(exchange)
                self.since = now
                try:
                    head.handler(exchange)
                except Exception as error:
                    self.server.refuse(exchange, error)
                return
        if self.owed is not None:
            self.owed()
            if self.fresh:
                self.data_received(data)
                return
        if self.closing:
            return
        try:
            self._read(data, now)
        except ServingError as error:
            self.fail(error)
        self.fresh = not (self.receiving or self._held or self.closing or self.server.draining)

    # -- reading -----------------------------------------------------------------------------------

    def _read(self, data: bytes, now: float) -> None:
        if self._head is not None:
            rest = self._read_body(self._head, data, now)
            if rest is None:
                return
            data = rest
        elif self._buffer:
            data = self._buffer + data
            self._buffer = b""
        heads = self.heads
        while data:
            if len(self.pending) >= MAX_PIPELINED:
                self._held = data
                self.transport.pause_reading()
                return
            end = data.find(b"\r\n\r\n") + 4
            if end == 3:
                self._wait_for_head(data, now)
                return
            raw = data[:end]
            head = heads.get(raw)
            if head is None:
                head, end = self._new_head(data, end)
            stop = end + head.length
            if not head.chunked and not head.expect and len(data) >= stop:
                body = data[end:stop]
                data = data[stop:]
                self.dispatch(head, body, now, last=not data)
                if self.closing:
                    return
                continue
            rest = self._begin_body(head, data[end:], now)
            if rest is None:
                return
            data = rest
        self.receiving = ""
        self.since = now

    def _wait_for_head(self, data: bytes, now: float) -> None:
        if len(data) > self.server.config.max_header:
            raise HeaderTooLarge(f"the head is longer than {self.server.config.max_header} bytes")
        if data[:2] == b"\x16\x03":
            raise InvalidRequest("this is TLS, and this port speaks plain HTTP", fix="use http://")
        if self.receiving != "head":
            self.since = now
        self.receiving = "head"
        self._buffer = data

    def _new_head(self, data: bytes, end: int) -> tuple[Head, int]:
        start = 0
        while data.startswith(b"\r\n", start) and start < 8:
            start += 2  # old clients send an empty line after a body
        if start:
            end = data.find(b"\r\n\r\n", start) + 4
            if end == 3:
                raise InvalidRequest("not an HTTP/1.1 request", where="the request head")
        if end - start > self.server.config.max_header:
            raise HeaderTooLarge(f"the head is longer than {self.server.config.max_header} bytes")
        cut = None if start else cut_names(data[:end])
        if cut is not None:
            known = self.heads.get(cut[0])
            if known is not None:
                return named(known, cut[1]), end
        head = parse_head(data[start:end])
        self.server.route(head)
        if head.version == "1.0" and head.keep_alive:
            head.extra += KEEP_ALIVE
            head.take = None
        head.simple = not (head.chunked or head.expect or head.encoding or head.error) and head.keep_alive
        if head.length > self.server.config.max_body:
            raise too_large(self.server.config.max_body)
        if head.cacheable and not start:
            head.raw, head.size = data[:end], end
            self._remember(head.raw, head)
        elif cut is not None and b"tracestate" not in head.headers and not head.guarded:
            self._remember(cut[0], named(head, {}))
        return head, end

    def _remember(self, raw: bytes, head: Head) -> None:
        heads = self.heads
        if len(heads) >= _CACHED_HEADS:
            heads.clear()
        heads[raw] = head

    def _begin_body(self, head: Head, data: bytes, now: float) -> bytes | None:
        if head.expect and len(data) < max(head.length, 1) and not self.pending and head.error is None:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        elif head.expect and head.error is not None:
            # The answer is known: the body need not come, and then the connection cannot be used again.
            self.dispatch(_closing(head), b"", now)
            return None
        self._head = head
        self.receiving, self.since = "body", now
        if head.chunked:
            self._chunks = Chunks(self.server.config.max_body)
        else:
            self._missing = head.length
        return self._read_body(head, data, now) if data or not (head.chunked or head.length) else None

    def _read_body(self, head: Head, data: bytes, now: float) -> bytes | None:
        if self._chunks is not None:
            rest = self._chunks.feed(data)
            if rest is None:
                return None
            body = self._chunks.body()
            self._chunks = None
        else:
            if len(data) < self._missing:
                self._parts.append(data)
                self._missing -= len(data)
                return None
            self._parts.append(data[: self._missing])
            rest = data[self._missing :]
            body = b"".join(self._parts)
            self._parts = []
        self._head = None
        self.receiving, self.since = "", now
        self.dispatch(head, body, now, last=not rest)
        return None if self.closing else rest

    def dispatch(self, head: Head, body: bytes, now: float, *, last: bool = True) -> None:
        """`last`: no other request has come behind it yet."""
        self.server.arrived = now
        if last and self.server.draining and head.keep_alive:
            head = _closing(head)
        exchange = Exchange(self, head, body, now)
        self.pending.append(exchange)
        if not head.keep_alive:
            self.closing, self.fresh = True, False
        if head.error is not None:
            self.server.refuse(exchange, head.error)
            return
        try:
            if head.encoding:
                exchange.body = decompress(body, head.encoding, self.server.config.max_body)
            head.handler(exchange)
        except Exception as error:
            self.server.refuse(exchange, error)

    # -- writing -----------------------------------------------------------------------------------

    def write(self, data: bytes, keep_alive: bool) -> None:
        """uvloop gathers all writes of one tick into one system call a connection."""
        self.transport.write(data)
        if not keep_alive:
            self.closing, self.fresh = True, False
            self.transport.close()
        elif self._held:
            self._resume()

    def write_finished(self) -> None:
        ready: list[bytes] = []
        keep_alive = True
        while self.pending and keep_alive:
            exchange = self.pending[0]
            if exchange.data is None:
                break
            ready.append(exchange.data)
            keep_alive = exchange.head.keep_alive
            self.pending.popleft()
        self.write(b"".join(ready), keep_alive)

    def _resume(self) -> None:
        if self._paused or self.closing:
            return
        held, self._held = self._held, b""
        self.transport.resume_reading()
        if held:
            # Not from here: the caller is in the middle of writing.
            self.server.loop.call_soon(self.data_received, held)

    def fail(self, error: ServingError) -> None:
        """Answer an error after which the rest of the stream cannot be understood."""
        self.closing, self.fresh = True, False
        head = Head()
        head.keep_alive = False
        self._head, self._chunks, self._parts, self._buffer = None, None, [], b""
        exchange = Exchange(self, head, b"", perf_counter())
        self.pending.append(exchange)
        self.server.refuse(exchange, error)

    def shut(self) -> None:
        """The server goes: close when idle, else after the last answer."""
        if self.owed is not None:
            self.owed()
        if self.pending:
            last = self.pending[-1]
            last.head = _closing(last.head)
            self.closing, self.fresh = True, False
        elif not self.receiving:
            self.close_idle()

    def close_idle(self) -> None:
        """Not when a request has come that the loop has not read yet: closing would reset it unanswered."""
        if self._paused or not _has_input(self.transport):
            self.closing, self.fresh = True, False
            self.transport.close()


def _has_input(transport: asyncio.Transport) -> bool:
    found = transport.get_extra_info("socket")
    if found is None or found.fileno() < 0:
        return False
    waiting = select.poll()
    waiting.register(found.fileno(), select.POLLIN)
    return bool(waiting.poll(0))


def _closing(head: Head) -> Head:
    copy = head.copy()
    copy.keep_alive = False
    copy.extra = copy.extra.replace(KEEP_ALIVE, b"")
    return copy


class Server:
    """What all connections share. `router` fills in a head's handler; `on_error` answers for exceptions."""

    def __init__(
        self,
        config: Config,
        loop: asyncio.AbstractEventLoop,
        router: Callable[[Head], None],
        on_error: Callable[[Exchange, Exception], None],
        on_expired: Callable[[Exchange], None],
    ) -> None:
        self.config = config
        self.loop = loop
        self.route = router
        self.refuse = on_error
        self.expire = on_expired
        self.log: Callable[[Exchange, bytes], None] | None = None
        """Called with every answer before it leaves, where an access log is kept."""
        self.connections: set[Connection] = set()
        self.heads: dict[bytes, Head] = {}
        self.draining = False
        self.arrived = 0.0
        """When a request last took the general path, as all do while the server drains."""
        self._sweeper: Any = None

    def __call__(self) -> Connection:
        return Connection(self)

    def drain(self) -> None:
        """From now on the answer to a connection's last request says that it closes."""
        self.draining = True
        self.arrived = perf_counter()
        for connection in self.connections:
            connection.fresh = False

    def sweep(self) -> None:
        """Once a second: who sends too slowly or idles too long goes."""
        now = perf_counter()
        config = self.config
        for connection in list(self.connections):
            age = now - connection.since
            for exchange in list(connection.pending):
                if exchange.request is not None and now - exchange.arrived > config.request_timeout:
                    self.expire(exchange)
            if connection.closing:
                continue
            if connection.receiving == "head" and age > config.header_timeout:
                connection.fail(RequestTimeout(f"no whole head within {config.header_timeout:g} s"))
            elif connection.receiving == "body" and age > config.body_timeout:
                connection.fail(RequestTimeout(f"no whole body within {config.body_timeout:g} s"))
            elif not connection.receiving and not connection.pending and age > config.idle_timeout:
                connection.close_idle()
        self._sweeper = self.loop.call_later(1.0, self.sweep)
