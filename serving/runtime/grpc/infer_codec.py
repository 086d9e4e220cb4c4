"""ModelInferRequest and ModelInferResponse: the messages whose codec must be fast.

Tensors are handed on as they lie in the message (raw contents, and fp32 and fp64 contents, are little-endian
on the wire), so a megabyte of floats costs no more than ten of them.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from serving.runtime.datatypes import DATATYPES, decode_text, element_count
from serving.runtime.grpc import wire
from serving.runtime.grpc.protobuf import Message, read_text
from serving.runtime.messages import Tensor, refuse_elsewhere
from slipway.errors import InvalidRequest

Span = tuple[int, int]

_COPY_LIMIT = 4096
"""Below it, a copy of the bytes is cheaper than a view that keeps the whole read buffer alive."""

# Field of InferTensorContents -> its name, the numpy type of its elements, the datatypes it serves.
_CONTENTS: dict[int, tuple[str, str, tuple[str, ...]]] = {
    1: ("bool_contents", "?", ("BOOL",)),
    2: ("int_contents", "<i4", ("INT8", "INT16", "INT32")),
    3: ("int64_contents", "<i8", ("INT64",)),
    4: ("uint_contents", "<u4", ("UINT8", "UINT16", "UINT32")),
    5: ("uint64_contents", "<u8", ("UINT64",)),
    6: ("fp32_contents", "<f4", ("FP32",)),
    7: ("fp64_contents", "<f8", ("FP64",)),
    8: ("bytes_contents", "", ("BYTES",)),
}
_FIELD_FOR = {datatype: number for number, (_, _, names) in _CONTENTS.items() for datatype in names}
_FIXED = {6: 4, 7: 8}


@dataclass(slots=True)
class InputTensor:
    name: str = ""
    datatype: str = ""
    shape: tuple[int, ...] = ()
    contents: dict[int, list[Span]] = field(default_factory=dict)
    """Field of InferTensorContents -> where its packed pieces lie; a piece outside of a packed one is its
    number itself, as a span of the varint."""
    parameters: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class InferMessage:
    """A ModelInferRequest with its tensors still where they came."""

    model_name: str = ""
    model_version: str = ""
    id: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    inputs: list[InputTensor] = field(default_factory=list)
    outputs: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    raw: list[Span] = field(default_factory=list)
    plain: bool = True
    """Fields 1 to 7 in their order, the single ones at most once: then a template may be learnt from it."""


class InferDecoder:
    def __init__(self, parameter_entry: Message) -> None:
        self._entry = parameter_entry

    def decode(self, data: bytes, position: int, stop: int) -> InferMessage:
        message = InferMessage()
        before = 0
        while position < stop:
            number, kind, position = wire.read_tag(data, position, stop)
            if kind != wire.BYTES or number > 7:
                position = wire.skip(data, number, kind, position, stop)
                message.plain = False
                continue
            start, position = wire.read_span(data, position, stop)
            if number < before or (number == before and number < 4):
                message.plain = False
            before = number
            if number == 7:
                message.raw.append((start, position))
            elif number == 5:
                message.inputs.append(self._input(data, start, position))
            elif number == 6:
                message.outputs.append(self._output(data, start, position))
            elif number == 4:
                self._parameter(message.parameters, data, start, position)
            else:
                text = read_text(data[start:position])
                if number == 1:
                    message.model_name = text
                elif number == 2:
                    message.model_version = text
                else:
                    message.id = text
        return message

    def _input(self, data: bytes, position: int, stop: int) -> InputTensor:
        tensor = InputTensor()
        shape: list[int] = []
        while position < stop:
            number, kind, position = wire.read_tag(data, position, stop)
            if kind == wire.VARINT and number == 3:
                axis, position = wire.read_varint(data, position, stop)
                shape.append(wire.signed(axis, 64))
                continue
            if kind != wire.BYTES or number > 5:
                position = wire.skip(data, number, kind, position, stop)
                continue
            start, position = wire.read_span(data, position, stop)
            if number == 1:
                tensor.name = read_text(data[start:position])
            elif number == 2:
                tensor.datatype = read_text(data[start:position])
            elif number == 3:
                while start < position:
                    axis, start = wire.read_varint(data, start, position)
                    shape.append(wire.signed(axis, 64))
            elif number == 4:
                self._parameter(tensor.parameters, data, start, position)
            else:
                _contents(tensor.contents, data, start, position)
        tensor.shape = tuple(shape)
        return tensor

    def _output(self, data: bytes, position: int, stop: int) -> tuple[str, dict[str, Any]]:
        name = ""
        parameters: dict[str, Any] = {}
        while position < stop:
            number, kind, position = wire.read_tag(data, position, stop)
            if kind != wire.BYTES or number > 2:
                position = wire.skip(data, number, kind, position, stop)
                continue
            start, position = wire.read_span(data, position, stop)
            if number == 1:
                name = read_text(data[start:position])
            else:
                self._parameter(parameters, data, start, position)
        return name, parameters

    def _parameter(self, parameters: dict[str, Any], data: bytes, start: int, stop: int) -> None:
        entry = self._entry.decode(data, start, stop)
        values = list(entry.get("value", {}).values())
        parameters[entry.get("key", "")] = values[0] if values else None


def _contents(contents: dict[int, list[Span]], data: bytes, position: int, stop: int) -> None:
    while position < stop:
        number, kind, position = wire.read_tag(data, position, stop)
        start = position
        if kind == wire.BYTES and number <= 8:
            start, position = wire.read_span(data, position, stop)
        else:
            position = wire.skip(data, number, kind, position, stop)
            size = _FIXED.get(number)
            wanted = {4: wire.FIXED32, 8: wire.FIXED64, None: wire.VARINT}[size]
            if number >= 8 or kind != wanted:
                continue
        contents.setdefault(number, []).append((start, position))


def tensors_of(message: InferMessage, data: bytes) -> list[Tensor]:
    """The tensors of a message; InvalidRequest names the input and what is wrong with it."""
    raw = message.raw
    for item in message.inputs:
        if item.parameters:
            refuse_elsewhere(item.parameters, f"input {item.name!r}")
    if raw and len(raw) != len(message.inputs):
        raise InvalidRequest(
            f"{len(raw)} raw_input_contents for {len(message.inputs)} inputs",
            where=f"model {message.model_name}",
            fix="give one entry for each input, in their order",
        )
    tensors = []
    for number, item in enumerate(message.inputs):
        if raw:
            if item.contents:
                raise InvalidRequest(
                    "it has contents, and the request has raw_input_contents",
                    where=f"input {item.name!r}",
                    fix="use one of the two for all inputs",
                )
            tensors.append(Tensor.from_raw(item.name, item.datatype, item.shape, piece(data, *raw[number])))
        else:
            tensors.append(_typed(item, data))
    return tensors


def piece(data: bytes, start: int, stop: int) -> bytes | memoryview:
    return data[start:stop] if stop - start <= _COPY_LIMIT else memoryview(data)[start:stop]


def _typed(item: InputTensor, data: bytes) -> Tensor:
    where = f"input {item.name!r}"
    if item.datatype not in DATATYPES:
        raise InvalidRequest(f"datatype {item.datatype!r} is not one of {', '.join(DATATYPES)}", where=where)
    wanted = _FIELD_FOR.get(item.datatype)
    if wanted is None:
        raise InvalidRequest(
            f"{item.datatype} has no typed contents", where=where, fix="send it as raw_input_contents"
        )
    name, element, _ = _CONTENTS[wanted]
    strange = [number for number in item.contents if number != wanted]
    if strange:
        raise InvalidRequest(
            f"{item.datatype} belongs into {name}, the request has {_CONTENTS[strange[0]][0]}", where=where
        )
    count = element_count(item.shape, item.name)
    spans = item.contents.get(wanted, [])
    if wanted == 8:
        if len(spans) != count:
            raise InvalidRequest(f"{len(spans)} elements, the shape means {count}", where=where)
        texts = [decode_text(data[start:stop], item.name) for start, stop in spans]
        return Tensor(item.name, item.datatype, item.shape, texts)
    pieces = [piece(data, *span) for span in spans]
    joined = pieces[0] if len(pieces) == 1 else b"".join(pieces)
    kind = DATATYPES[item.datatype]
    if wanted in _FIXED:
        if len(joined) != count * kind.size:
            raise InvalidRequest(
                f"{len(joined) / kind.size:g} elements, the shape means {count}", where=where
            )
        return Tensor(item.name, item.datatype, item.shape, joined)
    try:
        values = unpack_varints(joined)
    except ValueError as error:
        raise InvalidRequest(str(error), where=f"{where}, {name}") from None
    if len(values) != count:
        raise InvalidRequest(f"{len(values)} elements, the shape means {count}", where=where)
    # Protobuf cuts a number to the width of its field; bool is whether any bit is set.
    exact = values != 0 if element == "?" else values.astype(element)
    if exact.dtype != kind.numpy:
        limits = np.iinfo(kind.numpy)
        if count and (exact.min() < limits.min or exact.max() > limits.max):
            raise InvalidRequest(
                f"a value does not fit {item.datatype} ({limits.min} to {limits.max})", where=where
            )
        exact = exact.astype(kind.numpy)
    return Tensor(item.name, item.datatype, item.shape, exact.tobytes())


def unpack_varints(packed: bytes | memoryview) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """All numbers of a packed field at once: 4 ns each where a loop takes 200."""
    octets = np.frombuffer(packed, np.uint8)
    if not octets.size or octets.max() < 0x80:
        return octets.astype(np.uint64)
    ends = np.flatnonzero(octets < 0x80)
    if not ends.size or ends[-1] != octets.size - 1:
        raise ValueError("the message ends inside a number")
    starts = np.concatenate((np.zeros(1, ends.dtype), ends[:-1] + 1))
    lengths = ends - starts + 1
    if lengths.max() > 10:
        raise ValueError("a number has more than 10 bytes")
    values = np.zeros(ends.size, np.uint64)
    for place in range(int(lengths.max())):
        has = lengths > place
        part = octets[starts[has] + place].astype(np.uint64) & np.uint64(0x7F)
        values[has] |= part << np.uint64(7 * place)
    return values


# Answers

_PREFIX = struct.Struct(">BI")
PREFIX_BYTES = _PREFIX.size


def prefix(size: int) -> bytes:
    """What gRPC sends before a message of this size that is not compressed."""
    return _PREFIX.pack(0, size)


def frame(message: bytes) -> bytes:
    return prefix(len(message)) + message


def write_text(number: int, text: str) -> bytes:
    return wire.write_bytes(number, text.encode()) if text else b""


def write_output(name: str, datatype: str, shape: tuple[int, ...]) -> bytes:
    axes = b"".join(wire.write_varint(axis) for axis in shape)
    tensor = write_text(1, name) + write_text(2, datatype)
    return wire.write_bytes(5, tensor + (wire.write_bytes(3, axes) if axes else b""))


def write_parameters(number: int, parameters: dict[str, Any]) -> bytes:
    out = b""
    for key, value in parameters.items():
        if isinstance(value, bool):
            choice = b"\x08\x01" if value else b"\x08\x00"
        elif isinstance(value, int) and -(1 << 63) <= value < 1 << 63:
            choice = b"\x10" + wire.write_varint(value)
        elif isinstance(value, float):
            choice = b"\x21" + struct.pack("<d", value)
        else:
            choice = wire.write_bytes(3, str(value).encode())
        out += wire.write_bytes(number, wire.write_bytes(1, key.encode()) + wire.write_bytes(2, choice))
    return out
