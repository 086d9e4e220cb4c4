"""A load generator, cheap and the same for all: closed loops on raw sockets, requests made beforehand."""

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import uvloop

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)
_GIVE_UP = 20.0
"""Seconds beyond the asked time for the last answers to come."""


@dataclass
class Load:
    """What one run of load saw."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    failures: int = 0
    first_failure: bytes = b""

    @property
    def per_second(self) -> float:
        return len(self.latencies) / self.seconds if self.seconds else 0.0

    def quantile(self, q: float) -> float:
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(q * len(ordered)))] if ordered else float("nan")

    def fail(self, content: bytes) -> None:
        self.failures += 1
        self.first_failure = self.first_failure or content[:400]


def http_request(path: str, body: bytes, headers: str = "") -> bytes:
    lines = f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Length: {len(body)}\r\n{headers}"
    if "content-type" not in headers.lower():
        lines += "Content-Type: application/json\r\n"
    return lines.encode() + b"\r\n" + body


class _Connection(asyncio.Protocol):
    """One request after the other on one connection."""

    def __init__(self, load: Load, requests: Sequence[bytes], number: int, step: int, until: float) -> None:
        self.load = load
        self.requests = requests
        self.next = number
        self.step = step
        self.until = until
        self.sent = 0.0
        self.got = b""
        self.need = -1
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.send()

    def send(self) -> None:
        request = self.requests[self.next % len(self.requests)]
        self.next += self.step
        self.sent = time.perf_counter()
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self.got = self.got + data if self.got else data
        if self.need < 0 and not self._head():
            return
        if self.need == 0:
            if not self.got.endswith(b"0\r\n\r\n"):
                return
        elif len(self.got) < self.need:
            return
        now = time.perf_counter()
        if self.got[9:12] == b"200":
            self.load.latencies.append(now - self.sent)
        else:
            self.load.fail(self.got)
        self.got, self.need = b"", -1
        if now < self.until:
            self.send()
        else:
            self._end()

    def _head(self) -> bool:
        """How long the answer will be, once its head is here; 0 for chunks."""
        end = self.got.find(b"\r\n\r\n")
        if end < 0:
            return False
        length = _LENGTH.search(self.got, 0, end + 2)
        if length:
            self.need = end + 4 + int(length[1])
        elif _CHUNKED.search(self.got, 0, end + 2):
            self.need = 0
        else:
            self.load.fail(self.got)
            self._end()
            return False
        return True

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.load.fail(f"connection lost: {error}".encode())
            self.done.set_result(None)

    def _end(self) -> None:
        if not self.done.done():
            self.done.set_result(None)
        self.transport.close()


def run_http(port: int, requests: Sequence[bytes], connections: int, seconds: float) -> Load:
    load = Load()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        began = time.perf_counter()
        until = began + seconds
        protocols = []
        for number in range(connections):
            _, protocol = await loop.create_connection(
                lambda number=number: _Connection(load, requests, number, connections, until),  # type: ignore[misc]
                "127.0.0.1",
                port,
            )
            protocols.append(protocol.done)
        await asyncio.wait_for(asyncio.gather(*protocols), seconds + _GIVE_UP)
        load.seconds = time.perf_counter() - began

    uvloop.run(main())
    return load
