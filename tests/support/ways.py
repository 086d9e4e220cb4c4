"""The ways of asking a model: REST with JSON or binary tensors, gRPC with typed or raw contents.

Each gives the outputs as arrays, or raises Refused. Nothing but Python's HTTP client and Google's
gRPC stands between.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import grpc
import numpy as np

from tests.conformance.grpc_checks import add_input, values
from tests.conformance.target import Target, binary_tensor, from_raw, json_tensor
from tests.support.messages import SERVICE, message
from tests.support.models import DTYPES

Outputs = dict[str, np.ndarray]
NAMES = {np.dtype(kind): name for name, (_, kind) in DTYPES.items()}


class Refused(Exception):
    def __init__(self, status: int | grpc.StatusCode, text: str) -> None:
        super().__init__(f"{status}: {text}")
        self.status = status
        self.text = text


def datatype_of(value: np.ndarray) -> str:
    return "BYTES" if value.dtype.kind in "UO" else NAMES[value.dtype]


def by_json(target: Target, model: str, inputs: Mapping[str, np.ndarray]) -> Outputs:
    """Numbers that JSON has no word for, NaN and infinity, come back as NaN."""
    tensors = [json_tensor(name, datatype_of(value), value) for name, value in inputs.items()]
    answer = _ok(target.infer(model, {"inputs": tensors})).json()
    return {item["name"]: _array(item["datatype"], item["data"], item["shape"]) for item in answer["outputs"]}


def by_binary(target: Target, model: str, inputs: Mapping[str, np.ndarray]) -> Outputs:
    tensors = [binary_tensor(name, datatype_of(value), value) for name, value in inputs.items()]
    head = {"inputs": [tensor for tensor, _ in tensors], "parameters": {"binary_data_output": True}}
    answer, blocks = _ok(target.infer_binary(model, head, *[block for _, block in tensors])).parts()
    found = {}
    for item in answer["outputs"]:
        size = item["parameters"]["binary_data_size"]
        found[item["name"]] = _array(
            item["datatype"], from_raw(item["datatype"], blocks[:size]), item["shape"]
        )
        blocks = blocks[size:]
    assert not blocks
    return found


def by_raw_contents(target: Target, model: str, inputs: Mapping[str, np.ndarray]) -> Outputs:
    return _by_grpc(target, model, inputs, as_raw=True)


def by_typed_contents(target: Target, model: str, inputs: Mapping[str, np.ndarray]) -> Outputs:
    """Not for FP16, which has no typed contents."""
    return _by_grpc(target, model, inputs, as_raw=False)


Way = Callable[[Target, str, Mapping[str, np.ndarray]], Outputs]
WAYS: dict[str, Way] = {
    "json": by_json,
    "binary": by_binary,
    "raw": by_raw_contents,
    "typed": by_typed_contents,
}


def _by_grpc(target: Target, model: str, inputs: Mapping[str, np.ndarray], *, as_raw: bool) -> Outputs:
    request = message("ModelInferRequest")(model_name=model)
    for name, value in inputs.items():
        add_input(request, name, datatype_of(value), value, as_raw=as_raw)
    call = target.channel.unary_unary(
        f"/{SERVICE}/ModelInfer",
        request_serializer=lambda built: built.SerializeToString(),
        response_deserializer=message("ModelInferResponse").FromString,
    )
    try:
        answer = call(request, timeout=20)
    except grpc.RpcError as error:
        raise Refused(error.code(), error.details()) from None
    found = values(answer)
    return {item.name: _array(item.datatype, found[item.name], item.shape) for item in answer.outputs}


def _ok(answer: Any) -> Any:
    if answer.status != 200:
        raise Refused(answer.status, answer.body.decode())
    return answer


def _array(datatype: str, flat: list[Any], shape: Any) -> np.ndarray:
    kind = DTYPES[datatype][1]
    if datatype.startswith("FP"):
        flat = [np.nan if item is None else item for item in flat]
    return np.array(flat, kind).reshape(tuple(shape))
