"""What each call sends and how its answer is read, with no input or output: both REST clients share this."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import msgspec

from serving.client.answer import Answer
from serving.client.tensors import TensorLike, encode, from_bytes, from_values
from slipway.errors import (
    DeadlineExceeded,
    Forbidden,
    InvalidRequest,
    ModelFailed,
    ModelNotFound,
    ModelNotReady,
    Overloaded,
    PayloadTooLarge,
    ServerUnreachable,
    ServingError,
    Unauthorized,
)

T = TypeVar("T")


class TensorMetadata(msgspec.Struct, frozen=True):
    name: str
    datatype: str
    shape: tuple[int, ...]


class ModelMetadata(msgspec.Struct, frozen=True):
    name: str
    inputs: tuple[TensorMetadata, ...] = ()
    outputs: tuple[TensorMetadata, ...] = ()
    platform: str = ""
    versions: tuple[str, ...] = ()

    @property
    def known(self) -> dict[str, tuple[str, int]]:
        """Datatype and number of axes of each input."""
        return {tensor.name: (tensor.datatype, len(tensor.shape)) for tensor in self.inputs}


class ModelState(msgspec.Struct, frozen=True):
    """One entry of the server's index."""

    name: str
    state: str = ""
    version: str = ""
    reason: str = ""


class _Output(msgspec.Struct):
    name: str
    datatype: str
    shape: list[int]
    data: list[Any] | None = None
    parameters: dict[str, Any] = {}


class _Response(msgspec.Struct):
    outputs: list[_Output]
    model_name: str = ""
    model_version: str | None = ""
    id: str | None = ""
    parameters: dict[str, Any] | None = None


@dataclass(frozen=True)
class Reply:
    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes


@dataclass(frozen=True)
class Call(Generic[T]):
    method: str
    path: str
    read: Callable[[Reply], T]
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    retries: bool = True


def path_of(model: str, version: str | None = None) -> str:
    base = f"/v2/models/{quote(model, safe='')}"
    return f"{base}/versions/{quote(version, safe='')}" if version else base


def infer(
    model: str,
    inputs: Mapping[str, TensorLike],
    version: str | None = None,
    outputs: Sequence[str] | None = None,
    id: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    metadata: ModelMetadata | None = None,
) -> Call[Answer]:
    encoded = encode(inputs, metadata.known if metadata else {})
    tensors = [
        {
            "name": tensor.name,
            "shape": tensor.shape,
            "datatype": tensor.datatype,
            "parameters": {"binary_data_size": len(tensor.block)},
        }
        for tensor in encoded
    ]
    head: dict[str, Any] = {
        "inputs": tensors,
        "parameters": {**(parameters or {}), "binary_data_output": True},
    }
    if id:
        head["id"] = id
    if outputs is not None:
        head["outputs"] = [{"name": name} for name in outputs]
    text = msgspec.json.encode(head)
    headers = {
        "content-type": "application/octet-stream",
        "inference-header-content-length": str(len(text)),
    }
    path = f"{path_of(model, version)}/infer"
    return Call("POST", path, read_answer, text + b"".join([tensor.block for tensor in encoded]), headers)


def read_answer(reply: Reply) -> Answer:
    _check(reply)
    size = reply.headers.get("inference-header-content-length", "")
    end = int(size) if size.isdecimal() else len(reply.body)
    response = _decode(reply.body[:end], _Response)
    rest, at = memoryview(reply.body), end
    arrays = {}
    for item in response.outputs:
        try:
            if item.data is not None:
                arrays[item.name] = from_values(item.data, item.datatype, item.shape)
            else:
                count = int(item.parameters["binary_data_size"])
                arrays[item.name] = from_bytes(rest[at : at + count], item.datatype, item.shape)
                at += count
        except UNREADABLE as error:
            raise unreadable(item.name, error) from error
    return Answer(
        arrays,
        response.model_name,
        response.model_version or "",
        response.id or "",
        response.parameters or {},
    )


UNREADABLE = (KeyError, ValueError, TypeError, OverflowError, struct.error)
"""What NumPy and struct raise on tensors that are not what they say."""


def unreadable(name: str, error: Exception) -> ServingError:
    return ServingError(
        f"output {name!r} cannot be read: {error!r}",
        where="the server's answer",
        fix="is this an Open Inference Protocol server?",
    )


def metadata(model: str, version: str | None) -> Call[ModelMetadata]:
    return Call("GET", path_of(model, version), lambda reply: _read(reply, ModelMetadata))


def server() -> Call[dict[str, Any]]:
    return Call("GET", "/v2", lambda reply: _read(reply, dict[str, Any]))


def ready(model: str | None, version: str | None) -> Call[bool]:
    path = "/v2/health/ready" if model is None else f"{path_of(model, version)}/ready"
    return Call("GET", path, lambda reply: reply.status == 200, retries=False)


def live() -> Call[bool]:
    return Call("GET", "/v2/health/live", lambda reply: reply.status == 200, retries=False)


def index(only_ready: bool) -> Call[list[ModelState]]:
    body = msgspec.json.encode({"ready": only_ready})
    headers = {"content-type": "application/json"}
    return Call("POST", "/v2/repository/index", lambda reply: _read(reply, list[ModelState]), body, headers)


def change(model: str, verb: str) -> Call[None]:
    """Load or unload."""
    return Call("POST", f"/v2/repository/models/{quote(model, safe='')}/{verb}", _check)


def _read(reply: Reply, kind: type[T]) -> T:
    _check(reply)
    return _decode(reply.body, kind)


def _decode(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ServingError(
            f"not what the protocol says: {error}",
            where="the server's answer",
            fix="is this the address of an Open Inference Protocol server?",
        ) from error


BY_STATUS: dict[int, type[ServingError]] = {
    400: InvalidRequest,
    401: Unauthorized,
    403: Forbidden,
    404: ModelNotFound,
    413: PayloadTooLarge,
    422: InvalidRequest,
    500: ModelFailed,
    502: ServerUnreachable,
    503: ModelNotReady,
    504: DeadlineExceeded,
}
FIXES: dict[type[ServingError], str] = {
    Unauthorized: "give the client a token: Client(url, token=...)",
    Forbidden: "ask whoever runs the server for this right, or use the token of somebody who has it",
    ModelNotFound: "see what there is with client.models()",
}


def _check(reply: Reply) -> None:
    if 200 <= reply.status < 300:
        return
    try:
        text = str(msgspec.json.decode(reply.body, type=dict[str, Any])["error"])
    except (msgspec.MsgspecError, KeyError, UnicodeDecodeError, RecursionError):
        text = reply.body[:300].decode(errors="replace") or "no reason was given"
    wait = retry_after(reply)
    if reply.status in (429, 503) and wait is not None:
        raise Overloaded(text, retry_after=wait, where=f"the server answered {reply.status}")
    kind = BY_STATUS.get(reply.status, ServingError)
    # The server's own message may say what to do already.
    fix = None if "to mend it:" in text else FIXES.get(kind)
    raise kind(text, where=f"the server answered {reply.status}", fix=fix)


def retry_after(reply: Reply) -> float | None:
    """Seconds; the header's other form, a date, is what proxies send to browsers, and is not read."""
    try:
        return max(0.0, float(reply.headers["retry-after"]))
    except (KeyError, ValueError):
        return None
