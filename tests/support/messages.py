"""The protocol's gRPC messages, from this table, in a descriptor pool of their own.

tritonclient and kserve each bring generated code under the same file name, and clash in one process; these
messages live beside either.
"""

from __future__ import annotations

import functools
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE = "inference"
SERVICE = f"{PACKAGE}.GRPCInferenceService"

# message → fields as (name, type, repeated). Field numbers follow the order, from 1. `map:X` is a map from
# string to message X; a name with a leading `|` belongs to the oneof `parameter_choice`.
_MESSAGES: dict[str, list[tuple[str, str]]] = {
    "ServerLiveRequest": [],
    "ServerLiveResponse": [("live", "bool")],
    "ServerReadyRequest": [],
    "ServerReadyResponse": [("ready", "bool")],
    "ModelReadyRequest": [("name", "string"), ("version", "string")],
    "ModelReadyResponse": [("ready", "bool")],
    "ServerMetadataRequest": [],
    "ServerMetadataResponse": [("name", "string"), ("version", "string"), ("extensions", "string*")],
    "ModelMetadataRequest": [("name", "string"), ("version", "string")],
    "TensorMetadata": [("name", "string"), ("datatype", "string"), ("shape", "int64*")],
    "ModelMetadataResponse": [
        ("name", "string"),
        ("versions", "string*"),
        ("platform", "string"),
        ("inputs", "TensorMetadata*"),
        ("outputs", "TensorMetadata*"),
    ],
    "InferParameter": [("|bool_param", "bool"), ("|int64_param", "int64"), ("|string_param", "string")],
    "InferTensorContents": [
        ("bool_contents", "bool*"),
        ("int_contents", "int32*"),
        ("int64_contents", "int64*"),
        ("uint_contents", "uint32*"),
        ("uint64_contents", "uint64*"),
        ("fp32_contents", "float*"),
        ("fp64_contents", "double*"),
        ("bytes_contents", "bytes*"),
    ],
    "Tensor": [
        ("name", "string"),
        ("datatype", "string"),
        ("shape", "int64*"),
        ("parameters", "map:InferParameter"),
        ("contents", "InferTensorContents"),
    ],
    "RequestedOutput": [("name", "string"), ("parameters", "map:InferParameter")],
    "ModelInferRequest": [
        ("model_name", "string"),
        ("model_version", "string"),
        ("id", "string"),
        ("parameters", "map:InferParameter"),
        ("inputs", "Tensor*"),
        ("outputs", "RequestedOutput*"),
        ("raw_input_contents", "bytes*"),
    ],
    "ModelInferResponse": [
        ("model_name", "string"),
        ("model_version", "string"),
        ("id", "string"),
        ("parameters", "map:InferParameter"),
        ("outputs", "Tensor*"),
        ("raw_output_contents", "bytes*"),
    ],
    "RepositoryIndexRequest": [("repository_name", "string"), ("ready", "bool")],
    "ModelIndex": [("name", "string"), ("version", "string"), ("state", "string"), ("reason", "string")],
    "RepositoryIndexResponse": [("models", "ModelIndex*")],
    "RepositoryModelLoadRequest": [
        ("repository_name", "string"),
        ("model_name", "string"),
        ("parameters", "map:InferParameter"),
    ],
    "RepositoryModelLoadResponse": [],
    "RepositoryModelUnloadRequest": [
        ("repository_name", "string"),
        ("model_name", "string"),
        ("parameters", "map:InferParameter"),
    ],
    "RepositoryModelUnloadResponse": [],
}

_Field = descriptor_pb2.FieldDescriptorProto


def _field(owner: descriptor_pb2.DescriptorProto, number: int, name: str, kind: str) -> None:
    field = owner.field.add(name=name.lstrip("|"), number=number, label=_Field.LABEL_OPTIONAL)
    if kind.startswith("map:"):
        entry = owner.nested_type.add(name="".join(part.title() for part in name.split("_")) + "Entry")
        entry.options.map_entry = True
        _field(entry, 1, "key", "string")
        _field(entry, 2, "value", kind.removeprefix("map:"))
        kind = f"{owner.name}.{entry.name}*"
    if kind.endswith("*"):
        field.label = _Field.LABEL_REPEATED
        kind = kind[:-1]
    if name.startswith("|"):
        if not owner.oneof_decl:
            owner.oneof_decl.add(name="parameter_choice")
        field.oneof_index = 0
    if kind[0].isupper():
        field.type = _Field.TYPE_MESSAGE
        field.type_name = f".{PACKAGE}.{kind}"
    else:
        field.type = getattr(_Field, f"TYPE_{kind.upper()}")


@functools.cache
def _pool() -> descriptor_pool.DescriptorPool:
    file = descriptor_pb2.FileDescriptorProto(name="oip.proto", package=PACKAGE, syntax="proto3")
    for name, fields in _MESSAGES.items():
        owner = file.message_type.add(name=name)
        for number, (field, kind) in enumerate(fields, start=1):
            _field(owner, number, field, kind)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return pool


@functools.cache
def message(name: str) -> type[Any]:
    """The class of one message: `message("ModelInferRequest")(model_name="m")`."""
    found: type[Any] = message_factory.GetMessageClass(_pool().FindMessageTypeByName(f"{PACKAGE}.{name}"))
    return found
