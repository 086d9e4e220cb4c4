"""grpc.health.v1: the server (empty name), the inference service, and each model by its name."""

from __future__ import annotations

from typing import Any

from serving.runtime.engine import Engine
from serving.runtime.grpc.call import Call
from serving.runtime.grpc.inference import SERVICE
from serving.runtime.grpc.methods import Plain, Unary, decode
from serving.runtime.grpc.protobuf import Descriptors, Message
from serving.runtime.grpc.status import CallFailed, Status
from slipway.errors import ModelNotFound

SERVING, NOT_SERVING, SERVICE_UNKNOWN = 1, 2, 3
WATCH_SECONDS = 0.25


class Health:
    def __init__(self, engine: Engine, descriptors: Descriptors) -> None:
        self._engine = engine
        self._descriptors = descriptors

    def methods(self) -> dict[str, Any]:
        check = self._descriptors.methods["/grpc.health.v1.Health/Check"]
        watch = self._descriptors.methods["/grpc.health.v1.Health/Watch"]
        return {
            check.path: Plain(self._check, check.request, check.response, self.guard),
            watch.path: Watch(self, watch.request, watch.response),
        }

    def guard(self, call: Call, request: dict[str, Any]) -> None:
        """The server's health is everybody's; that of a model is asked about as over REST."""
        service = request.get("service", "")
        if service not in ("", SERVICE):
            call.model = service
            call.application.authorize(call, "read", service)

    def status(self, service: str) -> int:
        if service in ("", SERVICE):
            return SERVING if self._engine.ready else NOT_SERVING
        try:
            ready = self._engine.model_ready(service)
        except ModelNotFound:
            return SERVICE_UNKNOWN
        return SERVING if ready and not self._engine.draining else NOT_SERVING

    @property
    def draining(self) -> bool:
        return self._engine.draining

    def _check(self, request: dict[str, Any]) -> dict[str, Any]:
        service = request.get("service", "")
        status = self.status(service)
        if status == SERVICE_UNKNOWN:
            raise CallFailed(Status.NOT_FOUND, f"there is no service and no model {service[:200]!r}")
        return {"status": status}


class Watch(Unary):
    """Answers at once and at every change, until the client leaves or the server drains."""

    long = True

    def __init__(self, health: Health, request: Message, response: Message) -> None:
        self._health = health
        self._request = request
        self._response = response

    def call(self, call: Call, data: bytes, start: int, stop: int) -> None:
        request = decode(self._request, data, start, stop)
        self._health.guard(call, request)
        service = request.get("service", "")
        call.on_cancel = lambda: call.timer and call.timer.cancel()
        self._look(call, service, None)

    def _look(self, call: Call, service: str, before: int | None) -> None:
        if call.closed:
            return
        status = self._health.status(service)
        if status != before:
            call.send_message(self._response.encode({"status": status}))
        if self._health.draining:
            call.abandoned()
            return
        if call.deadline is None:
            call.timer = call.application.loop.call_later(WATCH_SECONDS, self._look, call, service, status)
        else:
            call.application.loop.call_later(WATCH_SECONDS, self._look, call, service, status)
