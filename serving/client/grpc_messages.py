"""What the gRPC calls send and how their answers are read, with no input or output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from serving.client import protobuf
from serving.client.answer import Answer
from serving.client.calls import UNREADABLE, ModelMetadata, ModelState, TensorMetadata, unreadable
from serving.client.protobuf import fields
from serving.client.tensors import DTYPES, Array, TensorLike, as_array, datatype_of, from_bytes, to_bytes

_CONTENTS = {2: "INT32", 3: "INT64", 4: "UINT32", 5: "UINT64", 6: "FP32", 7: "FP64"}
"""Typed contents that some servers answer with: field number → how the values are packed."""


def named(model: str | None, version: str | None) -> bytes:
    return protobuf.text(1, model) + protobuf.text(2, version)


def infer_message(
    model: str,
    inputs: Mapping[str, TensorLike],
    version: str | None,
    outputs: Sequence[str] | None,
    id: str | None,
    parameters: Mapping[str, Any] | None,
    metadata: ModelMetadata | None,
) -> bytes:
    known = {tensor.name: tensor for tensor in metadata.inputs} if metadata else {}
    parts = [protobuf.text(1, model), protobuf.text(2, version), protobuf.text(3, id)]
    parts.append(protobuf.parameters(4, parameters or {}))
    blocks = []
    for name, value in inputs.items():
        told = known.get(name)
        array = as_array(name, value, told.datatype if told else None, len(told.shape) if told else None)
        datatype = datatype_of(name, array)
        tensor = protobuf.text(1, name) + protobuf.text(2, datatype) + protobuf.shape(3, array.shape)
        parts.append(protobuf.field(5, tensor))
        blocks.append(protobuf.field(7, to_bytes(name, array, datatype)))
    parts += [protobuf.field(6, protobuf.text(1, name)) for name in outputs or ()]
    return b"".join(parts + blocks)


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


def is_true(message: bytes) -> bool:
    return any(number == 1 and value for number, value in fields(message))
