"""What the REST paths mean: Open Inference Protocol v2, its repository extension, and v1's predict."""

from __future__ import annotations

import itertools
import logging
import secrets
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Any
from urllib.parse import unquote

import msgspec

from serving.runtime.access import Caller, Policy
from serving.runtime.codec_json import JsonTemplate, decode_request, encode_response
from serving.runtime.codec_v1 import decode_predict, encode_predict
from serving.runtime.cors import Cors
from serving.runtime.engine import Engine
from serving.runtime.express import Express, most_rows
from serving.runtime.fastanswer import BINARY_TYPE, Answers
from serving.runtime.fastpath import FastReader
from serving.runtime.http1 import CLOSE, JSON_TYPE, STATUS_LINES, Connection, Exchange, Head
from serving.runtime.messages import InferRequest, InferResponse, timeout_of
from serving.runtime.model import Model
from slipway.errors import (
    DeadlineExceeded,
    InvalidRequest,
    ModelFailed,
    Overloaded,
    ServingError,
    SlipwayError,
)

METRICS_TYPE = b"content-type: text/plain; version=0.0.4; charset=utf-8\r\n"
log = logging.getLogger("slipway.rest")
_encode = msgspec.json.encode


class NotFound(ServingError):
    status = 404


class MethodNotAllowed(ServingError):
    status = 405

    def __init__(self, method: str, allowed: tuple[str, ...]) -> None:
        super().__init__(f"{method} on this path", fix=f"use {' or '.join(allowed)}")
        self.allowed = ", ".join(allowed)


_ACTIONS: dict[str, Any] = {
    "infer": "infer",
    "predict": "infer",
    "load": "manage",
    "unload": "manage",
    "live": "open",
    "ready": "open",
    "metrics": "open",
}
"""By handler; the others read."""


class Routes:
    def __init__(
        self,
        engine: Engine,
        policy: Policy | None = None,
        *,
        cors: Cors | None = None,
        bulk: bool = True,
    ) -> None:
        """`bulk`: answers may be written for a whole run at once, past Exchange.send."""
        self.engine = engine
        self._policy = policy
        self._cors = cors
        self._bulk = bulk
        self._tasks: set[Any] = set()
        self._serial = itertools.count()
        self._prefix = secrets.token_hex(6) + "-"
        self._prefix_bytes = self._prefix.encode()
        self._serving = engine.repository.serving
        engine.on_load(self._prepare)

    def _prepare(self, model: Model) -> None:
        template = model.extras["json"] = JsonTemplate(model, receipt(model))
        lines = "".join(
            f"x-slipway-{name.replace('_', '-')}: {value}\r\n" for name, value in receipt(model).items()
        )
        headers = STATUS_LINES[200] + JSON_TYPE + lines.encode("latin-1", "replace")
        model.extras["headers"] = headers
        answers = Answers(model, template, headers, self._prefix_bytes, self._serial, self.refuse)
        reader = model.extras["reader"] = FastReader(answers)
        engine = self.engine
        limit = min(most_rows(model), engine.config.max_queue)
        if self._bulk and limit:
            model.express = Express(model, reader, engine.loop, engine.observe_rows, limit=limit)

    # -- finding the handler, once for every head that is not yet known ------------------------------

    def route(self, head: Head) -> None:
        if self._cors is not None:
            head.extra = self._cors.lines(head)
        try:
            head.handler, allowed, head.arguments = self._resolve(head.target)
        except ServingError as error:
            head.error = error
            return
        method = "GET" if head.is_head else head.method
        if self._cors is not None and self._cors.is_preflight(head):
            # Browsers send no credentials with it, so no policy is asked.
            head.extra += self._cors.permission(allowed)
            head.handler = self.permit
        elif method not in allowed:
            head.error = MethodNotAllowed(head.method, allowed)
        elif self._policy is not None:
            self._guard(head)
        elif head.handler == self.infer and head.cacheable and head.keep_alive and not head.extra:
            head.take = self._take

    def _guard(self, head: Head) -> None:
        """Ask the policy before every request, because it may depend on the certificate and on time."""
        handler, policy = head.handler, self._policy
        action = _ACTIONS.get(getattr(handler, "__name__", ""), "read")
        if policy is None or action == "open":
            return
        head.guarded = True
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in head.headers.items()}
        model = str(head.arguments[0]) if head.arguments else ""

        def guarded(exchange: Exchange) -> None:
            certificate = exchange.connection.transport.get_extra_info("peercert")
            policy(Caller(action, model, headers, certificate))
            handler(exchange)

        head.handler = guarded

    def _resolve(self, target: bytes) -> tuple[Callable[[Exchange], None], tuple[str, ...], tuple[str, ...]]:
        try:
            parts = [unquote(part, errors="strict") for part in target.decode("ascii").strip("/").split("/")]
        except UnicodeDecodeError:
            raise InvalidRequest("the path is not UTF-8 in percent encoding") from None
        match parts:
            case ["v2"]:
                return self.server_metadata, ("GET",), ()
            case ["v2", "health", "live"]:
                return self.live, ("GET",), ()
            case ["v2", "health", "ready"]:
                return self.ready, ("GET",), ()
            case ["v2", "models"]:
                return self.index_get, ("GET",), ()
            case ["v2", "models", name, *rest]:
                version = ""
                if rest[:1] == ["versions"] and len(rest) >= 2:
                    version, rest = rest[1], rest[2:]
                match rest:
                    case []:
                        return self.model_metadata, ("GET",), (name, version)
                    case ["ready"]:
                        return self.model_ready, ("GET",), (name, version)
                    case ["drift"]:
                        return self.drift, ("GET",), (name, version)
                    case ["infer"]:
                        return self.infer, ("POST",), (name, version)
            case ["v1", "models"]:
                return self.index_v1, ("GET",), ()
            case ["v1", "models", name] if name.endswith(":predict"):
                return self.predict, ("POST",), (name.removesuffix(":predict"), "")
            case ["v1", "models", name, "versions", version] if version.endswith(":predict"):
                return self.predict, ("POST",), (name, version.removesuffix(":predict"))
            case ["v1", "models", name]:
                return self.model_ready, ("GET",), (name, "")
            case ["metrics"]:
                return self.metrics, ("GET",), ()
            case ["v2", "repository", "index"]:
                return self.index, ("POST", "GET"), ()
            case ["v2", "repository", "models", name, "load"]:
                return self.load, ("POST",), (name,)
            case ["v2", "repository", "models", name, "unload"]:
                return self.unload, ("POST",), (name,)
        raise NotFound("there is no such path", where=target.decode("latin-1")[:200], fix="see /v2 and docs")

    def permit(self, exchange: Exchange) -> None:
        exchange.answer(200, b"", b"")

    # -- inference -----------------------------------------------------------------------------------

    def _take(self, connection: Connection, head: Head, data: bytes, arrived: float) -> bool:
        model = self._serving.get(head.arguments)
        if model is None:
            return False
        express = model.express
        return express is not None and express.take(model, connection, head, data, arrived)

    def infer(self, exchange: Exchange) -> None:
        head = exchange.head
        model = self._serving.get(head.arguments)
        if model is None:
            self._spawn(exchange, self._infer_later(exchange))
            return
        request = model.extras["reader"].read(
            model, exchange.body, head.json_length, self._reply, exchange.arrived, exchange
        )
        if request is not None:
            exchange.request = request
            if not head.cacheable:
                request.trace, request.request_id = head.trace, head.request_id
            if not head.keep_alive or head.extra or not self._bulk:
                request.bulk = None
            if request.columns is None:
                model.lane.submit_or_run(request)
            else:
                self.engine.features.join(request)
            return
        self._infer_generally(exchange, model)

    async def _infer_later(self, exchange: Exchange) -> None:
        self._infer_generally(exchange, await self.engine.acquire(*exchange.head.arguments))

    def _infer_generally(self, exchange: Exchange, model: Model) -> None:
        head = exchange.head
        request = decode_request(exchange.body, model, self._reply, head.json_length)
        request.context = exchange
        request.arrived = exchange.arrived
        request.trace, request.request_id = head.trace, head.request_id
        exchange.request = request
        if request.parameters is not None:
            self._limit(exchange, request, timeout_of(request.parameters))
        self.engine.submit(request)
        read = request.columns is None and request.features is not None
        if request.deadline is None and not read and not exchange.head.encoding:
            model.extras["reader"].learn(exchange.body, head.json_length, request)
        exchange.body = b""

    def _limit(self, exchange: Exchange, request: InferRequest, seconds: float | None) -> None:
        """504 at that time, wherever the request stands."""
        if seconds is None:
            return
        request.deadline = request.arrived + seconds
        self.engine.loop.call_later(
            max(0.0, request.deadline - perf_counter()), self.expire, exchange, request
        )

    def expire(self, exchange: Exchange, request: InferRequest | None = None) -> None:
        """Nobody is to wait longer: 504, and the queue drops it."""
        expired = exchange.request
        if expired is None or (request is not None and request is not expired):
            return
        expired.cancelled = True
        waited = perf_counter() - expired.arrived
        error = DeadlineExceeded(
            f"no answer within {waited * 1000:.0f} ms",
            where=f"model {expired.model.name}",
            fix="give it longer",
        )
        self.refuse(exchange, error, expired)

    def predict(self, exchange: Exchange) -> None:
        """v1."""

        def admit(model: Model) -> None:
            request = decode_predict(exchange.body, model, self._reply_v1)
            request.context, request.arrived = exchange, exchange.arrived
            request.trace, request.request_id = exchange.head.trace, exchange.head.request_id
            exchange.request = request
            self.engine.submit(request)

        async def later() -> None:
            admit(await self.engine.acquire(*exchange.head.arguments))

        model = self._serving.get(exchange.head.arguments)
        if model is None:
            self._spawn(exchange, later())
        else:
            admit(model)

    def _reply_v1(self, request: InferRequest, result: InferResponse | SlipwayError) -> None:
        self._reply(request, result, encode_predict)

    def _identity(self, request: InferRequest) -> bytes:
        """The request's id for the answer's header and the logs; made here when the client sent none."""
        if not request.request_id:
            request.request_id = f"{self._prefix}{next(self._serial):x}"
        return request.request_id.encode("latin-1", "replace")

    def _reply(
        self,
        request: InferRequest,
        result: InferResponse | SlipwayError,
        encode: Callable[[InferResponse], bytes] | None = None,
    ) -> None:
        exchange: Exchange = request.context
        exchange.request = None
        if not isinstance(result, InferResponse):
            self.refuse(exchange, result, request)
            return
        try:
            extras = result.model.extras
            json_length = None
            if encode is not None:
                body = encode(result)
            else:
                body, json_length = encode_response(result, extras["json"])
            if json_length is None:
                kind = extras["headers"]
            else:
                kind = extras["headers"].replace(JSON_TYPE, BINARY_TYPE) + (
                    b"inference-header-content-length: %d\r\n" % json_length
                )
            exchange.send(
                b"%bx-request-id: %b\r\n%b%b%bcontent-length: %d\r\n\r\n%b"
                % (
                    kind,
                    self._identity(request),
                    exchange.head.extra,
                    b"" if request.trace is None else b"traceparent: %b\r\n" % request.trace.header.encode(),
                    b"" if exchange.head.keep_alive else CLOSE,
                    len(body),
                    body,
                )
            )
        except Exception as error:
            self.refuse(exchange, error)

    # -- the rest of v2 ------------------------------------------------------------------------------

    def live(self, exchange: Exchange) -> None:
        exchange.answer(200, b'{"live":true}')

    def ready(self, exchange: Exchange) -> None:
        if self.engine.ready:
            exchange.answer(200, b'{"ready":true}')
        else:
            exchange.answer(503, _encode({"ready": False, "reason": self.engine.not_ready_reason()}))

    def server_metadata(self, exchange: Exchange) -> None:
        exchange.answer(200, _encode(self.engine.server_metadata()))

    def model_metadata(self, exchange: Exchange) -> None:
        async def work() -> None:
            exchange.answer(200, _encode(await self.engine.model_metadata(*exchange.head.arguments)))

        self._spawn(exchange, work())

    def model_ready(self, exchange: Exchange) -> None:
        name, version = exchange.head.arguments
        ready = self.engine.model_ready(name, version)
        body: dict[str, Any] = {"name": name, "ready": ready}
        if not ready:
            body["reason"] = self.engine.repository.entry(name, version).reason
        exchange.answer(200 if ready else 503, _encode(body))

    def index(self, exchange: Exchange) -> None:
        ready_only = False
        if exchange.body.strip():
            try:
                ready_only = bool(msgspec.json.decode(exchange.body, type=_IndexRequest).ready)
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                raise InvalidRequest(f"not an index request: {error}") from None
        exchange.answer(200, _encode(self.engine.index(ready_only=ready_only)))

    def index_v1(self, exchange: Exchange) -> None:
        exchange.answer(200, _encode({"models": sorted(self.engine.repository.entries)}))

    def metrics(self, exchange: Exchange) -> None:
        async def work() -> None:
            exchange.answer(200, await self.engine.exposition(), METRICS_TYPE)

        self._spawn(exchange, work())

    def drift(self, exchange: Exchange) -> None:
        model = self._serving.get(exchange.head.arguments)
        report = self.engine.drift.report(model) if model is not None else None
        if report is None:
            raise NotFound("no drift is counted for it", fix="publish baseline.json beside the model")
        exchange.answer(200, _encode(report))

    def index_get(self, exchange: Exchange) -> None:
        names = sorted(self.engine.repository.entries)
        exchange.answer(200, _encode({"models": names}))

    def load(self, exchange: Exchange) -> None:
        async def work() -> None:
            await self.engine.load(exchange.head.arguments[0])
            exchange.answer(200, b"{}")

        self._spawn(exchange, work())

    def unload(self, exchange: Exchange) -> None:
        async def work() -> None:
            await self.engine.unload(exchange.head.arguments[0])
            exchange.answer(200, b"{}")

        self._spawn(exchange, work())

    # -- errors --------------------------------------------------------------------------------------

    def _spawn(self, exchange: Exchange, work: Awaitable[None]) -> None:
        async def guarded() -> None:
            try:
                await work
            except Exception as error:
                self.refuse(exchange, error)

        task = self.engine.loop.create_task(guarded())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def refuse(self, exchange: Exchange, error: Exception, request: InferRequest | None = None) -> None:
        """Answer an exception, with the status that its class means."""
        if not isinstance(error, SlipwayError):
            log.error("a request failed by a fault of the server", exc_info=error)
            error = ModelFailed(f"the server failed on this request: {error!r}")
        status = error.status if isinstance(error, ServingError) else 503
        head = exchange.head
        self.engine.metrics.count_error(
            str(head.arguments[0]) if head.arguments else "", "rest", type(error).__name__
        )
        headers = JSON_TYPE
        if isinstance(error, Overloaded):
            headers += b"retry-after: %d\r\n" % max(1, round(error.retry_after))
        if isinstance(error, MethodNotAllowed):
            # RFC 9110 15.5.6: a 405 must say what is allowed.
            headers += b"allow: %b\r\n" % error.allowed.encode()
        if status == 401:
            headers += b"www-authenticate: Bearer\r\n"
        request = request or exchange.request
        exchange.request = None
        identity = (
            self._identity(request) if request else exchange.head.request_id.encode("latin-1", "replace")
        )
        if status == 500:
            told = {"request_id": identity.decode("latin-1"), "status": status, "path": head.target.decode()}
            log.error("%s", error, extra=told)
        if identity:
            headers += b"x-request-id: " + identity + b"\r\n"
        exchange.answer(status, _encode({"error": str(error)}), headers)


class _IndexRequest(msgspec.Struct):
    ready: bool = False


def receipt(model: Model) -> dict[str, str]:
    """Where an answer came from, in the fewest words that `slipway trace` can follow."""
    found = {"model_digest": model.digest}
    contract = model.contract
    if contract is not None:
        if contract.origin is not None:
            found["run_id"] = contract.origin.run_id
        if contract.feature_service is not None:
            found["feature_service"] = f"{contract.feature_service.name}@{contract.feature_service.digest}"
        if contract.snapshot is not None:
            found["snapshot"] = contract.snapshot.digest
    return {name: value for name, value in found.items() if value}
