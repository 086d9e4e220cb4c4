"""What no rows go into."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

from serving.runtime.graph import Constant, Node
from serving.runtime.rows.shapes import EDITS, edit_shape
from serving.runtime.rows.values import Given, Mixes, Value

_RANDOM = frozenset(
    ["RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli"]
)
_CONTROL = frozenset(["If", "Loop", "Scan", "SequenceMap"])


def of_constants(node: Node, given: Given) -> Sequence[Value | str]:
    """No rows go in: what comes out is the same for all of them, unless it is drawn at random."""
    if node.operator in _RANDOM:
        return [f"{node.title}: it is drawn at random"] * len(node.outputs)
    if node.operator in _CONTROL:
        return [f"{node.title}: its branches may look at the rows"] * len(node.outputs)
    if node.operator == "Constant":
        return [_constant(node.attributes)]
    dims = given[0].dims if given and given[0] is not None else None
    if node.operator in EDITS:
        with contextlib.suppress(Mixes, IndexError, TypeError, KeyError):
            return [edit_shape(node, given)]
    if node.operator in ("Identity", "Cast"):
        return [Value(None, dims)]
    if node.operator == "Reshape" and given[1] is not None and given[1].numbers is not None:
        wanted = given[1].numbers
        return [Value(None, tuple(n if isinstance(n, int) and n > 0 else None for n in wanted))]
    if node.operator == "Transpose" and dims is not None:
        order = node.attributes.get("perm") or range(len(dims))[::-1]
        return [Value(None, tuple(dims[axis] for axis in order))]
    if node.operator in ("Add", "Sub", "Mul", "Div", "Floor", "Mod") and all(
        value is not None and value.numbers is not None for value in given
    ):
        # Lengths of a shape, computed with: which they are is of no matter.
        widest = max(given, key=lambda value: len(value.numbers or ()) if value is not None else 0)
        if widest is not None and widest.numbers is not None:
            return [Value(None, widest.dims, (None,) * len(widest.numbers))]
    return [Value(None)] * len(node.outputs)


def _constant(attributes: dict[str, Any]) -> Value:
    for name, content in attributes.items():
        if isinstance(content, Constant):
            return Value(None, content.dims, content.numbers, content.flag)
        if name == "value_int":
            return Value(None, (), (content,))
        if name == "value_ints" and content:
            return Value(None, (len(content),), tuple(content))
        if name in ("value_float", "value_string"):
            return Value(None, ())
    return Value(None)
