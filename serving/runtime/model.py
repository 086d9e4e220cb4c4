"""One version of one model: its graph's inputs and outputs, its session, and one run of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime

from serving.runtime.datatypes import DATATYPES, DataType, from_onnx
from serving.runtime.messages import ALONE, InferRequest, Tensor
from slipway.contract import ModelContract
from slipway.errors import ContractMismatch, InvalidRequest, ModelFailed

if TYPE_CHECKING:
    from serving.runtime.bound import Runner
    from serving.runtime.express import Express
    from serving.runtime.lane import Lane
    from slipway.features.lookup import FeatureLookup

Array = np.ndarray[Any, Any]
ALIGNED = 16
"""Bytes; as memory from NumPy and of Python's bytes is. Eigen's sums begin at the first aligned element, so
the last bits of a mean over seven columns depend on where they lie.
"""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    name: str
    datatype: DataType
    shape: tuple[int, ...] | None
    """-1: any length. None: the graph says nothing about the shape."""
    keys: tuple[Any, ...] | None = None
    """For a sequence of maps (scikit-learn's ZipMap): the keys that became columns, in this order."""

    @property
    def public_shape(self) -> list[int]:
        return list(self.shape) if self.shape is not None else [-1]


@dataclass(slots=True)
class Behaviour:
    """What the warm-up measured."""

    batchable: bool = False
    """Rows of several requests may share one run: the bits of every row stay the same."""
    max_rows: int = 1
    """As many rows as were compared."""
    reason: str = "not warmed up"
    base_seconds: float = 0.0
    row_seconds: float = 0.0
    limits: dict[Any, int] | None = None
    """As `max_rows`, by the key of the requests, where an axis other than that of the rows is of any length:
    a kernel may add up a hundred columns in another way than one. None: there is one key.
    """

    def most(self, key: Any) -> int:
        """Rows in a run that several requests share; 0: each runs alone."""
        if not self.batchable:
            return 0
        return self.max_rows if self.limits is None else self.limits.get(key, 0)

    def predict(self, rows: int) -> float:
        return self.base_seconds + self.row_seconds * rows


class Model:
    """A model version that is loaded. What never changes is worked out here, not per request."""

    lane: Lane
    """Its queue; given by the engine."""
    runner: Runner
    """Runs of few rows on the loop; given by the engine."""
    express: Express | None = None
    """Answers single rows over REST, where they are quick."""
    lookup: FeatureLookup | None = None
    """Reads features for requests that bring columns; None: tensors only."""

    def __init__(
        self,
        name: str,
        version: str,
        source: bytes | Path,
        *,
        threads: int = 1,
        contract: ModelContract | None = None,
        digest: str = "",
        weights: Mapping[str, bytes] | None = None,
    ) -> None:
        """`weights`: files that the graph refers to, by name, where they are not beside it on disk."""
        self.name = name
        self.version = version
        self.contract = contract
        self.digest = digest
        self.session = _open_session(source, threads, f"{name}/{version}", weights or {})
        self.metadata: dict[str, str] = dict(self.session.get_modelmeta().custom_metadata_map)
        # The checks that InferenceSession.run adds cost 5 us a call, and admit() has made them already.
        self._run = getattr(self.session, "_sess", self.session).run
        # Where it is given none, ONNX Runtime makes one for every run, which takes 3 us.
        self._options = onnxruntime.RunOptions()
        self.inputs = tuple(_input_spec(node, f"{name}/{version}") for node in self.session.get_inputs())
        self._feeds = [
            (spec.name, spec.datatype.numpy if spec.datatype.size else None) for spec in self.inputs
        ]
        self.output_names = [node.name for node in self.session.get_outputs()]
        self.outputs: tuple[TensorSpec, ...] = ()
        self.output_numbers: dict[str, int] = {}
        self._containers: list[int] = []
        self._read_outputs()
        self.input_numbers = {spec.name: number for number, spec in enumerate(self.inputs)}
        self.has_batch_axis = all(_first_axis_is_free(spec) for spec in (*self.inputs, *self.outputs))
        # By one name they are of one length. Others may broadcast, or have nothing to do with rows.
        names = {node.shape[0] if node.shape else None for node in self.session.get_inputs()}
        self._rows_agree = len(names) == 1 and isinstance(next(iter(names)), str)
        self.only_floats = all(spec.datatype.kind == "f" for spec in self.inputs)
        self.behaviour = Behaviour()
        self.memory = 0
        self.last_used = 0.0
        self._admitted: dict[Any, tuple[int, Any, tuple[int, ...]]] = {}
        self.comparison: Any = None
        """What `warmup.compare_shape` needs, where requests come in many shapes."""
        self.extras: dict[str, Any] = {}
        """What other parts work out once a model: response templates, drift, features."""

    def _read_outputs(self) -> None:
        specs: list[TensorSpec] = []
        for number, node in enumerate(self.session.get_outputs()):
            datatype = from_onnx(node.type)
            if datatype is not None:
                shape = tuple(axis if isinstance(axis, int) and axis >= 0 else -1 for axis in node.shape)
                specs.append(TensorSpec(node.name, datatype, shape or None))
            elif node.type.startswith("seq("):
                # Keys and type are learnt from the first run; see settle_outputs.
                self._containers.append(number)
                specs.append(TensorSpec(node.name, DATATYPES["FP32"], (-1, -1)))
            else:
                raise ContractMismatch(
                    f"output {node.name!r} is a {node.type}, which the Open Inference Protocol cannot carry",
                    where=f"{self.name}/{self.version}",
                    fix="add a Cast to a type that it has, or leave the output out of the graph",
                )
        self.outputs = tuple(specs)
        self.output_numbers = {spec.name: number for number, spec in enumerate(specs)}

    @property
    def has_containers(self) -> bool:
        """Some output is a sequence, which every run makes an array of anew."""
        return bool(self._containers)

    # -- running -----------------------------------------------------------------------------------

    def run(self, feeds: dict[str, Array]) -> list[Array]:
        """One call of ONNX Runtime; every output comes back as an array."""
        try:
            outputs = self._run(self.output_names, feeds, self._options)
        except Exception as error:
            raise explain_failure(error, self) from error
        for number in self._containers:
            outputs[number] = self._flatten(number, outputs[number])
        return outputs  # type: ignore[no-any-return]

    def settle_outputs(self, outputs: list[Any]) -> None:
        """Learn from one answer what a sequence holds: the graph does not say which keys its maps have."""
        for number in self._containers:
            spec, value = self.outputs[number], outputs[number]
            keys = tuple(value[0]) if value and isinstance(value[0], dict) else None
            column = self._flatten(number, value, keys)
            kind = next(
                (k for k in DATATYPES.values() if k.size and k.numpy == column.dtype), DATATYPES["BYTES"]
            )
            settled = TensorSpec(spec.name, kind, (-1, *column.shape[1:]), keys)
            self.outputs = (*self.outputs[:number], settled, *self.outputs[number + 1 :])

    def run_unsettled(self, feeds: dict[str, Array]) -> list[Any]:
        """As `run`, but sequences stay as they are; for the first run alone."""
        try:
            return self._run(self.output_names, feeds, None)  # type: ignore[no-any-return]
        except Exception as error:
            raise explain_failure(error, self) from error

    def _flatten(self, number: int, value: list[Any], keys: tuple[Any, ...] | None = None) -> Array:
        keys = keys or self.outputs[number].keys
        try:
            if keys is not None:
                rows = [[row[key] for key in keys] for row in value]
                kind = object if rows and isinstance(rows[0][0], str) else np.float32
                return np.array(rows, kind).reshape(len(rows), len(keys))
            return np.stack(value) if value else np.zeros((0,), np.float32)
        except (KeyError, ValueError, TypeError) as error:
            raise ModelFailed(
                f"output {self.output_names[number]!r} is a sequence whose items differ: {error!r}",
                where=f"model {self.name}",
                fix="export with zipmap=False, or stack the sequence inside the graph",
            ) from error

    # -- admitting ---------------------------------------------------------------------------------

    def admit(self, request: InferRequest) -> None:
        """Check the inputs against the graph; sets rows and the key by which requests share a run."""
        tensors = request.inputs
        if len(tensors) == 1 == len(self.inputs):
            tensor = tensors[0]
            known = self._admitted.get((tensor.name, tensor.datatype, tensor.shape))
        else:
            self._order(request)
            tensors = request.inputs
            known = self._admitted.get(tuple([(t.name, t.datatype, t.shape) for t in tensors]))
        if known is None:
            known = self._check(tensors)
        request.rows, request.key, lengths = known
        for tensor, length in zip(tensors, lengths, strict=True):
            if len(tensor.data) != length:
                raise InvalidRequest(
                    f"the data does not fill shape {list(tensor.shape)}", where=f"input {tensor.name!r}"
                )

    def _order(self, request: InferRequest) -> None:
        """Into the graph's order; a name that is missing, unknown or there twice is an error."""
        numbers = self.input_numbers
        if len(request.inputs) == len(numbers) and all(
            tensor.name == spec.name for tensor, spec in zip(request.inputs, self.inputs, strict=True)
        ):
            return
        found: dict[str, Tensor] = {}
        for tensor in request.inputs:
            if tensor.name not in numbers:
                raise InvalidRequest(
                    f"the model has no input {tensor.name!r}",
                    where=f"model {self.name}",
                    fix=f"its inputs are {', '.join(map(repr, numbers))}",
                )
            if tensor.name in found:
                raise InvalidRequest(f"input {tensor.name!r} is there twice", where=f"model {self.name}")
            found[tensor.name] = tensor
        missing = [name for name in numbers if name not in found]
        if missing:
            raise InvalidRequest(
                f"the request lacks input {', '.join(map(repr, missing))}", where=f"model {self.name}"
            )
        request.inputs = [found[name] for name in numbers]

    def _check(self, tensors: list[Tensor]) -> tuple[int, Any, tuple[int, ...]]:
        lengths, tails, rows, alone = [], [], -1, False
        for tensor, spec in zip(tensors, self.inputs, strict=True):
            where = f"input {tensor.name!r}"
            if tensor.name != spec.name:
                raise InvalidRequest(
                    f"the model has no input {tensor.name!r}",
                    where=f"model {self.name}",
                    fix=f"its inputs are {', '.join(map(repr, self.input_numbers))}",
                )
            if tensor.datatype != spec.datatype.name:
                raise InvalidRequest(
                    f"datatype {tensor.datatype!r}, the model takes {spec.datatype.name}", where=where
                )
            shape = tensor.shape
            if spec.shape is not None and (
                len(shape) != len(spec.shape)
                or any(want not in (-1, have) for want, have in zip(spec.shape, shape, strict=True))
            ):
                raise InvalidRequest(
                    f"shape {list(shape)}, the model takes {spec.public_shape} (-1 is any length)",
                    where=where,
                )
            if self.has_batch_axis:
                if rows not in (-1, shape[0]):
                    if self._rows_agree:
                        raise InvalidRequest(f"{shape[0]} rows, another input has {rows}", where=where)
                    alone = True
                rows = shape[0]
            tails.append(shape[1:])
            count = 1
            for axis in shape:
                count *= axis
            lengths.append(count * (spec.datatype.size or 1))
        if rows == 0 and self.contract is not None:
            raise InvalidRequest("the request has no rows", where=f"model {self.name}")
        if rows == 0 or alone:
            known: tuple[int, Any, tuple[int, ...]] = (0, ALONE, tuple(lengths))
        else:
            known = (max(rows, 1), tuple(tails), tuple(lengths))
        if len(self._admitted) >= 1024:
            self._admitted.clear()
        if len(tensors) == 1:
            only = tensors[0]
            self._admitted[(only.name, only.datatype, only.shape)] = known
        else:
            self._admitted[tuple([(t.name, t.datatype, t.shape) for t in tensors])] = known
        return known

    def feeds(self, requests: list[InferRequest], rows: int) -> dict[str, Array]:
        """The inputs of all these requests, one below the other."""
        feeds = {}
        single = len(requests) == 1
        for number, (name, dtype) in enumerate(self._feeds):
            tensor = requests[0].inputs[number]
            shape = tensor.shape if single else (rows, *tensor.shape[1:])
            parts: list[Any] = [request.inputs[number].data for request in requests]
            if dtype is None:
                texts = [text for part in parts for text in part]
                feeds[name] = np.array(texts, object).reshape(shape)
                continue
            data = parts[0] if single else b"".join(parts)
            array = np.frombuffer(data, dtype).reshape(shape)
            # A slice of a request body begins anywhere, and where it begins may change how a kernel adds up.
            feeds[name] = array if type(data) is bytes or array.ctypes.data % ALIGNED == 0 else array.copy()
        return feeds


def _open_session(source: bytes | Path, threads: int, where: str, weights: Mapping[str, bytes]) -> Any:
    options = onnxruntime.SessionOptions()
    # One thread a call: small models lose by forking, and several calls run side by side anyway.
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Spinning workers would eat the CPU that the event loop needs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    # Only what ends the process: every error is raised as well, and a bad request must not write lines that
    # are no JSON into the log.
    options.log_severity_level = 4
    if weights:
        options.add_external_initializers_from_files_in_memory(
            list(weights), list(weights.values()), [len(content) for content in weights.values()]
        )
    try:
        return onnxruntime.InferenceSession(
            os.fspath(source) if isinstance(source, Path) else source,
            options,
            providers=["CPUExecutionProvider"],
        )
    except Exception as error:
        raise ContractMismatch(
            f"ONNX Runtime {onnxruntime.__version__} cannot load it: {_short(error)}",
            where=where,
            fix="check the file with onnx.checker, and its opset against this ONNX Runtime",
        ) from error


def _first_axis_is_free(spec: TensorSpec) -> bool:
    return bool(spec.shape) and spec.shape is not None and spec.shape[0] == -1


def _input_spec(node: Any, where: str) -> TensorSpec:
    datatype = from_onnx(node.type)
    if datatype is None:
        raise ContractMismatch(
            f"input {node.name!r} is a {node.type}, which the Open Inference Protocol cannot carry",
            where=where,
            fix="let the graph take tensors of bool, int, float or string",
        )
    shape = tuple(axis if isinstance(axis, int) and axis >= 0 else -1 for axis in node.shape)
    return TensorSpec(node.name, datatype, shape or None)


def explain_failure(error: Exception, model: Model) -> InvalidRequest | ModelFailed:
    """ONNX Runtime says INVALID_ARGUMENT for what the request brought, all else is the model's."""
    text = _short(error)
    if type(error).__name__ == "InvalidArgument":
        return InvalidRequest(f"ONNX Runtime refuses the input: {text}", where=f"model {model.name}")
    return ModelFailed(f"the model failed on this input: {text}", where=f"model {model.name}")


def _short(error: Exception) -> str:
    """ONNX Runtime's messages carry build paths and stack frames; the last sentence is what helps."""
    text = str(error).split("\n")[0]
    return text.removeprefix("[ONNXRuntimeError] : ")[:400]
