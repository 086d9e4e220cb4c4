"""What each operator does with the axis that has the rows. Those that are not here may mix them.

A rule gets the node, what is known of its inputs and the version of its operator set; it answers with what
is known of its outputs (one for all of them, or a list), or raises Mixes. `axis` None: the same whatever the
rows are; so are dims that are None and not the rows' own, since requests share a run only when they are of
one shape.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from serving.runtime.graph import Node

ROWS: Final = "rows"
Number = int | Literal["rows"] | None
"""An element of a shape: a number, how many rows there are, or something that does not hang on them."""


class Mixes(Exception):
    """Rows may hang on one another, or on how many there are."""


@dataclass(frozen=True, slots=True)
class Value:
    axis: int | None
    """Which axis has the rows; None: it is the same whatever they are."""
    dims: tuple[int | None, ...] | None = None
    """None, or an axis that is None: not known."""
    numbers: tuple[Number, ...] | None = None
    """The values of small whole constants, and of shapes."""
    flag: bool | None = None

    @property
    def from_rows(self) -> bool:
        """It holds how many rows there are."""
        return self.numbers is not None and ROWS in self.numbers

    @property
    def shape(self) -> tuple[int | None, ...]:
        if self.dims is None:
            raise Mixes("the rank of an input is not known")
        return self.dims

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def along(self) -> int:
        """The axis that has the rows."""
        if self.axis is None:
            raise Mixes("rows are not in its first input")
        return self.axis


Given = Sequence[Value | None]
Rule = Callable[[Node, Given, int], "Value | list[Value]"]
RULES: dict[tuple[str, str], Rule] = {}
ML = "ai.onnx.ml"


def rule(*operators: str, domain: str = "") -> Callable[[Rule], Rule]:
    def keep(rule: Rule) -> Rule:
        RULES.update(dict.fromkeys([(domain, operator) for operator in operators], rule))
        return rule

    return keep


SUMS = frozenset(
    [
        "MatMul",
        "Gemm",
        "Conv",
        "ConvTranspose",
        "Softmax",
        "LogSoftmax",
        "CumSum",
        "LpNormalization",
        "LayerNormalization",
        "RMSNormalization",
        "InstanceNormalization",
        "GroupNormalization",
        "AveragePool",
        "GlobalAveragePool",
        "LRN",
        "LpPool",
        "GlobalLpPool",
        "ReduceSum",
        "ReduceMean",
        "ReduceProd",
        "ReduceL1",
        "ReduceL2",
        "ReduceLogSum",
        "ReduceLogSumExp",
        "ReduceSumSquare",
        "LinearClassifier",
        "LinearRegressor",
        "SVMClassifier",
        "SVMRegressor",
        "Normalizer",
        "TfIdfVectorizer",
        "Sum",
        "Mean",
        "Einsum",
    ]
)
"""Floats are added up: labels alone do not show in which order. Not trees: one thread adds in order."""


def wrap(axis: int, rank: int) -> int:
    return axis + rank if axis < 0 else axis


def rows_in(value: Value | None) -> Value:
    if value is None or value.axis is None:
        raise Mixes("rows are not in its first input")
    return value


def fixed(*values: Value | None) -> None:
    """Weights: none of them has rows."""
    if any(value is not None and (value.axis is not None or value.from_rows) for value in values):
        raise Mixes("an input that is usually constant depends on the rows")


def numbers_of(value: Value | None) -> tuple[Number, ...]:
    if value is None or value.numbers is None:
        raise Mixes("an input that says which axes, or which shape, is not a small constant")
    return value.numbers


def whole_numbers(value: Value | None) -> list[int]:
    found = []
    for number in numbers_of(value):
        if not isinstance(number, int):
            raise Mixes("an axis hangs on the shape of the request")
        found.append(number)
    return found


def axes_of(node: Node, given: Given, place: int) -> list[int] | None:
    """From the attribute, or, in later operator sets, from an input."""
    found = node.attributes.get("axes")
    if found is not None:
        return list(found) if isinstance(found, list) else [found]
    if len(given) > place and given[place] is not None:
        return whole_numbers(given[place])
    return None


def elsewhere(axis: int, value: Value) -> int:
    """The axis, which must not be that of the rows."""
    found = wrap(axis, value.rank)
    if found == value.axis:
        raise Mixes("it works along the rows")
    return found


def after(value: Value, axis: int) -> None:
    """From this axis on, and the rows lie before."""
    if value.axis is None or wrap(axis, value.rank) <= value.axis:
        raise Mixes("it works along the rows")


def without(value: Value, axes: list[int]) -> Value:
    shape = tuple(length for at, length in enumerate(value.shape) if at not in axes)
    return Value(value.along - sum(axis < value.along for axis in axes), shape)


def replaced(value: Value, axis: int, length: int | None) -> tuple[int | None, ...]:
    return (*value.shape[:axis], length, *value.shape[axis + 1 :])


def size_of(dims: Sequence[Number]) -> int | None:
    size = 1
    for length in dims:
        if not isinstance(length, int) or length < 0:
            return None
        size *= length
    return size
