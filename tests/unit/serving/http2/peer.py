"""The HTTP/2 front in this process, with an application that answers every request, and no sockets."""

from __future__ import annotations

import asyncio
import struct
from typing import Any

from serving.runtime.http2 import Connection, Fields, Headers, Limits, RequestHead, Stream
from tests.benchmarks._load_grpc import _frame as frame
from tests.fuzz.conftest import Transport

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)
HEAD = b"\x83\x86\x44\x02/a\x41\x01a"
"""POST http /a, authority a; the literals go into the table."""
ANSWER, END = Fields((b":status", b"200")), Fields((b"done", b"yes"))


class Echo(Stream):
    """Answers the whole body, once it is there."""

    body: bytes = b""

    def begin(self) -> None:
        if self.remote_closed:
            self.respond(ANSWER, b"", b"empty", END)

    def receive(self, data: bytes, start: int, stop: int) -> None:
        self.body += data[start:stop]
        if self.remote_closed:
            self.respond(ANSWER, b"", self.body, END)


class Echoes:
    stream = Echo
    headers_too_large: Headers = ((b":status", b"431"),)
    not_http2 = b"HTTP/1.1 400 Bad Request\r\n\r\n"

    def prepare(self, head: RequestHead) -> Any:
        return None

    vary = prepare


class Peer:
    """A client that writes frames and reads what comes back."""

    def __init__(self, limits: Limits | None = None, *, greet: bool = True) -> None:
        self.peers: set[Connection] = set()
        self.connection = Connection(Echoes(), limits or Limits(), asyncio.get_running_loop(), self.peers)
        self.transport = Transport(strict=False)
        self.connection.connection_made(self.transport)
        if greet:
            self.send(PREFACE + frame(SETTINGS, 0, 0, b""))

    def send(self, data: bytes) -> None:
        self.connection.data_received(data)

    async def frames(self) -> list[tuple[int, int, int, bytes]]:
        """What was written since the last look, without our settings and their acknowledgement."""
        await asyncio.sleep(0.01)
        written, self.transport.written = bytes(self.transport.written), bytearray()
        found, at = [], 0
        while at < len(written):
            size = int.from_bytes(written[at : at + 3], "big")
            stream = int.from_bytes(written[at + 5 : at + 9], "big")
            found.append((written[at + 3], written[at + 4], stream, written[at + 9 : at + 9 + size]))
            at += 9 + size
        return [item for item in found if item[0] != SETTINGS and item[:3] != (WINDOW, 0, 0)]

    async def fate(self) -> tuple[str, int] | None:
        """How it ended: ("goaway", code), ("reset", code), or None when all is well."""
        for kind, _, _, payload in await self.frames():
            if kind == GOAWAY:
                return "goaway", struct.unpack(">I", payload[4:8])[0]
            if kind == RST:
                return "reset", struct.unpack(">I", payload)[0]
        return None


def word(value: int) -> bytes:
    return struct.pack(">I", value)


def setting(key: int, value: int) -> bytes:
    return frame(SETTINGS, 0, 0, struct.pack(">HI", key, value))
