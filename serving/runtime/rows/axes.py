"""Operators that work along an axis, which must not be that of the rows."""

from __future__ import annotations

from serving.runtime.graph import Node
from serving.runtime.rows.values import (
    Given,
    Mixes,
    Value,
    after,
    axes_of,
    elsewhere,
    fixed,
    replaced,
    rows_in,
    rule,
    whole_numbers,
    without,
    wrap,
)


@rule("Softmax", "LogSoftmax", "Hardmax")
def _softmax(node: Node, given: Given, version: int) -> Value:
    value = rows_in(given[0])
    if version and version < 13:
        after(value, node.attributes.get("axis", 1))
    else:
        elsewhere(node.attributes.get("axis", -1), value)
    return Value(value.axis, value.shape)


@rule("LpNormalization", "CumSum")
def _along(node: Node, given: Given, version: int) -> Value:
    value = rows_in(given[0])
    if node.operator == "CumSum":
        (axis,) = whole_numbers(given[1])
    else:
        axis = node.attributes.get("axis", -1)
    elsewhere(axis, value)
    return Value(value.axis, value.shape)


@rule("LayerNormalization", "RMSNormalization")
def _layers(node: Node, given: Given, version: int) -> list[Value]:
    fixed(*given[1:])
    value = rows_in(given[0])
    after(value, node.attributes.get("axis", -1))
    if len(node.outputs) > 1:
        raise Mixes("its mean is asked for")
    return [Value(value.axis, value.shape)]


@rule("TopK")
def _top(node: Node, given: Given, version: int) -> Value:
    value = rows_in(given[0])
    fixed(*given[1:])
    axis = elsewhere(node.attributes.get("axis", -1), value)
    return Value(value.axis, replaced(value, axis, None))


@rule("ArgMax", "ArgMin")
def _arguments(node: Node, given: Given, version: int) -> Value:
    value = rows_in(given[0])
    return _reduced(value, [elsewhere(node.attributes.get("axis", 0), value)], node)


@rule(
    *[
        "ReduceL1",
        "ReduceL2",
        "ReduceLogSum",
        "ReduceLogSumExp",
        "ReduceMax",
        "ReduceMean",
        "ReduceMin",
        "ReduceProd",
        "ReduceSum",
        "ReduceSumSquare",
    ]
)
def _reduce(node: Node, given: Given, version: int) -> Value:
    value = rows_in(given[0])
    axes = axes_of(node, given, 1)
    if not axes:
        raise Mixes("it works along all axes")
    return _reduced(value, [elsewhere(axis, value) for axis in axes], node)


def _reduced(value: Value, axes: list[int], node: Node) -> Value:
    if node.attributes.get("keepdims", 1):
        return Value(value.axis, tuple(1 if at in axes else d for at, d in enumerate(value.shape)))
    return without(value, axes)


@rule("Concat")
def _concat(node: Node, given: Given, version: int) -> Value:
    values = [value for value in given if value is not None]
    first = values[0]
    if any(value.axis is None or value.axis != first.axis for value in values):
        raise Mixes("the rows lie along different axes of its inputs")
    axis = elsewhere(node.attributes.get("axis", 1), first)
    lengths = [value.shape[axis] for value in values]
    known = [length for length in lengths if length is not None]
    return Value(first.axis, replaced(first, axis, sum(known) if len(known) == len(lengths) else None))


@rule("Split")
def _split(node: Node, given: Given, version: int) -> Value:
    value = rows_in(given[0])
    fixed(*given[1:])
    axis = elsewhere(node.attributes.get("axis", 0), value)
    return Value(value.axis, replaced(value, axis, None))


@rule("Slice")
def _slice(node: Node, given: Given, version: int) -> Value:
    value = rows_in(given[0])
    axes = axes_of(node, given, 3)
    if axes is None:
        axes = list(range(len(_cuts(node, given, "starts", 1) or value.shape)))
    fixed(*given[1:])
    dims = value.shape
    for number, axis in enumerate(axes):
        if wrap(axis, value.rank) == value.axis and _takes_all(node, given, number):
            continue
        dims = replaced(Value(value.axis, dims), elsewhere(axis, value), None)
    return Value(value.axis, dims)


def _cuts(node: Node, given: Given, name: str, place: int) -> list[int]:
    found = node.attributes.get(name)
    return list(found) if found is not None else whole_numbers(given[place])


def _takes_all(node: Node, given: Given, number: int) -> bool:
    """From the first to the last, as exporters write it."""
    steps = whole_numbers(given[4]) if len(given) > 4 and given[4] is not None else None
    return (
        _cuts(node, given, "starts", 1)[number] == 0
        and _cuts(node, given, "ends", 2)[number] >= 2**31 - 1
        and (steps is None or steps[number] == 1)
    )


@rule("Gather")
def _gather(node: Node, given: Given, version: int) -> Value:
    data, indices = given
    if data is None or indices is None:
        raise Mixes("an input is missing")
    axis = node.attributes.get("axis", 0)
    if data.axis is None:
        # A table that every row looks things up in.
        if indices.axis is None or data.dims is None or indices.dims is None:
            raise Mixes("the shape of an input is not known")
        axis = wrap(axis, data.rank)
        dims = (*data.shape[:axis], *indices.shape, *data.shape[axis + 1 :])
        return Value(axis + indices.axis, dims)
    fixed(indices)
    axis = elsewhere(axis, data)
    if indices.dims is None:
        raise Mixes("the shape of an input is not known")
    moved = len(indices.shape) - 1 if axis < data.along else 0
    return Value(data.along + moved, (*data.shape[:axis], *indices.shape, *data.shape[axis + 1 :]))


@rule("GatherElements")
def _gather_elements(node: Node, given: Given, version: int) -> Value:
    data, indices = rows_in(given[0]), rows_in(given[1])
    if data.axis != indices.axis or data.rank != indices.rank:
        raise Mixes("the rows lie along different axes of its inputs")
    elsewhere(node.attributes.get("axis", 0), data)
    return Value(data.axis, indices.shape)


@rule("OneHot")
def _one_hot(node: Node, given: Given, version: int) -> Value:
    fixed(*given[1:])
    value = rows_in(given[0])
    axis = wrap(node.attributes.get("axis", -1), value.rank + 1)
    return Value(value.along + (axis <= value.along), (*value.shape[:axis], None, *value.shape[axis:]))
