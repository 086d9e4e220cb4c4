"""The same for gRPC: unary calls on raw HTTP/2 frames, with heads and messages made beforehand.

grpcio's own client takes several hundred microseconds a call, more than the server that it is to measure.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import Callable, Sequence

import uvloop

from tests.benchmarks._load import _GIVE_UP, Load

_DATA, _HEADERS, _RST, _SETTINGS, _PING, _GOAWAY, _WINDOW = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1
_OUR_WINDOW = 1 << 30


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _literal(index: int, value: bytes, name: bytes = b"") -> bytes:
    """A header field that neither side puts into its table."""
    head = bytes([index]) if index < 15 else bytes([15, index - 15])
    if name:
        head = b"\x00" + bytes([len(name)]) + name
    return head + bytes([len(value)]) + value


def client_head(method: str, number: int, *, own: bool) -> bytes:
    """As C-core's clients send it: a deadline, their name; `own` metadata differ from call to call."""
    head = call_head(method) + _literal(0, b"5S", b"grpc-timeout") + _literal(58, b"grpc-python/1.85.1")
    if own:
        trace = b"00-%032x-%016x-00" % (number + 1, number + 1)
        head += _literal(0, b"request-%d" % number, b"x-request-id") + _literal(0, trace, b"traceparent")
    return head


def call_head(method: str) -> bytes:
    """:method POST, :scheme http, :path, :authority, content-type, te."""
    return (
        b"\x83\x86"
        + _literal(4, method.encode())
        + _literal(1, b"bench")
        + _literal(31, b"application/grpc")
        + _literal(0, b"trailers", b"te")
    )


Head = Callable[[int], bytes]


class _Connection(asyncio.Protocol):
    def __init__(
        self, load: Load, head: Head, messages: Sequence[bytes], streams: int, until: float, windows: bool
    ) -> None:
        self.load = load
        self.head = head
        self.messages = messages
        self.windows = windows
        self.streams = streams
        self.until = until
        self.number = 0
        self.id = 1
        self.window = 65535
        self.consumed = 0
        self.buffer = b""
        self.open: dict[int, list[float]] = {}
        self.started = False
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        settings = struct.pack(">HI", 4, _OUR_WINDOW)
        transport.write(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
            + _frame(_SETTINGS, 0, 0, settings)
            + _frame(_WINDOW, 0, 0, struct.pack(">I", _OUR_WINDOW))
        )

    def call(self) -> None:
        message = self.messages[self.number % len(self.messages)]
        self.number += 1
        if self.window < len(message):
            # Too small a window for now: ask again when it has grown.
            asyncio.get_running_loop().call_later(0.0005, self.call)
            return
        self.window -= len(message)
        stream, self.id = self.id, self.id + 2
        self.open[stream] = [time.perf_counter(), 0]
        sent = _frame(_HEADERS, _END_HEADERS, stream, self.head(self.number))
        if self.windows:
            sent += _frame(_WINDOW, 0, stream, struct.pack(">I", 5))
        sent += _frame(_DATA, _END_STREAM, stream, message)
        if self.windows:
            sent += _frame(_WINDOW, 0, 0, struct.pack(">I", 1))
        self.transport.write(sent)

    def data_received(self, data: bytes) -> None:
        buffer = self.buffer + data
        at = 0
        while len(buffer) - at >= 9:
            size = buffer[at] << 16 | buffer[at + 1] << 8 | buffer[at + 2]
            if len(buffer) - at < 9 + size:
                break
            stream = int.from_bytes(buffer[at + 5 : at + 9], "big") & 0x7FFFFFFF
            self.frame(buffer[at + 3], buffer[at + 4], stream, buffer[at + 9 : at + 9 + size])
            at += 9 + size
        self.buffer = buffer[at:]

    def frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == _DATA:
            self.consumed += len(payload)
            if self.consumed > _OUR_WINDOW // 2:
                self.transport.write(_frame(_WINDOW, 0, 0, struct.pack(">I", self.consumed)))
                self.consumed = 0
            if stream in self.open:
                self.open[stream][1] += len(payload)
        if kind in (_DATA, _HEADERS) and flags & _END_STREAM:
            self.finish(stream)
        elif kind == _SETTINGS and not flags & _ACK:
            self.transport.write(_frame(_SETTINGS, _ACK, 0, b""))
            if not self.started:
                self.started = True
                for _ in range(self.streams):
                    self.call()
        elif kind == _PING and not flags & _ACK:
            self.transport.write(_frame(_PING, _ACK, 0, payload))
        elif kind == _WINDOW and stream == 0:
            self.window += int.from_bytes(payload, "big")
        elif kind in (_RST, _GOAWAY):
            self.load.fail(b"frame %d: %r" % (kind, payload))
            self.end()

    def finish(self, stream: int) -> None:
        sent, size = self.open.pop(stream)
        now = time.perf_counter()
        # A refused call has trailers only; an answer has a message of more than its five-byte prefix.
        if size > 5:
            self.load.latencies.append(now - sent)
        else:
            self.load.fail(b"no message in the answer")
        if now < self.until:
            self.call()
        elif not self.open:
            self.end()

    def end(self) -> None:
        if not self.done.done():
            self.done.set_result(None)
        self.transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.load.fail(f"connection lost: {error}".encode())
            self.done.set_result(None)


def run_grpc(
    port: int,
    method: str,
    messages: Sequence[bytes],
    connections: int,
    streams: int,
    seconds: float,
    *,
    head: Head | None = None,
) -> Load:
    """`head` makes the headers of a call by its number; then window updates are sent too, as C-core does."""
    load = Load()
    plain = call_head(method)
    make = head or (lambda number: plain)
    framed = [b"\x00" + struct.pack(">I", len(message)) + message for message in messages]

    async def main() -> None:
        loop = asyncio.get_running_loop()
        began = time.perf_counter()
        waits = []
        for _ in range(connections):
            _, protocol = await loop.create_connection(
                lambda: _Connection(load, make, framed, streams, began + seconds, head is not None),
                "127.0.0.1",
                port,
            )
            waits.append(protocol.done)
        await asyncio.wait_for(asyncio.gather(*waits), seconds + _GIVE_UP)
        load.seconds = time.perf_counter() - began

    uvloop.run(main())
    return load
