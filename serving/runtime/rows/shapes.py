"""Operators that move axes, and what is computed with shapes on the way to them."""

from __future__ import annotations

from serving.runtime.graph import Node
from serving.runtime.rows.values import (
    ROWS,
    Given,
    Mixes,
    Number,
    Value,
    axes_of,
    elsewhere,
    fixed,
    numbers_of,
    rows_in,
    rule,
    size_of,
    whole_numbers,
    without,
    wrap,
)


@rule("Shape")
def _shape(node: Node, given: Given, version: int) -> Value:
    value = rows_in(given[0])
    numbers: list[Number] = [ROWS if at == value.axis else length for at, length in enumerate(value.shape)]
    chosen = numbers[slice(node.attributes.get("start", 0), node.attributes.get("end"))]
    return Value(None, (len(chosen),), tuple(chosen))


EDITS = ("Gather", "Concat", "Unsqueeze", "Squeeze", "Cast", "Identity", "Slice")


def edits_shape(node: Node, given: Given) -> bool:
    """Whether what it works on holds how many rows there are."""
    edited = given if node.operator == "Concat" else given[:1]
    known = node.domain == "" and node.operator in EDITS
    return known and any(value is not None and value.from_rows for value in edited)


def edit_shape(node: Node, given: Given) -> Value:
    """What is done with shapes on the way to a Reshape: picked from, put together."""
    if node.operator == "Concat":
        parts = [numbers_of(value) for value in given]
        joined = tuple(number for part in parts for number in part)
        return Value(None, (len(joined),), joined)
    numbers = numbers_of(given[0])
    scalar = given[0] is not None and given[0].shape == ()
    if node.operator == "Gather":
        places = whole_numbers(given[1])
        chosen = tuple(numbers[place] for place in places)
        return Value(None, given[1].shape if given[1] is not None else None, chosen)
    if node.operator == "Slice":
        starts, ends = (
            (whole_numbers(given[1]), whole_numbers(given[2]))
            if len(given) > 2
            else (node.attributes["starts"], node.attributes["ends"])
        )
        usual = all(whole_numbers(value) == [want] for value, want in zip(given[3:], (0, 1), strict=False))
        if len(starts) != 1 or not usual:
            raise Mixes("it cuts a shape in steps")
        chosen = numbers[starts[0] : ends[0]]
        return Value(None, (len(chosen),), chosen)
    if node.operator == "Unsqueeze":
        return Value(None, (len(numbers),), numbers)
    if node.operator == "Squeeze":
        if len(numbers) != 1:
            raise Mixes("it is not one number")
        return Value(None, (), numbers)
    dims: tuple[int | None, ...] = () if scalar else (len(numbers),)
    return Value(None, dims, numbers)


@rule("Reshape")
def _reshape(node: Node, given: Given, version: int) -> Value:
    value, wanted = rows_in(given[0]), list(numbers_of(given[1]))
    if any(length != 1 for length in value.shape[: value.along]):
        raise Mixes("the rows are not along the first axis")
    value = Value(0, value.shape[value.along :])
    before = 0
    while len(wanted) > 1 and wanted[0] == 1:
        del wanted[0]
        before += 1
    if not wanted or ROWS in wanted[1:]:
        raise Mixes("it moves the rows")
    rest = wanted[1:]
    if 0 in wanted and (rows_in(given[0]).axis or before or node.attributes.get("allowzero")):
        raise Mixes("it takes lengths from other axes")
    rest = [value.shape[at] if length == 0 else length for at, length in enumerate(rest, start=1)]
    known = [length if isinstance(length, int) and length >= 0 else None for length in rest]
    same = size_of(rest) is not None and size_of(rest) == size_of(value.shape[1:])
    if wanted[0] in (ROWS, 0) or (wanted[0] == -1 and same):
        return Value(before, ((1,) * before) + (None, *known))
    raise Mixes("it may put parts of several rows together")


@rule("Flatten")
def _flatten(node: Node, given: Given, version: int) -> Value:
    value = rows_in(given[0])
    if value.axis != 0 or wrap(node.attributes.get("axis", 1), value.rank) != 1:
        raise Mixes("it puts parts of several rows together")
    return Value(0, (None, size_of(value.shape[1:])))


@rule("Transpose")
def _transpose(node: Node, given: Given, version: int) -> Value:
    value = rows_in(given[0])
    order = node.attributes.get("perm") or list(range(value.rank))[::-1]
    return Value(order.index(value.along), tuple(value.shape[axis] for axis in order))


@rule("Unsqueeze")
def _unsqueeze(node: Node, given: Given, version: int) -> Value:
    value = rows_in(given[0])
    axes = axes_of(node, given, 1)
    if axes is None:
        raise Mixes("its axes are not known")
    rank = value.rank + len(axes)
    new = {wrap(axis, rank) for axis in axes}
    old = iter(enumerate(value.shape))
    dims: list[int | None] = []
    axis = 0
    for at in range(rank):
        if at in new:
            dims.append(1)
            continue
        place, length = next(old)
        axis = at if place == value.axis else axis
        dims.append(length)
    return Value(axis, tuple(dims))


@rule("Squeeze")
def _squeeze(node: Node, given: Given, version: int) -> Value:
    value = rows_in(given[0])
    axes = axes_of(node, given, 1)
    if axes is None:
        raise Mixes("with one row it takes the axis of rows away")
    return without(value, [elsewhere(axis, value) for axis in axes])


@rule("Expand", "ConstantOfShape")
def _expand(node: Node, given: Given, version: int) -> Value:
    wanted = numbers_of(given[-1])
    places = [at for at, number in enumerate(wanted) if number == ROWS]
    dims = tuple(number if isinstance(number, int) else None for number in wanted)
    if node.operator == "ConstantOfShape":
        if len(places) != 1:
            raise Mixes("the rows are not one of its axes")
        return Value(places[0], dims)
    value = given[0]
    if value is None or value.axis is None or not places or len(wanted) != value.rank:
        raise Mixes("the rows are not one of its axes")
    if places != [value.axis]:
        raise Mixes("the rows are more than one of its axes")
    return Value(value.axis, tuple(None if one == 1 else one for one in dims))


@rule("Pad")
def _pad(node: Node, given: Given, version: int) -> Value:
    value = rows_in(given[0])
    if len(given) > 3 and given[3] is not None:
        raise Mixes("its axes are chosen")
    pads = node.attributes.get("pads") or whole_numbers(given[1])
    fixed(*given[1:])
    if len(pads) != 2 * value.rank or pads[value.along] or pads[value.along + value.rank]:
        raise Mixes("it adds rows")
    return Value(value.axis, (None,) * value.rank)


@rule("Tile")
def _tile(node: Node, given: Given, version: int) -> Value:
    value = rows_in(given[0])
    if whole_numbers(given[1])[value.along] != 1:
        raise Mixes("it repeats the rows")
    return Value(value.axis, (None,) * value.rank)
