"""What an ONNX file says about its graph: nodes, constants, operator sets. ONNX Runtime does not show them.

The `onnx` package would take 20 MB and 0.2 s at start for what is a few kinds of protobuf messages. Weights
are passed over, whatever their size; small constants are kept, since shapes and axes are among them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from serving.runtime.grpc import wire

MAX_NUMBERS = 64
"""Constants of so many integers at most are kept: shapes, axes, indices."""
MAX_SAMPLES = 4096
_INT32, _INT64 = 6, 7


@dataclass(slots=True)
class Constant:
    dims: tuple[int, ...]
    numbers: tuple[int, ...] | None = None
    """Its values, where they are few and whole."""
    flag: bool | None = None
    """Whether a boolean scalar is set."""


@dataclass(slots=True)
class Node:
    operator: str
    domain: str
    name: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any]
    """Numbers, lists of numbers, text, constants; of categories how many they are. What is larger is None."""

    @property
    def title(self) -> str:
        return f"{self.operator} {self.name!r}" if self.name else self.operator


@dataclass(slots=True)
class Graph:
    nodes: list[Node] = field(default_factory=list)
    constants: dict[str, Constant] = field(default_factory=dict)
    operator_sets: dict[str, int] = field(default_factory=dict)
    functions: bool = False
    """It has operators of its own."""
    words: list[str] = field(default_factory=list)
    """Categories that nodes know: what its string inputs may hold."""
    whole: list[int] = field(default_factory=list)
    """The same for integers."""
    thresholds: list[float] = field(default_factory=list)
    """Where trees split."""


Span = tuple[int, int]


def read_graph(raw: bytes) -> Graph:
    """ValueError where it is no ONNX model."""
    graph = Graph()
    for number, value in _fields(raw, 0, len(raw)):
        if number == 7:
            _read_graph(raw, value, graph)
        elif number == 8:
            found = dict(_fields(raw, *value))
            graph.operator_sets[_text(raw, found.get(1))] = found.get(2, 0)
        elif number == 25:
            graph.functions = True
    return graph


def _fields(raw: bytes, position: int, stop: int) -> Iterator[tuple[int, Any]]:
    """Field number, and its value: a whole number, four or eight bytes, or from where to where."""
    while position < stop:
        number, kind, position = wire.read_tag(raw, position, stop)
        if kind == wire.BYTES:
            start, position = wire.read_span(raw, position, stop)
            yield number, (start, position)
        elif kind == wire.VARINT:
            value, position = wire.read_varint(raw, position, stop)
            yield number, value
        else:
            start, position = position, wire.skip(raw, number, kind, position, stop)
            yield number, raw[start:position]


def _text(raw: bytes, span: Span | None) -> str:
    return "" if span is None else raw[span[0] : span[1]].decode(errors="replace")


def _read_graph(raw: bytes, span: Span, graph: Graph) -> None:
    for number, value in _fields(raw, *span):
        if number == 1:
            graph.nodes.append(_read_node(raw, value, graph))
        elif number == 5:
            name, constant = _read_constant(raw, value)
            graph.constants[name] = constant
        elif number == 15:  # sparse: values 1 (a tensor with the name), dims 3
            for part, content in _fields(raw, *value):
                if part == 1:
                    graph.constants[_read_constant(raw, content)[0]] = Constant(())
                    graph.functions = True  # its shape is not read: nothing is claimed of such a graph


def _read_node(raw: bytes, span: Span, graph: Graph) -> Node:
    node = Node("", "", "", [], [], {})
    for number, value in _fields(raw, *span):
        if number == 1:
            node.inputs.append(_text(raw, value))
        elif number == 2:
            node.outputs.append(_text(raw, value))
        elif number == 3:
            node.name = _text(raw, value)
        elif number == 4:
            node.operator = _text(raw, value)
        elif number == 5:
            name, content = _read_attribute(raw, value, graph)
            node.attributes[name] = content
        elif number == 7:
            node.domain = _text(raw, value)
    if node.domain == "ai.onnx":
        node.domain = ""
    return node


_WORDS = ("cats_strings", "keys_strings", "classes_strings", "pool_strings")
_WHOLE = ("cats_int64s", "keys_int64s")
_LISTS = ("axes", "perm", "pads", "starts", "ends", "value_ints")
"""What trees have are long, and nobody asks for them."""


def _read_attribute(raw: bytes, span: Span, graph: Graph) -> tuple[str, Any]:
    name = ""
    content: Any = None
    numbers: list[int] = []
    for number, value in _fields(raw, *span):
        if number == 1:
            name = _text(raw, value)
        elif number == 3:
            content = wire.signed(value, 64)
        elif number == 2:
            content = struct.unpack("<f", value)[0]
        elif number == 4:
            content = _text(raw, value)
        elif number == 5:
            content = _read_constant(raw, value)[1]
        elif number == 7:
            if name == "nodes_values" and not isinstance(value, tuple):
                graph.thresholds += _floats(raw, *span)
            break
        elif number == 8:
            if name not in _LISTS and name not in _WHOLE:
                break
            numbers += _whole(raw, value)
        elif number == 9:
            if name not in _WORDS:
                break
            content = (content or 0) + 1
            if len(graph.words) < MAX_SAMPLES:
                graph.words.append(_text(raw, value))
    if name in _WHOLE:
        graph.whole += numbers[:MAX_SAMPLES]
        content = len(numbers) or None
    elif numbers:
        content = numbers
    return name, content


def _floats(raw: bytes, start: int, stop: int) -> list[float]:
    """Of field 7, which stands one by one, five bytes each: a forest has a hundred thousand."""
    first = raw.find(b"\x3d", start, stop)
    count = min((stop - first) // 5, MAX_SAMPLES)
    found = np.frombuffer(raw, np.dtype([("tag", "u1"), ("value", "<f4")]), count, first)
    return found["value"][found["tag"] == 0x3D].tolist()  # type: ignore[no-any-return]


def _whole(raw: bytes, value: int | Span) -> list[int]:
    """Of a repeated field of whole numbers: one, or many packed."""
    if isinstance(value, int):
        return [wire.signed(value, 64)]
    found: list[int] = []
    position, stop = value
    while position < stop and len(found) <= MAX_NUMBERS:
        number, position = wire.read_varint(raw, position, stop)
        found.append(wire.signed(number, 64))
    return found


def _read_constant(raw: bytes, span: Span) -> tuple[str, Constant]:
    name, kind = "", 0
    content: Span | None = None
    dims: list[int] = []
    numbers: list[int] = []
    for number, value in _fields(raw, *span):
        if number == 1:
            dims += _whole(raw, value)
        elif number == 2:
            kind = value
        elif number in (5, 7) and len(numbers) <= MAX_NUMBERS:
            numbers += _whole(raw, value)
        elif number == 8:
            name = _text(raw, value)
        elif number == 9:
            content = value
    constant = Constant(tuple(dims))
    size = 1
    for axis in dims:
        size *= axis
    if size <= MAX_NUMBERS and kind in (_INT32, _INT64):
        if content is not None:
            found = np.frombuffer(raw[content[0] : content[1]], "<i8" if kind == _INT64 else "<i4")
            numbers = found.tolist()
        if len(numbers) == size:
            constant.numbers = tuple(numbers)
    elif kind == 9 and size == 1:
        constant.flag = bool(raw[content[0]] if content is not None else sum(numbers))
    return name, constant
