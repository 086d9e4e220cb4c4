"""ModelStreamInfer: requests in, answers out in the order of the requests."""

from __future__ import annotations

from collections import deque
from time import perf_counter
from typing import TYPE_CHECKING

from serving.runtime.grpc.call import Call
from serving.runtime.grpc.infer_codec import InferMessage
from serving.runtime.grpc.methods import Streaming
from serving.runtime.grpc.status import explain, kind_of
from serving.runtime.grpc.templates import Writer
from serving.runtime.grpc.wire import write_bytes
from serving.runtime.messages import InferRequest, InferResponse
from serving.runtime.model import Model
from slipway.errors import DeadlineExceeded, Forbidden, SlipwayError, Unauthorized

if TYPE_CHECKING:
    from serving.runtime.grpc.inference import Inference

_STREAM_AHEAD = 64
"""Requests of one call that may wait in the engine; then the client is held back."""


class ModelStreamInfer(Streaming):
    """A request that fails says so in its answer, and the call goes on.

    One that the access policy refuses ends the call: what it judges is the call's, its token or certificate.
    """

    def __init__(self, service: Inference) -> None:
        self._service = service
        self._engine = service.engine
        self._response = service.descriptors.messages["inference.ModelStreamInferResponse"]

    def open(self, call: Call) -> None:
        call.state = _StreamState()
        call.on_cancel = lambda: _cancel_all(call.state)

    def message(self, call: Call, message: bytes) -> None:
        state: _StreamState = call.state
        arrived = perf_counter()
        slot = _Slot()
        state.slots.append(slot)
        if len(state.slots) >= _STREAM_AHEAD:
            call.hold()
        try:
            infer = self._service.decode(call, message, 0, len(message))
            model = self._engine.find(infer.model_name, infer.model_version)
            if model is None:
                call.application.spawn(call, self._load_first(call, slot, infer, message, arrived))
            else:
                self._submit(call, slot, model, infer, message, arrived)
        except (Unauthorized, Forbidden):
            _cancel_all(state)
            raise
        except Exception as error:
            self._fill(call, slot, error)

    async def _load_first(
        self, call: Call, slot: _Slot, infer: InferMessage, message: bytes, arrived: float
    ) -> None:
        try:
            model = await self._engine.acquire(infer.model_name, infer.model_version)
            if not call.closed:
                self._submit(call, slot, model, infer, message, arrived)
        except Exception as error:
            self._fill(call, slot, error)

    def _submit(
        self, call: Call, slot: _Slot, model: Model, infer: InferMessage, message: bytes, arrived: float
    ) -> None:
        def reply(request: InferRequest, result: InferResponse | SlipwayError) -> None:
            self._fill(call, slot, result)

        request = slot.request = self._service.build(call, model, infer, message, reply, arrived)
        if request.deadline is not None:
            call.application.loop.call_later(request.deadline - perf_counter(), self._expire, call, slot)
        self._engine.submit(request)

    def _expire(self, call: Call, slot: _Slot) -> None:
        """The deadline of one request of the stream."""
        if slot.request is not None and not call.closed:
            slot.request.cancelled = True
            waited = (perf_counter() - slot.request.arrived) * 1000
            self._fill(
                call, slot, DeadlineExceeded(f"no answer within {waited:.0f} ms", fix="give it longer")
            )

    def end(self, call: Call) -> None:
        call.state.ended = True
        self._flush(call)

    def _fill(self, call: Call, slot: _Slot, result: InferResponse | Exception) -> None:
        slot.request = None
        if isinstance(result, InferResponse):
            try:
                writer: Writer = result.model.extras["grpc"]
                # Field 2 of ModelStreamInferResponse, around what the unary call answers.
                slot.answer = write_bytes(2, writer.message(result))
            except Exception as error:
                result = error
        if not isinstance(result, InferResponse):
            call.application.count_failure(call, kind_of(result))
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
