"""One serving process: the loop, the ports, the start and the end."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from time import monotonic
from typing import Any

import uvloop

from serving.runtime.config import Config
from serving.runtime.engine import Engine
from serving.runtime.http1 import Server
from serving.runtime.routes import Routes
from serving.runtime.storage import open_storage

log = logging.getLogger("slipway.server")


def listen(host: str, port: int, *, shared: bool) -> socket.socket:
    """A listening socket; `shared` lets the other workers listen on the same port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    server = socket.socket(family, socket.SOCK_STREAM)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    server.bind((host, port))
    server.listen(1024)
    server.setblocking(False)
    return server


async def serve(config: Config) -> None:
    loop = asyncio.get_running_loop()
    engine = Engine(config, open_storage(config.model_dir), loop)
    routes = Routes(engine)
    http = Server(config, loop, routes.route, routes.refuse)
    http_socket = listen(config.http_host, config.http_port, shared=config.workers > 1)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    listener = await loop.create_server(http, sock=http_socket)
    http.sweep()
    closers: list[Any] = []
    if config.grpc_port >= 0:
        closers += await start_grpc(engine, config)
    print(f"slipway: REST on {_address(http_socket)}", flush=True)
    started = loop.create_task(engine.start())
    await stop.wait()
    engine.draining = True
    listener.close()
    for connection in list(http.connections):
        connection.shut()
    until = monotonic() + config.drain_seconds
    while http.connections and monotonic() < until:
        await asyncio.sleep(0.02)
    for close in closers:
        await close(max(0.0, until - monotonic()))
    started.cancel()
    engine.close()


async def start_grpc(engine: Engine, config: Config) -> list[Any]:
    """The gRPC front, where it is; each of what it gives back is awaited with the seconds left to drain."""
    return []


def _address(server: socket.socket) -> str:
    host, port = server.getsockname()[:2]
    return f"{host}:{port}"


def run(config: Config) -> None:
    uvloop.run(serve(config))
