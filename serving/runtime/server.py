"""One serving process: the loop, the ports, the start and the end."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
from collections.abc import Callable, Collection, Mapping
from time import monotonic, perf_counter
from typing import TYPE_CHECKING

import uvloop

from serving.runtime import logs
from serving.runtime.access import Policy, load_policy, tls_context
from serving.runtime.access_log import AccessLog
from serving.runtime.config import Config
from serving.runtime.cors import Cors
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

Ender = Callable[[float], None]
"""Called at the end, in a thread, with the seconds that are left."""
BACKLOG = 1024
QUIET_SECONDS = 0.25


def bind(host: str, port: int, *, shared: bool) -> socket.socket:
    """A socket that has its port but does not listen yet; `shared` lets other workers have the port too."""
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
    server.setblocking(False)
    return server


async def serve(config: Config, writer: logs.Writer, siblings: Siblings | None = None) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    policy = load_policy(config)
    engine = Engine(config, open_storage(config.model_dir), loop)
    enders = _observe(engine, config)
    access_log = AccessLog(writer) if config.access_log else None
    if access_log is not None:
        engine.metrics.extra.append(access_log.expose)
        enders.append(access_log.close)
    http = _rest(engine, config, policy, access_log)
    grpc = _grpc(engine, policy, access_log) if config.grpc_port >= 0 else None
    connections: dict[str, Collection[object]] = {"rest": http.connections}
    if grpc is not None:
        connections["grpc"] = grpc.front.connections
    engine.metrics.extra.append(lambda lines: _connections(lines, connections))
    shared = siblings is not None
    http_socket = bind(config.http_host, config.http_port, shared=shared)
    http_tls = tls_context(config, ["http/1.1"])
    if grpc is not None:
        grpc_socket = bind(config.grpc_host or config.http_host, config.grpc_port, shared=shared)
        grpc_tls = tls_context(config, ["h2"])
    if siblings is not None:
        await siblings.open(engine)
    starting = loop.create_task(_start(engine, stop, siblings))
    if siblings is not None and not siblings.first:
        # What the kernel gave to this worker now would be answered 503, while others can answer it. The
        # first listens at once, so that somebody can say how far the start is.
        stopping = loop.create_task(stop.wait())
        await asyncio.wait([starting, stopping], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
    http_socket.listen(BACKLOG)
    listener = await loop.create_server(http, sock=http_socket, ssl=http_tls, backlog=BACKLOG)
    http.sweep()
    log.info("REST on %s:%d, models from %s", *http_socket.getsockname()[:2], config.model_dir)
    if grpc is not None:
        grpc_socket.listen(BACKLOG)
        await grpc.start(grpc_socket, grpc_tls)
        log.info("gRPC on %s:%d", *grpc_socket.getsockname()[:2])
    await stop.wait()

    log.info("draining: no new requests")
    engine.draining = True
    until = monotonic() + config.drain_seconds
    # Both ports at the same time: each has the whole of the grace period.
    ports = [_drain(http, listener, engine, until)]
    if grpc is not None:
        ports.append(grpc.drain(config.drain_seconds))
    await asyncio.gather(*ports)
    starting.cancel()
    await engine.features.close()
    for end in enders:
        await loop.run_in_executor(None, end, max(1.0, until - monotonic()))
    if siblings is not None:
        siblings.close()
    engine.close()
    log.info("gone")
    if engine.failed is not None:
        raise engine.failed


async def _drain(http: Server, listener: asyncio.Server, engine: Engine, until: float) -> None:
    """End without a failed request.

    Readiness says no from now on, but a load balancer needs a moment to hear of it, and a client may be about
    to use its idle connection again: both are served on, and told with the answer to come to another
    connection. When nothing has come for QUIET_SECONDS, or half the time is over, the port closes.
    """
    http.drain()
    quiet_until = (monotonic() + until) / 2
    while http.connections and perf_counter() - http.arrived < QUIET_SECONDS and monotonic() < quiet_until:
        await asyncio.sleep(0.02)
    # What waits in the backlog of a socket that is closed would be reset: let the loop accept it first.
    for _ in range(3):
        await asyncio.sleep(0)
    listener.close()
    while (http.connections or engine.busy()) and monotonic() < until:
        for connection in list(http.connections):
            connection.shut()
        await asyncio.sleep(0.02)


def _observe(engine: Engine, config: Config) -> list[Ender]:
    """Traces and captured predictions, where they are wanted; what is to be called at the end."""
    enders: list[Ender] = []
    exporter = exporter_from()
    if exporter is not None:
        engine.on_batch(exporter.observe, None)
        enders.append(exporter.close)
    if config.capture_uri:
        from serving.runtime.capture import capture_from

        capture = capture_from(config)
        engine.on_batch(capture.observe, capture.observe_rows)
        engine.metrics.extra.append(capture.expose)
        enders.append(capture.close)
    return enders


def _rest(engine: Engine, config: Config, policy: Policy | None, access_log: AccessLog | None) -> Server:
    cors = Cors(config.cors_origin) if config.cors_origin else None
    routes = Routes(engine, policy, cors=cors, bulk=not config.access_log)
    http = Server(config, engine.loop, routes.route, routes.refuse, routes.expire)
    if access_log is not None:
        http.log = access_log.answered
    return http


def _grpc(engine: Engine, policy: Policy | None, access_log: AccessLog | None) -> GrpcServer:
    """Made before the models are loaded: it prepares each as it comes."""
    from serving.runtime.grpc.server import GrpcServer

    return GrpcServer(engine, policy, access_log)


async def _start(engine: Engine, stop: asyncio.Event, siblings: Siblings | None) -> None:
    try:
        await engine.start()
    except Exception as error:
        # Without models there is nothing to serve: end, and let whoever started it see why.
        log.error("the models cannot be read: %s", error)  # noqa: TRY400 - the message says it all
        engine.failed = error
        stop.set()
        return
    if siblings is not None:
        siblings.fate.tell_started()
    # What is loaded stays: the collector need not look at 100,000 objects again and again, and with
    # everything on the hot path freed by reference count it has little to find.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 50, 50)


def _connections(lines: Lines, open_ones: Mapping[str, Collection[object]]) -> None:
    lines.family("slipway_connections", "gauge", "open connections")
    for protocol, found in open_ones.items():
        lines.sample("slipway_connections", {"protocol": protocol}, len(found))


def run(config: Config, siblings: Siblings | None = None) -> None:
    writer = logs.configure(config.log_level)
    try:
        uvloop.run(serve(config, writer, siblings))
    finally:
        writer.close()
