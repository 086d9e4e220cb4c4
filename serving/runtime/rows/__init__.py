"""Whether a graph keeps its rows apart: what is answered for a row hangs on that row and nothing else.

Random rows cannot tell. A graph that takes the mean of its batch only when a value is above a thousand, or
of one-hot columns whose categories no random word hits, answers the same alone and together until the day it
does not. So the rows are followed through the graph, operator by operator: of each tensor it is known which
axis has the rows, if any. What is not known to keep them apart may mix them, and its model is never batched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from serving.runtime.graph import Graph, Node
from serving.runtime.rows import axes, elements, shapes, weights
from serving.runtime.rows.constants import of_constants
from serving.runtime.rows.values import RULES, SUMS, Mixes, Value

__all__ = ["Finding", "follow_rows"]
_RULES = (elements, axes, shapes, weights)
"""Their import fills RULES."""


@dataclass(frozen=True, slots=True)
class Finding:
    apart: bool
    reason: str
    sums: bool
    """Some operator adds up floats, in an order that may hang on how many rows there are."""


def follow_rows(
    graph: Graph, inputs: Sequence[tuple[str, tuple[int, ...] | None]], outputs: Sequence[str]
) -> Finding:
    """`inputs`: names and shapes, -1 for any length; the rows are their first axes."""
    sums = any(node.operator in SUMS for node in graph.nodes)
    if graph.functions:
        return Finding(False, "the graph has operators of its own, or sparse weights", sums)
    values: dict[str, Value | str] = {
        name: Value(None, constant.dims, constant.numbers, constant.flag)
        for name, constant in graph.constants.items()
    }
    for name, shape in inputs:
        if not shape or shape[0] != -1:
            return Finding(False, f"input {name!r} has no axis of rows", sums)
        values[name] = Value(0, (None, *(None if axis == -1 else axis for axis in shape[1:])))
    for node in graph.nodes:
        for name, value in zip(node.outputs, _results(node, values, graph), strict=False):
            values[name] = value
    for name in outputs:
        value = values.get(name, "nothing makes it")
        if isinstance(value, str):
            return Finding(False, f"output {name!r}: {value}", sums)
        if value.axis != 0:
            return Finding(False, f"output {name!r} does not have a row for each row of input", sums)
    return Finding(True, "", sums)


def _results(node: Node, values: dict[str, Value | str], graph: Graph) -> Sequence[Value | str]:
    """Of each output: what is known, or why nothing is."""
    given: list[Value | None] = []
    for name in node.inputs:
        value = values.get(name) if name else None
        if isinstance(value, str):
            return [value] * len(node.outputs)
        if name and value is None:
            return [f"{name!r} is not known"] * len(node.outputs)
        given.append(value)
    try:
        if all(value is None or (value.axis is None and not value.from_rows) for value in given):
            return of_constants(node, given)
        if shapes.edits_shape(node, given):
            return [shapes.edit_shape(node, given)] * len(node.outputs)
        rule = RULES.get((node.domain, node.operator), _not_known)
        found = rule(node, given, graph.operator_sets.get(node.domain, 0))
    except Mixes as mixes:
        return [f"{node.title}: {mixes}"] * len(node.outputs)
    except Exception as error:
        # An optional input that is not there, an attribute of another kind: nothing is claimed, and the model
        # is served all the same.
        return [f"{node.title}: not understood ({error!r})"] * len(node.outputs)
    return found if isinstance(found, list) else [found] * len(node.outputs)


def _not_known(node: Node, given: Sequence[Value | None], version: int) -> Value:
    raise Mixes("it is not known to keep rows apart")
