"""inference.GRPCInferenceService: every method of the Open Inference Protocol, on the engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter
from typing import Any

from serving.runtime.access import Action
from serving.runtime.engine import Engine
from serving.runtime.grpc import request_ids
from serving.runtime.grpc.call import ANSWER_HEADERS, OK_TRAILERS, Call, CallHead
from serving.runtime.grpc.express import Express
from serving.runtime.grpc.infer_codec import InferDecoder, InferMessage, piece, tensors_of
from serving.runtime.grpc.methods import Guard, Handler, Plain, Unary, not_a
from serving.runtime.grpc.protobuf import Descriptors
from serving.runtime.grpc.request_ids import RequestIds
from serving.runtime.grpc.streaming import ModelStreamInfer
from serving.runtime.grpc.templates import Template, Templates, Writer
from serving.runtime.http2 import (
    Connection,
    Fields,
    Found,
    RequestHead,
    literal,
    respond_all,
    respond_rows,
)
from serving.runtime.messages import Batch, InferRequest, InferResponse, RequestedOutput, Tensor, timeout_of
from serving.runtime.model import Model
from serving.runtime.routes import receipt
from slipway.errors import InvalidRequest, ModelFailed, ModelNotFound, SlipwayError

SERVICE = "inference.GRPCInferenceService"
_ALIKE = 8


class Inference:
    def __init__(self, engine: Engine, descriptors: Descriptors, ids: RequestIds) -> None:
        self.engine = engine
        self.ids = ids
        self.descriptors = descriptors
        self.templates = Templates()
        self.decoder = InferDecoder(descriptors.messages["inference.ModelInferRequest.ParametersEntry"])
        self.infer = ModelInfer(self)
        engine.on_load(self._prepare)

    def _prepare(self, model: Model) -> None:
        """Once for each model that is loaded."""
        found = receipt(model)
        told = [
            (f"x-slipway-{name.replace('_', '-')}".encode(), value.encode("ascii", "replace"))
            for name, value in found.items()
        ]
        writer = model.extras["grpc"] = Writer(model, found, Fields(*ANSWER_HEADERS.headers, *told))
        model.extras["grpc express"] = Express(model, writer, self.engine, self.ids, self.infer.take)

    def methods(self) -> dict[str, Any]:
        plain: dict[str, tuple[Handler, Guard | None]] = {
            "ServerLive": (lambda request: {"live": True}, None),
            "ServerReady": (lambda request: {"ready": self.engine.ready}, None),
            "ServerMetadata": (lambda request: self.engine.server_metadata(), _asks("read")),
            "ModelReady": (self._model_ready, _asks("read", _name)),
            "ModelMetadata": (self._model_metadata, _asks("read", _name)),
            "RepositoryIndex": (self._index, _asks("read")),
            "RepositoryModelLoad": (self._load, _asks("manage", _repository_name)),
            "RepositoryModelUnload": (self._unload, _asks("manage", _repository_name)),
        }
        methods: dict[str, Any] = {
            f"/{SERVICE}/ModelInfer": self.infer,
            f"/{SERVICE}/ModelStreamInfer": ModelStreamInfer(self),
        }
        for name, (handler, guard) in plain.items():
            method = self.descriptors.methods[f"/{SERVICE}/{name}"]
            methods[method.path] = Plain(handler, method.request, method.response, guard)
        return methods

    # -- the small methods -------------------------------------------------------------------------

    def _model_ready(self, request: dict[str, Any]) -> dict[str, Any]:
        ready = self.engine.model_ready(_name(request), request.get("version", ""))
        return {"ready": ready and self.engine.ready}

    async def _model_metadata(self, request: dict[str, Any]) -> dict[str, Any]:
        return await self.engine.model_metadata(_name(request), request.get("version", ""))

    def _index(self, request: dict[str, Any]) -> dict[str, Any]:
        return {"models": self.engine.index(ready_only=request.get("ready", False))}

    async def _load(self, request: dict[str, Any]) -> dict[str, Any]:
        name = _named(request)
        await self.engine.load(name)
        return {"model_name": name, "isLoaded": True}

    async def _unload(self, request: dict[str, Any]) -> dict[str, Any]:
        name = _named(request)
        await self.engine.unload(name)
        return {"model_name": name, "isUnloaded": True}

    # -- inference ---------------------------------------------------------------------------------

    def decode(self, call: Call, data: bytes, start: int, stop: int) -> InferMessage:
        """The message, of somebody who may send it."""
        try:
            message = self.decoder.decode(data, start, stop)
        except ValueError as error:
            raise not_a("inference.ModelInferRequest", error) from None
        call.model = message.model_name
        call.application.authorize(call, "infer", message.model_name)
        if not message.model_name:
            raise InvalidRequest("the request names no model", fix="set model_name")
        return message

    def build(
        self, call: Call, model: Model, message: InferMessage, data: bytes, reply: Any, arrived: float
    ) -> InferRequest:
        """The engine's request; its deadline is the one that the message names."""
        request = InferRequest(model, tensors_of(message, data), reply, arrived)
        request.id = message.id
        if message.parameters:
            request.parameters = message.parameters
            seconds = timeout_of(message.parameters)
            if seconds is not None:
                request.deadline = arrived + seconds
        if message.outputs:
            for name, _ in message.outputs:
                if name not in model.output_numbers:
                    raise InvalidRequest(
                        f"the model has no output {name!r}",
                        where=f"model {model.name}",
                        fix=f"its outputs are {', '.join(map(repr, model.output_numbers))}",
                    )
            request.outputs = [
                RequestedOutput(name, True, parameters or None) for name, parameters in message.outputs
            ]
        head: CallHead = call.head.prepared
        request.context = (call.connection, call.id)
        request.request_id = head.request_id
        request.trace = head.trace()
        return request


class ModelInfer(Unary):
    def __init__(self, service: Inference) -> None:
        self._service = service
        self._engine = service.engine
        self._serving = service.engine.repository.serving
        self._find = service.templates.find
        # One object: the engine tells by identity which requests it may answer together.
        # None where each has to be logged.
        config = service.engine.config
        self._bulk = None if config.access_log else self._reply_all
        # Captured predictions name their requests.
        self._named = bool(config.capture_uri)

    def _take_rows(
        self,
        template: Template,
        connection: Connection,
        head: RequestHead,
        streams: Sequence[int],
        windows: Sequence[int],
        parts: Sequence[bytes],
    ) -> bool:
        """As `take`, of calls behind which nothing came: whether they are answered without streams."""
        model = self._serving.get(template.route)
        if model is None or template.model() is not model:
            return False
        express: Express = model.extras["grpc express"]
        return express.take(model, template, connection, head, streams, windows, parts)

    def take(self, template: Template, connection: Any, found: list[Found]) -> None:
        """Calls that are like one before in all but the data, which came together."""
        now = perf_counter()
        model = self._serving.get(template.route)
        make, streams = connection.make_stream, connection.streams
        if model is None or template.model() is not model:
            connection.forget_pattern(found[0][1])
            for stream_id, head, window, part in found:
                call = streams[stream_id] = make(connection, stream_id, head, window)
                call.begin()
                if not call.closed:
                    call.remote_closed = True
                    message = template.opening + part + template.after
                    call.receive(message, 0, len(message))
            return
        _, _, _, _, _, _, whole, name, datatype, shape, rows, key, _, _, _ = template
        reply, bulk = self._reply, self._bulk
        gate, deadlines = make.application.gate, make.application.deadlines
        requests: list[InferRequest] = []
        for stream_id, head, window, part in found:
            request = InferRequest(
                model,
                [Tensor(name, datatype, shape, part)],
                reply,
                now,
                rows,
                key,
                (connection, stream_id),
                bulk,
                submitted=now,
            )
            call = streams[stream_id] = make(
                connection,
                stream_id,
                head,
                window,
                0,
                whole,
                False,
                True,
                False,
                False,
                None,
                None,
                now,
                request,
            )
            prepared: CallHead = head.prepared
            if prepared.plainest and gate is None:
                requests.append(request)
                continue
            if prepared.refused is not None:
                call.fail(prepared.refused)
                continue
            if prepared.timeout is not None:
                call.deadline = now + prepared.timeout
                deadlines.watch(call.deadline)
            if not prepared.anonymous:
                request.request_id, request.trace = prepared.request_id, prepared.trace()
            if gate is not None:
                try:
                    gate(call, "infer", template.route[0])
                except Exception as error:
                    call.fail(error)
                    continue
            requests.append(request)
        if len(requests) > 1:
            model.lane.submit_all(requests)
        elif requests:
            try:
                model.lane.submit_or_run(requests[0])
            except SlipwayError as error:
                reply(requests[0], error)

    def call(self, call: Call, data: bytes, start: int, stop: int) -> None:
        arrived = perf_counter()
        found = self._find(data, start, stop)
        if found is not None:
            template, id, position = found
            if self._admit(call, template, id, data, position, arrived):
                self._expect(call, template, id)
                return
        message = self._service.decode(call, data, start, stop)
        model = self._serving.get((message.model_name, message.model_version))
        if model is None:
            call.application.spawn(call, self._load_first(call, message, data, arrived))
            return
        request = self._submit(call, model, message, data, arrived)
        if self._serving.get((message.model_name, message.model_version)) is model:
            learnt = self._service.templates.learn(message, data, start, stop, request)
            if learnt is not None:
                self._expect(call, learnt, message.id)

    def _expect(self, call: Call, template: Template, id: str) -> None:
        """Let the connection look out for more calls like this one, when there were some in a row: compiling
        what they have in common takes as long as twenty calls."""
        if not template.plain or id:
            return
        kind: CallHead = call.head.base.prepared
        if kind.template is not template:
            kind.template, kind.alike = template, 0
            return
        kind.alike += 1
        if kind.alike == _ALIKE:
            # A policy is asked about, and a log told of, every call by itself.
            together = call.application.gate is None and self._bulk is not None
            call.connection.expect(
                call.head,
                template.opening,
                template.size,
                template.after,
                partial(self.take, template),
                partial(self._take_rows, template) if together else None,
            )

    def _admit(
        self, call: Call, template: Template, id: str, data: bytes, position: int, arrived: float
    ) -> bool:
        """False when the model has gone, or is another by now."""
        model = self._serving.get(template.route)
        if model is None or template.model() is not model:
            return False
        application = call.application
        if application.gate is not None:
            call.model = model.name
            application.gate(call, "infer", template.route[0])
        raw = piece(data, position, position + template.size)
        request = InferRequest(
            model,
            [Tensor(template.name, template.datatype, template.shape, raw)],
            self._reply,
            arrived,
            template.rows,
            template.key,
            (call.connection, call.id),
        )
        head: CallHead = call.head.prepared
        if template.plain and not id:
            request.bulk = self._bulk
        else:
            request.id = id
            request.outputs, request.parameters = template.outputs, template.parameters
        if not head.anonymous:
            request.request_id, request.trace = head.request_id, head.trace()
        call.request = request
        if call.connection.more:
            model.lane.submit(request)  # others come with it, and share the run
        else:
            model.lane.submit_or_run(request)
        return True

    async def _load_first(self, call: Call, message: InferMessage, data: bytes, arrived: float) -> None:
        model = await self._engine.acquire(message.model_name, message.model_version)
        if not call.closed:
            self._submit(call, model, message, data, arrived)

    def _submit(
        self, call: Call, model: Model, message: InferMessage, data: bytes, arrived: float
    ) -> InferRequest:
        request = self._service.build(call, model, message, data, self._reply, arrived)
        if request.deadline is not None:
            call.limit(request.deadline)
        request.deadline = call.deadline
        call.request = request
        self._engine.submit(request)
        return request

    def _reply(self, request: InferRequest, result: InferResponse | SlipwayError) -> None:
        connection, stream_id = request.context
        call: Call | None = connection.streams.get(stream_id)
        if call is None:
            return
        if not isinstance(result, InferResponse):
            call.fail(result)
            return
        try:
            writer: Writer = result.model.extras["grpc"]
            extra = call.identity()
            if request.trace is not None:
                extra += literal(b"traceparent", request.trace.header.encode())
            call.reply(writer.message(result), writer.headers, extra)
        except Exception as error:
            call.fail(error)

    def _reply_all(self, requests: list[InferRequest], batch: Batch) -> None:
        """Single rows that shared a run."""
        writer: Writer = requests[0].model.extras["grpc"]
        count = len(requests)
        try:
            form = writer.form(batch.arrays, count) if batch.rows == count <= request_ids.MOST else None
            if form is None:
                for row, request in enumerate(requests):
                    if not request.cancelled:
                        self._reply(request, InferResponse(request, batch, row, row + 1))
                return
            targets = [request.context for request in requests]
            ids = self._service.ids
            named = self._named or any([request.request_id or request.trace for request in requests])  # noqa: C419
            columns = form.columns([array.tobytes() for array in batch.arrays])
            if not named:
                extras, _, _ = ids.new_headers(count)
                respond_rows(targets, writer.headers, extras, form, columns, OK_TRAILERS)
                return
            told = [self._identify(request) for request in requests]
            if len(set(map(len, told))) == 1:
                respond_rows(targets, writer.headers, told, form, columns, OK_TRAILERS)
                return
            respond_all(targets, writer.headers, told, form.bodies(columns), OK_TRAILERS)
        except Exception as error:
            for request in requests:
                self._reply(request, ModelFailed(f"the answer cannot be written: {error!r}"))

    def _identify(self, request: InferRequest) -> bytes:
        """What the answer says of the request: its id, its trace."""
        given = request.request_id = request.request_id or self._service.ids.new()
        told = literal(b"x-request-id", given.encode("ascii"))
        if request.trace is not None:
            told += literal(b"traceparent", request.trace.header.encode())
        return told


def _asks(action: Action, model: Callable[[dict[str, Any]], str] = lambda request: "") -> Guard:
    """Ask the access policy about a message, by the model that it names."""

    def guard(call: Call, request: dict[str, Any]) -> None:
        call.model = model(request)
        call.application.authorize(call, action, call.model)

    return guard


def _name(request: dict[str, Any]) -> str:
    name: str = request.get("name", "")
    return name


def _repository_name(request: dict[str, Any]) -> str:
    """Two dialects: the model's name is field 2 in one, field 1 in the other."""
    name: str = request.get("model_name", "") or request.get("repository_name", "")
    return name


def _named(request: dict[str, Any]) -> str:
    name = _repository_name(request)
    if not name:
        raise ModelNotFound("the request names no model", fix="set model_name")
    return name
