"""gRPC calls by message name, with Google's own client and messages of our own table."""

from __future__ import annotations

from typing import Any

import grpc
import numpy as np

from tests.support.messages import SERVICE, message


def unary(channel: grpc.Channel, method: str) -> Any:
    return channel.unary_unary(
        f"/{SERVICE}/{method}",
        request_serializer=lambda request: request.SerializeToString(),
        response_deserializer=message(f"{method}Response").FromString,
    )


def infer_request(model: str, **inputs: np.ndarray) -> Any:
    """Raw contents; FP32 and INT64 tensors."""
    request = message("ModelInferRequest")(model_name=model)
    for name, value in inputs.items():
        datatype = {"float32": "FP32", "int64": "INT64"}[value.dtype.name]
        request.inputs.add(name=name, datatype=datatype, shape=value.shape)
        request.raw_input_contents.append(value.tobytes())
    return request


def code_of(channel: grpc.Channel, method: str, request: Any, **options: Any) -> grpc.StatusCode:
    """The status that a call ends with."""
    options.setdefault("timeout", 60)
    _, call = _with_call(channel, method, request, options)
    return call.code()  # type: ignore[no-any-return]


def _with_call(channel: grpc.Channel, method: str, request: Any, options: dict[str, Any]) -> tuple[Any, Any]:
    try:
        return unary(channel, method).with_call(request, **options)  # type: ignore[no-any-return]
    except grpc.RpcError as error:
        return None, error


def metadata_of(
    channel: grpc.Channel, method: str, request: Any, **options: Any
) -> tuple[Any, dict[str, str]]:
    """The answer (None when refused), and what was told in headers and trailers."""
    options.setdefault("timeout", 60)
    answer, call = _with_call(channel, method, request, options)
    return answer, {**dict(call.initial_metadata() or ()), **dict(call.trailing_metadata() or ())}
