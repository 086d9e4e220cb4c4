"""The gRPC port of one serving process."""

from __future__ import annotations

import asyncio
import socket
import ssl

from serving.runtime.access import Action, Caller, Policy
from serving.runtime.access_log import Access, AccessLog
from serving.runtime.config import Config
from serving.runtime.engine import Engine
from serving.runtime.grpc.application import EndObserver, Gate, GrpcApplication, metadata_of
from serving.runtime.grpc.call import Call, CallHead
from serving.runtime.grpc.health import Health
from serving.runtime.grpc.inference import Inference
from serving.runtime.grpc.protobuf import load_descriptors
from serving.runtime.grpc.reflection import reflection_methods
from serving.runtime.grpc.request_ids import RequestIds
from serving.runtime.grpc.status import Status
from serving.runtime.http2 import Front, Limits
from serving.runtime.http2.codes import DEFAULT_FRAME_SIZE


def gate_of(policy: Policy) -> Gate:
    """The access policy of the REST port, asked about calls. The server's own health and reflection, which
    shows no more than the protocol's public text, stay open."""

    def gate(call: Call, action: Action, model: str) -> None:
        policy(Caller(action, model, metadata_of(call.head), call.connection.certificate))

    return gate


def limits_of(config: Config) -> Limits:
    """What the REST port is told, in the terms of HTTP/2. Blocks are larger than lists: a list that passes
    its limit is answered, a block that does not end costs the connection."""
    block = 4 * config.max_header
    return Limits(
        connections=config.max_connections,
        header_list=config.max_header,
        header_block=block,
        continuations=16 + block // DEFAULT_FRAME_SIZE,
        preface_seconds=config.header_timeout,
        stalled_seconds=config.body_timeout,
    )


def logger_of(access_log: AccessLog) -> EndObserver:
    def ended(call: Call, status: Status, now: float) -> None:
        head = call.head
        prepared: CallHead = head.prepared
        request = call.request
        access_log.add(
            Access(
                call.arrived,
                now,
                f"gRPC {head.path.decode('latin-1')}",
                0,
                prepared.request_id if request is None else request.request_id,
                prepared.traceparent[3:35] if prepared.trace() is not None else "",
                call.model if request is None else request.model.name,
                "" if request is None else request.model.version,
                status.name,
            )
        )

    return ended


class GrpcServer:
    def __init__(
        self, engine: Engine, policy: Policy | None = None, access_log: AccessLog | None = None
    ) -> None:
        descriptors = load_descriptors()
        config = engine.config
        ids = RequestIds()
        self.application = GrpcApplication(
            {
                **Inference(engine, descriptors, ids).methods(),
                **Health(engine, descriptors).methods(),
                **reflection_methods(descriptors),
            },
            asyncio.get_running_loop(),
            ids,
            max_message=config.max_body,
            default_timeout=config.request_timeout,
            gate=None if policy is None else gate_of(policy),
            ended=None if access_log is None else logger_of(access_log),
            observer=lambda call, kind: engine.metrics.count_error(call.model, "grpc", kind),
        )
        self.front = Front(self.application, limits_of(config))
        self.application.deadlines.connections = self.front.connections

    async def start(self, sock: socket.socket, tls: ssl.SSLContext | None = None) -> None:
        await self.front.start(sock, tls)

    async def drain(self, seconds: float) -> None:
        await self.front.drain(seconds)
