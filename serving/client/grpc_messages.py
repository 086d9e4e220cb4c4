"""What the gRPC calls send and how their answers are read, with no input or output."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from serving.client import protobuf
from serving.client.answer import Answer
from serving.client.calls import UNREADABLE, ModelMetadata, ModelState, TensorMetadata, unreadable
from serving.client.protobuf import fields
from serving.client.tensors import DTYPES, Array, TensorLike, encode, from_bytes

T = TypeVar("T")

_CONTENTS = {2: "INT32", 3: "INT64", 4: "UINT32", 5: "UINT64", 6: "FP32", 7: "FP64"}
"""Typed contents that some servers answer with: field number → how the values are packed."""


def named(model: str | None, version: str | None) -> bytes:
    return protobuf.text(1, model) + protobuf.text(2, version)


@dataclass(frozen=True)
class Call(Generic[T]):
    method: str
    read: Callable[[bytes], T]
    message: bytes = b""
    retries: bool = True
    if_unknown: T | None = None
    """What it is called when there is no such model; None: an error."""


def infer(
    model: str,
    inputs: Mapping[str, TensorLike],
    version: str | None = None,
    outputs: Sequence[str] | None = None,
    id: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    metadata: ModelMetadata | None = None,
) -> Call[Answer]:
    message = infer_message(model, inputs, version, outputs, id, parameters, metadata)
    return Call("ModelInfer", read_answer, message)


def metadata(model: str, version: str | None) -> Call[ModelMetadata]:
    return Call("ModelMetadata", read_metadata, named(model, version))


def server() -> Call[dict[str, Any]]:
    return Call("ServerMetadata", read_server)


def live() -> Call[bool]:
    return Call("ServerLive", is_true, retries=False)


def ready(model: str | None, version: str | None) -> Call[bool]:
    if model is None:
        return Call("ServerReady", is_true, retries=False)
    return Call("ModelReady", is_true, named(model, version), retries=False, if_unknown=False)


def index(only_ready: bool) -> Call[list[ModelState]]:
    return Call("RepositoryIndex", read_index, protobuf.flag(2, only_ready))


def change(model: str, verb: str) -> Call[None]:
    """Load or unload."""
    return Call(f"RepositoryModel{verb.capitalize()}", lambda _: None, protobuf.text(2, model))


def infer_message(
    model: str,
    inputs: Mapping[str, TensorLike],
    version: str | None,
    outputs: Sequence[str] | None,
    id: str | None,
    parameters: Mapping[str, Any] | None,
    metadata: ModelMetadata | None,
) -> bytes:
    parts = [protobuf.text(1, model), protobuf.text(2, version), protobuf.text(3, id)]
    parts.append(protobuf.parameters(4, parameters or {}))
    encoded = encode(inputs, metadata.known if metadata else {})
    for tensor in encoded:
        described = protobuf.text(1, tensor.name) + protobuf.text(2, tensor.datatype)
        parts.append(protobuf.field(5, described + protobuf.shape(3, tensor.shape)))
    parts += [protobuf.field(6, protobuf.text(1, name)) for name in outputs or ()]
    parts += [protobuf.field(7, tensor.block) for tensor in encoded]
    return b"".join(parts)


def read_answer(message: bytes) -> Answer:
    said: dict[int, str] = {1: "", 2: "", 3: ""}
    parameters: dict[str, Any] = {}
    arrays: dict[str, Array] = {}
    name = ""
    try:
        tensors: list[tuple[str, str, list[int], memoryview | None]] = []
        raw: list[memoryview] = []
        for number, item in fields(message):
            if number in said:
                said[number] = str(item, "utf-8")
            elif number == 4:
                key, value = protobuf.read_parameter(item)
                parameters[key] = value
            elif number == 5:
                tensors.append(_read_tensor(item))
            elif number == 6:
                raw.append(item)
        for place, (name, datatype, shape, contents) in enumerate(tensors):
            if raw:
                arrays[name] = from_bytes(raw[place], datatype, shape)
            else:
                arrays[name] = _typed(contents, datatype).reshape(shape)
    except (*UNREADABLE, IndexError) as error:
        raise unreadable(name, error) from error
    return Answer(arrays, said[1], said[2], said[3], parameters)


def _read_tensor(content: memoryview) -> tuple[str, str, list[int], memoryview | None]:
    name = datatype = ""
    shape: list[int] = []
    contents = None
    for number, item in fields(content):
        if number == 1:
            name = str(item, "utf-8")
        elif number == 2:
            datatype = str(item, "utf-8")
        elif number == 3:
            shape += protobuf.read_shape(item)
        elif number == 5:
            contents = item
    return name, datatype, shape, contents


def _typed(contents: memoryview | None, datatype: str) -> Array:
    values: list[Any] = []
    for number, item in fields(contents or b""):
        if number == 8:
            values.append(str(item, "utf-8"))
        elif number in (6, 7):
            values += np.frombuffer(item, DTYPES[_CONTENTS[number]]).tolist()
        else:
            values += protobuf.read_shape(item)
    return np.array(values, dtype=DTYPES[datatype])


def read_metadata(message: bytes) -> ModelMetadata:
    texts = {1: "", 3: ""}
    versions: list[str] = []
    tensors: dict[int, list[TensorMetadata]] = {4: [], 5: []}
    for number, item in fields(message):
        if number in texts:
            texts[number] = str(item, "utf-8")
        elif number == 2:
            versions.append(str(item, "utf-8"))
        elif number in tensors:
            name, datatype, shape, _ = _read_tensor(item)
            tensors[number].append(TensorMetadata(name, datatype, tuple(shape)))
    return ModelMetadata(texts[1], tuple(tensors[4]), tuple(tensors[5]), texts[3], tuple(versions))


def read_index(message: bytes) -> list[ModelState]:
    found = []
    for _, item in fields(message):
        said = {number: str(content, "utf-8") for number, content in fields(item)}
        found.append(ModelState(said.get(1, ""), said.get(3, ""), said.get(2, ""), said.get(4, "")))
    return found


def read_server(message: bytes) -> dict[str, Any]:
    said: dict[str, Any] = {"name": "", "version": "", "extensions": []}
    for number, item in fields(message):
        if number == 3:
            said["extensions"].append(str(item, "utf-8"))
        elif number in (1, 2):
            said["name" if number == 1 else "version"] = str(item, "utf-8")
    return said


def is_true(message: bytes) -> bool:
    return any(number == 1 and value for number, value in fields(message))
