"""inference.GRPCInferenceService: every method of the Open Inference Protocol, on the engine."""

from __future__ import annotations

from collections import deque
from time import perf_counter
from typing import Any

from serving.runtime.engine import Engine
from serving.runtime.grpc.call import ACCEPTS, OK_TRAILERS, Call
from serving.runtime.grpc.infer_codec import InferDecoder, InferMessage, tensors_of
from serving.runtime.grpc.methods import Handler, Plain, Streaming, Unary, not_a
from serving.runtime.grpc.protobuf import Descriptors
from serving.runtime.grpc.status import CONTENT_TYPE, STATUS_OK, explain
from serving.runtime.grpc.templates import Templates, Writer, request_from
from serving.runtime.grpc.wire import write_bytes
from serving.runtime.http2 import Headers
from serving.runtime.messages import Batch, InferRequest, InferResponse, RequestedOutput
from serving.runtime.model import Model
from serving.runtime.routes import receipt
from slipway.errors import InvalidRequest, ModelNotFound, SlipwayError

SERVICE = "inference.GRPCInferenceService"
_STREAM_AHEAD = 64
"""Requests of one ModelStreamInfer that may wait in the engine; then the client is held back."""


class Inference:
    def __init__(self, engine: Engine, descriptors: Descriptors) -> None:
        self.engine = engine
        self.descriptors = descriptors
        self.templates = Templates()
        self.decoder = InferDecoder(descriptors.messages["inference.ModelInferRequest.ParametersEntry"])
        engine.on_load(self._prepare)

    def _prepare(self, model: Model) -> None:
        """Once for each model that is loaded."""
        found = receipt(model)
        headers: Headers = (
            STATUS_OK,
            CONTENT_TYPE,
            ACCEPTS,
            *(
                (f"x-slipway-{name.replace('_', '-')}".encode(), value.encode("ascii", "replace"))
                for name, value in found.items()
            ),
        )
        model.extras["grpc"] = Writer(model, found, headers)
        self.templates.forget(model)

    def methods(self) -> dict[str, Any]:
        plain: dict[str, Handler] = {
            "ServerLive": lambda request: {"live": True},
            "ServerReady": lambda request: {"ready": self.engine.ready},
            "ServerMetadata": lambda request: self.engine.server_metadata(),
            "ModelReady": self._model_ready,
            "ModelMetadata": self._model_metadata,
            "RepositoryIndex": self._index,
            "RepositoryModelLoad": self._load,
            "RepositoryModelUnload": self._unload,
        }
        methods: dict[str, Any] = {
            f"/{SERVICE}/ModelInfer": ModelInfer(self),
            f"/{SERVICE}/ModelStreamInfer": ModelStreamInfer(self),
        }
        for name, handler in plain.items():
            method = self.descriptors.methods[f"/{SERVICE}/{name}"]
            methods[method.path] = Plain(handler, method.request, method.response)
        return methods

    # -- the small methods -------------------------------------------------------------------------

    def _model_ready(self, request: dict[str, Any]) -> dict[str, Any]:
        name = request.get("name", "")
        return {"ready": self.engine.ready and self.engine.model_ready(name, request.get("version", ""))}

    async def _model_metadata(self, request: dict[str, Any]) -> dict[str, Any]:
        return await self.engine.model_metadata(request.get("name", ""), request.get("version", ""))

    def _index(self, request: dict[str, Any]) -> dict[str, Any]:
        return {"models": self.engine.index(ready_only=request.get("ready", False))}

    async def _load(self, request: dict[str, Any]) -> dict[str, Any]:
        name = _repository_name(request)
        await self.engine.load(name)
        return {"model_name": name, "isLoaded": True}

    async def _unload(self, request: dict[str, Any]) -> dict[str, Any]:
        name = _repository_name(request)
        await self.engine.unload(name)
        return {"model_name": name, "isUnloaded": True}

    # -- inference ---------------------------------------------------------------------------------

    def decode(self, data: bytes, start: int, stop: int) -> InferMessage:
        try:
            message = self.decoder.decode(data, start, stop)
        except ValueError as error:
            raise not_a("inference.ModelInferRequest", error) from None
        if not message.model_name:
            raise InvalidRequest("the request names no model", fix="set model_name")
        return message

    def build(self, call: Call, model: Model, message: InferMessage, data: bytes, reply: Any) -> InferRequest:
        """The engine's request, without its deadline."""
        request = InferRequest(model, tensors_of(message, data), reply, perf_counter())
        request.id = message.id
        if message.parameters:
            request.parameters = message.parameters
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
        self.adorn(call, request)
        return request

    def adorn(self, call: Call, request: InferRequest) -> None:
        """What comes from the call's headers."""
        head = call.head.prepared
        request.context = call
        request.request_id = head.request_id
        request.trace = head.trace


class ModelInfer(Unary):
    def __init__(self, service: Inference) -> None:
        self._service = service
        self._engine = service.engine
        self._serving = service.engine.repository.serving
        self._find = service.templates.find
        # One object: the engine tells by identity which requests it may answer together.
        self._bulk = self._reply_all

    def call(self, call: Call, data: bytes, start: int, stop: int) -> None:
        found = self._find(data, start, stop)
        if found is None:
            self._generally(call, data, start, stop)
            return
        template, id, tensor = found
        model = template.model
        request = request_from(template, id, tensor, self._reply, call.arrived)
        request.context = call
        head = call.head.prepared
        if head.request_id or head.trace is not None:
            request.request_id, request.trace = head.request_id, head.trace
        if call.deadline is not None:
            request.deadline = call.deadline
        elif template.rows == 1 and not id and template.outputs is None and template.parameters is None:
            request.bulk = self._bulk
        call.request = request
        model.lane.submit(request)

    def _generally(self, call: Call, data: bytes, start: int, stop: int) -> None:
        message = self._service.decode(data, start, stop)
        model = self._serving.get((message.model_name, message.model_version))
        if model is None:
            call.application.spawn(call, self._load_first(call, message, data, start, stop))
        else:
            self._submit(call, model, message, data, start, stop)

    async def _load_first(
        self, call: Call, message: InferMessage, data: bytes, start: int, stop: int
    ) -> None:
        model = await self._engine.acquire(message.model_name, message.model_version)
        if not call.closed:
            self._submit(call, model, message, data, start, stop)

    def _submit(
        self, call: Call, model: Model, message: InferMessage, data: bytes, start: int, stop: int
    ) -> None:
        request = self._service.build(call, model, message, data, self._reply)
        request.deadline = call.deadline
        call.request = request
        self._engine.submit(request)
        if self._serving.get((message.model_name, message.model_version)) is model:
            self._service.templates.learn(message, data, start, stop, request)

    def _reply(self, request: InferRequest, result: InferResponse | SlipwayError) -> None:
        call: Call = request.context
        if not isinstance(result, InferResponse):
            call.fail(result)
            return
        try:
            writer: Writer = result.model.extras["grpc"]
            headers = writer.headers
            if request.request_id:
                headers = (*headers, (b"x-request-id", request.request_id.encode("ascii")))
            call.reply(writer.message(result), headers)
        except Exception as error:
            call.fail(error)

    def _reply_all(self, requests: list[InferRequest], batch: Batch) -> None:
        """Single rows that shared a run."""
        writer: Writer = requests[0].model.extras["grpc"]
        try:
            rows = writer.rows(batch)
        except Exception as error:
            for request in requests:
                request.context.fail(error)
            return
        if rows is None or len(rows) != len(requests):
            for row, request in enumerate(requests):
                if not request.cancelled:
                    self._reply(request, InferResponse(request, batch, row, row + 1))
            return
        headers = writer.headers
        for request, message in zip(requests, rows, strict=True):
            call: Call = request.context
            if request.cancelled or call.closed:
                continue
            call.request = None
            own = headers
            if request.request_id:
                own = (*headers, (b"x-request-id", request.request_id.encode("ascii")))
            call.answered = True
            call.connection.send_response(call, own, message, OK_TRAILERS)


class ModelStreamInfer(Streaming):
    """Requests in, answers out in the order of the requests; a request that fails says so in its answer."""

    def __init__(self, service: Inference) -> None:
        self._service = service
        self._response = service.descriptors.messages["inference.ModelStreamInferResponse"]

    def open(self, call: Call) -> None:
        call.state = _StreamState()
        call.on_cancel = lambda: _cancel_all(call.state)

    def message(self, call: Call, message: bytes) -> None:
        state: _StreamState = call.state
        slot = _Slot()
        state.slots.append(slot)
        if len(state.slots) >= _STREAM_AHEAD:
            call.hold()

        def reply(request: InferRequest, result: InferResponse | SlipwayError) -> None:
            slot.request = None
            self._fill(call, slot, result)

        async def work() -> None:
            try:
                infer = self._service.decode(message, 0, len(message))
                model = await self._service.engine.acquire(infer.model_name, infer.model_version)
                request = self._service.build(call, model, infer, message, reply)
                slot.request = request
                self._service.engine.submit(request)
            except Exception as error:
                slot.request = None
                self._fill(call, slot, error)

        call.application.spawn(call, work())

    def end(self, call: Call) -> None:
        call.state.ended = True
        self._flush(call)

    def _fill(self, call: Call, slot: _Slot, result: InferResponse | Exception) -> None:
        if isinstance(result, InferResponse):
            try:
                writer: Writer = result.model.extras["grpc"]
                # Field 2 of ModelStreamInferResponse, around what the unary call answers.
                slot.answer = write_bytes(2, writer.message(result))
            except Exception as error:
                result = error
        if not isinstance(result, InferResponse):
            slot.answer = self._response.encode({"error_message": explain(result)[1]})
        self._flush(call)

    def _flush(self, call: Call) -> None:
        state: _StreamState = call.state
        while state.slots and not call.closed:
            answer = state.slots[0].answer
            if answer is None:
                break
            state.slots.popleft()
            call.send_message(answer)
        if call.closed:
            return
        if state.ended and not state.slots:
            call.finish()
        elif call.held and len(state.slots) < _STREAM_AHEAD // 2 and call.backlog < _STREAM_AHEAD:
            call.release()


class _Slot:
    __slots__ = ("answer", "request")

    def __init__(self) -> None:
        self.request: InferRequest | None = None
        self.answer: bytes | None = None


class _StreamState:
    __slots__ = ("ended", "slots")

    def __init__(self) -> None:
        self.slots: deque[_Slot] = deque()
        self.ended = False


def _cancel_all(state: _StreamState) -> None:
    for slot in state.slots:
        if slot.request is not None:
            slot.request.cancelled = True
    state.slots.clear()


def _repository_name(request: dict[str, Any]) -> str:
    """Two dialects: the model's name is field 2 in one, field 1 in the other."""
    name: str = request.get("model_name", "") or request.get("repository_name", "")
    if not name:
        raise ModelNotFound("the request names no model", fix="set model_name")
    return name
