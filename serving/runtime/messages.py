"""What the fronts hand to the engine and get back: the one interface that REST and gRPC share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from serving.runtime.datatypes import DATATYPES, element_count, join_bytes, split_bytes
from slipway.errors import InvalidRequest, SlipwayError

if TYPE_CHECKING:
    from serving.runtime.model import Model
    from serving.runtime.tracing import Trace


class _Alone:
    """The key of requests that share no run, not even with one like them."""

    def __eq__(self, other: object) -> bool:
        return False

    __hash__ = object.__hash__


ALONE = _Alone()

Reply = Callable[["InferRequest", "InferResponse | SlipwayError"], None]
BulkReply = Callable[[list["InferRequest"], "Batch"], None]


def timeout_of(parameters: dict[str, Any]) -> float | None:
    """Seconds of the parameter `timeout`, which is in microseconds, as Triton has it."""
    if "timeout" not in parameters:
        return None
    timeout = parameters["timeout"]
    if type(timeout) not in (int, float) or not 0 < timeout < 1e12:
        raise InvalidRequest(f"parameter timeout is {timeout!r}, not a number of microseconds")
    return float(timeout) / 1e6


class Tensor(msgspec.Struct, gc=False, eq=False):
    """A named tensor as it came: bytes in row-major order, or a list of str for BYTES.

    The bytes are joined with those of other requests before numpy sees them, so one frombuffer serves a
    whole batch.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: bytes | memoryview | list[str]

    @classmethod
    def from_raw(cls, name: str, datatype: str, shape: tuple[int, ...], raw: bytes | memoryview) -> Tensor:
        """From the binary extension or from raw gRPC contents: nothing is copied but BYTES and BOOL."""
        kind = DATATYPES.get(datatype)
        if kind is None:
            raise InvalidRequest(
                f"datatype {datatype!r} is not one of {', '.join(DATATYPES)}", where=f"input {name!r}"
            )
        count = element_count(shape, name)
        if kind.kind == "s":
            return cls(name, datatype, shape, split_bytes(raw, count, name))
        if len(raw) != count * kind.size:
            raise InvalidRequest(
                f"{len(raw)} bytes of data, {datatype} of shape {list(shape)} takes {count * kind.size}",
                where=f"input {name!r}",
            )
        if kind.kind == "b":
            # A byte that is neither 0 nor 1 is no bool to numpy or ONNX Runtime.
            raw = (np.frombuffer(raw, np.uint8) != 0).tobytes()
        return cls(name, datatype, shape, raw)


_ELSEWHERE = {
    "shared_memory_region": "this server shares no memory with its clients, send and take the data itself",
    "classification": "this server ranks no classes, take the scores and rank them",
}
"""Parameters of Triton's extensions that say where the data is, or make something else of it: a client that
sends one would take what it gets for what it asked for.
"""


def refuse_elsewhere(parameters: dict[str, Any] | None, where: str) -> None:
    for name in parameters or ():
        if name in _ELSEWHERE:
            raise InvalidRequest(f"parameter {name}: {_ELSEWHERE[name]}", where=where)


class RequestedOutput:
    __slots__ = ("binary", "name", "parameters")

    def __init__(self, name: str, binary: bool | None = None, parameters: dict[str, Any] | None = None):
        if parameters:
            refuse_elsewhere(parameters, f"output {name!r}")
        self.name = name
        self.binary = binary
        """None: as the request says for all outputs."""
        self.parameters = parameters


class InferRequest(msgspec.Struct, eq=False):
    """One inference, decoded. `reply` is called once, on the loop, with the answer or the error.

    Set `cancelled` when nobody waits any more: what has not begun is dropped, and `reply` is not called.
    A msgspec.Struct, because its constructor runs in C: 0.2 us where a Python __init__ takes 1.5.
    """

    model: Model
    inputs: list[Tensor]
    reply: Reply
    arrived: float = 0.0
    """When the request was whole, on the clock of time.perf_counter."""
    rows: int = 0
    key: Any = None
    """Requests of equal key may share a run. This and rows are set when the engine admits the request."""
    context: Any = None
    """The front's own."""
    bulk: BulkReply | None = None
    """When all requests of a run share it, it is called once for them all in place of `reply`."""
    id: str = ""
    """The id in the message, given back in the answer."""
    outputs: list[RequestedOutput] | None = None
    parameters: dict[str, Any] | None = None
    deadline: float | None = None
    """On the clock of time.perf_counter; None: the server's own limit holds."""
    request_id: str = ""
    """For logs and capture: x-request-id, or made by the front."""
    trace: Trace | None = None
    """From `tracing.parse_traceparent`."""
    cancelled: bool = False
    submitted: float = 0.0
    """Set by the queue."""
    decoded: float = 0.0
    """Seconds of decoding, where features were read between it and the queue; else 0."""
    columns: dict[str, Any] | None = None
    """Contract columns by name in place of tensors; the engine reads the features and fills `inputs`."""
    features: dict[str, Any] | None = None
    """What the answer says of the features that were read."""


def columns_of(request: InferRequest) -> dict[str, Any]:
    """The columns of a v2 request: its inputs, each of shape [n] or [n, 1]."""
    columns: dict[str, Any] = {}
    for tensor in request.inputs:
        if len(tensor.shape) not in (1, 2) or (len(tensor.shape) == 2 and tensor.shape[1] != 1):
            raise InvalidRequest(
                f"column of shape {list(tensor.shape)}, a column has [n] or [n, 1]",
                where=f"input {tensor.name!r}",
            )
        if tensor.name in columns:
            raise InvalidRequest(f"column {tensor.name!r} is there twice")
        kind = DATATYPES[tensor.datatype]
        columns[tensor.name] = (
            tensor.data if kind.size == 0 else np.frombuffer(tensor.data, kind.numpy)  # type: ignore[arg-type]
        )
    return columns


class Batch(msgspec.Struct, eq=False):
    """The outputs of one run, shared by the requests that were in it."""

    inputs: list[np.ndarray[Any, Any]]
    arrays: list[np.ndarray[Any, Any]]
    rows: int
    started: float
    ran: float
    delivering: float = 0.0
    """When the answers began to be written."""
    borrowed: bool = False
    """The arrays are overwritten once the answers are out: whoever keeps them copies them."""
    lists: dict[int, list[Any]] = {}
    """Outputs as flat Python values, where somebody has asked for them."""


class Rows(msgspec.Struct, eq=False):
    """What a run leaves of requests that were single rows and no objects, in one order.

    `inputs` and `arrays` may be overwritten once the observers have returned: whoever keeps them copies them.
    """

    arrived: Sequence[float]
    submitted: Sequence[float]
    started: float
    delivering: float
    done: float
    inputs: list[np.ndarray[Any, Any]]
    arrays: list[np.ndarray[Any, Any]]
    serial: int | list[int]
    """The numbers in their request ids: the first, or all."""
    prefix: bytes
    digits: int = 1
    """How many the numbers have at least."""

    def request_id(self, place: int) -> str:
        serial = self.serial + place if isinstance(self.serial, int) else self.serial[place]
        return f"{self.prefix.decode()}{serial:0{self.digits}x}"


def kept(run: Batch | Rows) -> tuple[list[Any], list[Any]]:
    """Inputs and outputs of a run, for one who keeps them."""
    if isinstance(run, Batch) and not run.borrowed:
        return run.inputs, run.arrays
    return [array.copy() for array in run.inputs], [array.copy() for array in run.arrays]


class InferResponse:
    """The rows start to stop of a batch. Outputs are numbered as in `model.outputs`."""

    __slots__ = ("batch", "model", "parameters", "request", "start", "stop")

    def __init__(self, request: InferRequest, batch: Batch, start: int, stop: int) -> None:
        self.request = request
        self.model = request.model
        self.batch = batch
        self.start = start
        self.stop = stop
        self.parameters: dict[str, Any] | None = request.features
        """What this answer says beside the model's receipt: feature freshness, flags."""

    def selected(self) -> list[tuple[int, RequestedOutput | None]]:
        """Numbers of the outputs that the request asked for, in its order."""
        wanted = self.request.outputs
        if not wanted:
            return [(number, None) for number in range(len(self.batch.arrays))]
        return [(self.model.output_numbers[output.name], output) for output in wanted]

    def _whole(self) -> bool:
        return self.start == 0 and self.stop == self.batch.rows

    def array(self, number: int) -> np.ndarray[Any, Any]:
        array = self.batch.arrays[number]
        return array if self._whole() else array[self.start : self.stop]

    def shape(self, number: int) -> tuple[int, ...]:
        array = self.batch.arrays[number]
        return array.shape if self._whole() else (self.stop - self.start, *array.shape[1:])

    def values(self, number: int) -> list[Any]:
        """Flat Python values; the whole batch is turned into a list once."""
        flat = self.batch.lists.get(number)
        array = self.batch.arrays[number]
        if flat is None:
            flat = self.batch.lists[number] = array.ravel().tolist()
        if self._whole():
            return flat
        width = array.size // self.batch.rows
        return flat[self.start * width : self.stop * width]

    def raw(self, number: int) -> bytes:
        """The bytes of the binary extension and of raw gRPC contents."""
        if self.model.outputs[number].datatype.kind == "s":
            return join_bytes(self.values(number))
        return self.array(number).tobytes()
