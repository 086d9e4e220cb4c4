"""The gRPC port of one serving process."""

from __future__ import annotations

import asyncio
import socket
import ssl

from serving.runtime.access import Action, Caller, Policy
from serving.runtime.engine import Engine
from serving.runtime.grpc.application import Gate, GrpcApplication, Observer
from serving.runtime.grpc.health import Health
from serving.runtime.grpc.inference import Inference
from serving.runtime.grpc.protobuf import load_descriptors
from serving.runtime.grpc.reflection import reflection_methods
from serving.runtime.http2 import Front, Limits

_MANAGING = {"RepositoryModelLoad", "RepositoryModelUnload"}
_INFERRING = {"ModelInfer", "ModelStreamInfer"}


def gate_of(policy: Policy) -> Gate:
    """The access policy of the REST port, asked about calls. Health and reflection stay open, as there."""

    def gate(metadata: dict[str, str], path: str) -> None:
        service, _, method = path.lstrip("/").partition("/")
        if service != "inference.GRPCInferenceService" or method in ("ServerLive", "ServerReady"):
            return
        action: Action = "manage" if method in _MANAGING else "infer" if method in _INFERRING else "read"
        # The model's name stands in the message, which is not read before the caller may send it.
        policy(Caller(action, "", metadata))

    return gate


class GrpcServer:
    def __init__(
        self,
        engine: Engine,
        *,
        limits: Limits | None = None,
        gate: Gate | None = None,
        observer: Observer | None = None,
    ) -> None:
        descriptors = load_descriptors()
        config = engine.config
        self.application = GrpcApplication(
            {
                **Inference(engine, descriptors).methods(),
                **Health(engine, descriptors).methods(),
                **reflection_methods(descriptors),
            },
            asyncio.get_running_loop(),
            max_message=config.max_body,
            default_timeout=config.request_timeout,
            gate=gate,
            observer=observer,
        )
        self.front = Front(self.application, limits or Limits())

    async def start(self, sock: socket.socket, tls: ssl.SSLContext | None = None) -> None:
        await self.front.start(sock, tls)

    async def drain(self, seconds: float) -> None:
        await self.front.drain(seconds)
