"""The v1 protocol, `POST /v1/models/NAME:predict`, as TensorFlow Serving and KServe speak it.

    {"instances": [[1.0, 2.0], [3.0, 4.0]]}                    rows of the model's one input
    {"instances": [{"carrier": "UA", "distance": 719}, …]}     rows by name: graph inputs or contract columns
    {"inputs": {"carrier": ["UA"], "distance": [719]}}         columns by name
    {"inputs": [[1.0, 2.0]]}                                   the model's one input as it is

The answer is {"predictions": […]}: one item a row, an object where the model has several outputs. Where those
are not of one length, rows there are none: {"predictions": {"a": […], "b": […]}} has each as it is.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from serving.runtime.codec_json import tensor_from_json
from serving.runtime.messages import InferRequest, InferResponse, Reply, Tensor
from serving.runtime.model import Model, TensorSpec
from slipway.errors import InvalidRequest


class _Predict(msgspec.Struct):
    instances: Any = msgspec.UNSET
    inputs: Any = msgspec.UNSET
    parameters: dict[str, Any] | None = None


_decode = msgspec.json.Decoder(_Predict).decode


def decode_predict(body: bytes, model: Model, reply: Reply) -> InferRequest:
    try:
        message = _decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"not a predict request: {error}") from None
    except RecursionError:
        raise InvalidRequest("the body nests deeper than any tensor does") from None
    if (message.instances is msgspec.UNSET) == (message.inputs is msgspec.UNSET):
        raise InvalidRequest(
            "a predict request has either instances or inputs", fix='send {"instances": [row, row, …]}'
        )
    named: dict[str, Any]
    if message.inputs is not msgspec.UNSET:
        named = message.inputs if isinstance(message.inputs, dict) else {_only(model).name: message.inputs}
    else:
        named = _columns(message.instances, model)
    request = InferRequest(model, [], reply)
    numbers = model.input_numbers
    if model.lookup is not None and any(name not in numbers for name in named):
        request.columns = {name: _flat(name, values) for name, values in named.items()}
        return request
    for name, values in named.items():
        if name not in numbers:
            raise InvalidRequest(
                f"the model has no input {name!r}",
                where=f"model {model.name}",
                fix=f"its inputs are {', '.join(map(repr, numbers))}",
            )
        request.inputs.append(_tensor(model.inputs[numbers[name]], values))
    return request


def _only(model: Model) -> TensorSpec:
    if len(model.inputs) != 1:
        raise InvalidRequest(
            f"the model has {len(model.inputs)} inputs, and the rows do not say which is which",
            where=f"model {model.name}",
            fix=f"send rows as objects with {', '.join(map(repr, model.input_numbers))}",
        )
    return model.inputs[0]


def _columns(instances: Any, model: Model) -> dict[str, Any]:
    if not isinstance(instances, list) or not instances:
        raise InvalidRequest("instances must be a list of at least one row")
    if not isinstance(instances[0], dict):
        return {_only(model).name: instances}
    names = list(instances[0])
    columns: dict[str, Any] = {name: [] for name in names}
    for number, row in enumerate(instances):
        if not isinstance(row, dict) or row.keys() != columns.keys():
            raise InvalidRequest(
                f"row {number} does not have the names of row 0: {', '.join(map(repr, names))}",
                where="instances",
            )
        for name in names:
            columns[name].append(row[name])
    return columns


def _flat(name: str, values: Any) -> list[Any]:
    """A column of the contract: [a, b] or [[a], [b]]."""
    if not isinstance(values, list):
        raise InvalidRequest("a column must be a list", where=f"column {name!r}")
    if values and all(isinstance(value, list) and len(value) == 1 for value in values):
        return [value[0] for value in values]
    if any(isinstance(value, list | dict) for value in values):
        raise InvalidRequest("a column holds one value a row", where=f"column {name!r}")
    return values


def _tensor(spec: TensorSpec, values: Any) -> Tensor:
    """The shape comes from the nesting; scalars become rows of one where the graph wants two axes."""
    if not isinstance(values, list):
        if spec.shape is None:
            return tensor_from_json(spec.name, spec.datatype.name, (), [values])
        raise InvalidRequest("it must be a list", where=f"input {spec.name!r}")
    shape: list[int] = []
    level: Any = values
    while isinstance(level, list):
        shape.append(len(level))
        if not level:
            break
        level = level[0]
    tensor = tensor_from_json(spec.name, spec.datatype.name, tuple(shape), values)
    if spec.shape is not None and len(spec.shape) == len(shape) + 1 and spec.shape[-1] in (1, -1):
        tensor.shape = (*tensor.shape, 1)
    return tensor


def encode_predict(response: InferResponse) -> bytes:
    outputs = [
        (response.model.outputs[number].name, response.array(number)) for number, _ in response.selected()
    ]
    columns = {name: _rows(array) for name, array in outputs}
    if len(columns) == 1:
        return msgspec.json.encode({"predictions": next(iter(columns.values()))})
    if len({len(values) for values in columns.values()}) > 1:
        return msgspec.json.encode({"predictions": columns})
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return msgspec.json.encode({"predictions": rows})


def _rows(array: np.ndarray[Any, Any]) -> list[Any]:
    values = array.tolist()
    return values if isinstance(values, list) else [values]
