"""Connections on real sockets, closed by the server in the very moment in which a client uses them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from serving.runtime.config import parse_config
from serving.runtime.http1 import Connection, Exchange, Head, Server

REQUEST = b"GET /anything HTTP/1.1\r\nHost: a\r\n\r\n"


class Fixed:
    """A server whose every answer is the same, and one client's connection to it."""

    def __init__(self, server: Server, client: socket.socket) -> None:
        self.server = server
        self.client = client

    @property
    def connection(self) -> Connection:
        (found,) = self.server.connections
        return found

    async def read(self) -> bytes:
        """All until the server closes."""
        loop = asyncio.get_running_loop()
        received = b""
        async with asyncio.timeout(60):
            while piece := await loop.sock_recv(self.client, 65536):
                received += piece
        return received


@pytest.fixture
async def fixed() -> AsyncIterator[Fixed]:
    def answer(exchange: Exchange) -> None:
        exchange.answer(200, b"{}")

    def route(head: Head) -> None:
        head.handler = answer

    loop = asyncio.get_running_loop()
    config = parse_config([], {})
    server = Server(config, loop, route, lambda exchange, error: None, lambda exchange: None)
    listener = await loop.create_server(server, "127.0.0.1", 0)
    with socket.create_connection(listener.sockets[0].getsockname(), 10) as client:
        client.setblocking(False)
        while not server.connections:
            await asyncio.sleep(0)
        yield Fixed(server, client)
    listener.close()
    if server._sweeper is not None:
        server._sweeper.cancel()


async def test_a_request_that_crosses_the_end_of_the_server_is_answered(fixed: Fixed) -> None:
    fixed.server.drain()
    await asyncio.sleep(0.01)
    fixed.client.send(REQUEST)  # it lies in the kernel: the loop has not read it when the server shuts
    fixed.connection.shut()
    received = await fixed.read()
    assert received.startswith(b"HTTP/1.1 200 OK")
    assert b"connection: close" in received


async def test_an_idle_connection_closes_at_the_end_of_the_server(fixed: Fixed) -> None:
    fixed.server.drain()
    fixed.connection.shut()
    assert await fixed.read() == b""


async def test_a_request_that_crosses_the_idle_timeout_is_answered(fixed: Fixed) -> None:
    fixed.connection.since -= fixed.server.config.idle_timeout + 1
    fixed.client.send(REQUEST)
    fixed.server.sweep()
    await asyncio.sleep(0.05)
    assert fixed.client.recv(65536).startswith(b"HTTP/1.1 200 OK")
    fixed.connection.since -= fixed.server.config.idle_timeout + 1
    fixed.server.sweep()
    assert await fixed.read() == b""
