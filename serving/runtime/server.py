"""One serving process: the loop, the ports, the start and the end."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
from collections.abc import Callable, Collection, Coroutine, Mapping
from time import monotonic
from typing import TYPE_CHECKING, Any

import uvloop

from serving.runtime import logs
from serving.runtime.access import Policy, load_policy, tls_context
from serving.runtime.config import Config
from serving.runtime.engine import Engine
from serving.runtime.http1 import Server
from serving.runtime.metrics import Lines
from serving.runtime.routes import Routes
from serving.runtime.storage import open_storage
from serving.runtime.tracing import exporter_from
from serving.runtime.workers import Siblings
from slipway.errors import SettingsError

if TYPE_CHECKING:
    from serving.runtime.grpc.server import GrpcServer

log = logging.getLogger("slipway.server")

Closer = Callable[[float], Coroutine[Any, Any, None]]
"""Awaited at the end with the seconds that it may take for draining."""


def listen(host: str, port: int, *, shared: bool) -> socket.socket:
    """A listening socket; `shared` lets the other workers listen on the same port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    server = socket.socket(family, socket.SOCK_STREAM)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        server.bind((host, port))
    except OSError as error:
        server.close()
        raise SettingsError(
            f"cannot listen on {host}:{port}: {error.strerror}",
            fix="end the process that has the port, or choose another with --http-port and --grpc-port",
        ) from error
    server.listen(1024)
    server.setblocking(False)
    return server


async def serve(config: Config, siblings: Siblings | None = None) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    policy = load_policy(config)
    engine = Engine(config, open_storage(config.model_dir), loop)
    exporter = exporter_from()
    if exporter is not None:
        engine.on_batch(exporter.observe)
    capture = None
    if config.capture_uri:
        from serving.runtime.capture import capture_from

        capture = capture_from(config)
        engine.on_batch(capture.observe)
        engine.metrics.extra.append(capture.expose)
    routes = Routes(engine, policy)
    http = Server(config, loop, routes.route, routes.refuse, routes.expire)
    http_socket = listen(config.http_host, config.http_port, shared=siblings is not None)
    listener = await loop.create_server(http, sock=http_socket, ssl=tls_context(config, ["http/1.1"]))
    http.sweep()
    if siblings is not None:
        await siblings.open(engine)
    connections: dict[str, Collection[object]] = {"rest": http.connections}
    closers: list[Closer] = []
    if config.grpc_port >= 0:
        grpc = await start_grpc(engine, config, policy, shared=siblings is not None)
        connections["grpc"] = grpc.front.connections
        closers.append(grpc.drain)
    engine.metrics.extra.append(lambda lines: _connections(lines, connections))
    host, port = http_socket.getsockname()[:2]
    log.info("REST on %s:%d, models from %s", host, port, config.model_dir)
    starting = loop.create_task(_start(engine, stop))
    await stop.wait()

    log.info("draining: no new requests")
    engine.draining = True
    until = monotonic() + config.drain_seconds
    # All ports at the same time: each has the whole of the grace period.
    closing = [loop.create_task(close(config.drain_seconds)) for close in closers]
    # Readiness says no from now on; a load balancer that has not heard of it still gets its answers.
    for connection in list(http.connections):
        connection.shut()
    listener.close()
    while (http.connections or engine.busy()) and monotonic() < until:
        for connection in list(http.connections):
            connection.shut()
        await asyncio.sleep(0.02)
    await asyncio.gather(*closing)
    starting.cancel()
    await engine.features.close()
    if capture is not None:
        await loop.run_in_executor(None, capture.close)
    if exporter is not None:
        await loop.run_in_executor(None, exporter.close)
    if siblings is not None:
        siblings.close()
    engine.close()
    log.info("gone")
    if engine.failed is not None:
        raise engine.failed


async def _start(engine: Engine, stop: asyncio.Event) -> None:
    try:
        await engine.start()
    except Exception as error:
        # Without models there is nothing to serve: end, and let whoever started it see why.
        log.error("the models cannot be read: %s", error)  # noqa: TRY400 - the message says it all
        engine.failed = error
        stop.set()
        return
    # What is loaded stays: the collector need not look at 100,000 objects again and again, and with
    # everything on the hot path freed by reference count it has little to find.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 50, 50)


async def start_grpc(engine: Engine, config: Config, policy: Policy | None, *, shared: bool) -> GrpcServer:
    from serving.runtime.grpc.server import GrpcServer

    server = GrpcServer(engine, policy)
    grpc_socket = listen(config.grpc_host or config.http_host, config.grpc_port, shared=shared)
    await server.start(grpc_socket, tls_context(config, ["h2"]))
    host, port = grpc_socket.getsockname()[:2]
    log.info("gRPC on %s:%d", host, port)
    return server


def _connections(lines: Lines, open_ones: Mapping[str, Collection[object]]) -> None:
    lines.family("slipway_connections", "gauge", "open connections")
    for protocol, found in open_ones.items():
        lines.sample("slipway_connections", {"protocol": protocol}, len(found))


def run(config: Config, siblings: Siblings | None = None) -> None:
    logs.configure(config.log_level)
    uvloop.run(serve(config, siblings))
