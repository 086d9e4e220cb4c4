"""Operators that work on every element by itself."""

from __future__ import annotations

from serving.runtime.graph import Node
from serving.runtime.rows.values import ML, Given, Mixes, Value, fixed, rows_in, rule, wrap


@rule(
    *[
        "Abs",
        "Acos",
        "Acosh",
        "Asin",
        "Asinh",
        "Atan",
        "Atanh",
        "BitwiseNot",
        "Cast",
        "Ceil",
        "Celu",
        "Cos",
        "Cosh",
        "Elu",
        "Erf",
        "Exp",
        "Floor",
        "Gelu",
        "HardSigmoid",
        "HardSwish",
        "Identity",
        "IsInf",
        "IsNaN",
        "LeakyRelu",
        "Log",
        "Mish",
        "Neg",
        "Not",
        "Reciprocal",
        "Relu",
        "Round",
        "Selu",
        "Shrink",
        "Sigmoid",
        "Sign",
        "Sin",
        "Sinh",
        "Softplus",
        "Softsign",
        "Sqrt",
        "Swish",
        "Tan",
        "Tanh",
        "ThresholdedRelu",
    ]
)
@rule("Binarizer", "Imputer", "LabelEncoder", "CategoryMapper", domain=ML)
def _one_by_one(node: Node, given: Given, version: int) -> Value:
    value = rows_in(given[0])
    return Value(value.axis, value.shape)


@rule("Clip", "CastLike")
def _one_by_one_with_limits(node: Node, given: Given, version: int) -> Value:
    if node.operator == "Clip":
        fixed(*given[1:])
    value = rows_in(given[0])
    return Value(value.axis, value.shape)


@rule("Dropout")
def _dropout(node: Node, given: Given, version: int) -> Value:
    if len(given) > 2 and given[2] is not None and given[2].flag is not False:
        raise Mixes("it may be in training, where it is drawn at random")
    value = rows_in(given[0])
    return Value(value.axis, value.shape)


@rule("QuantizeLinear", "DequantizeLinear")
def _quantize(node: Node, given: Given, version: int) -> Value:
    fixed(*given[1:])
    value, scale = rows_in(given[0]), given[1]
    if scale is None or scale.dims is None:
        raise Mixes("the shape of its scale is not known")
    one = all(axis == 1 for axis in scale.shape)
    if not one and (wrap(node.attributes.get("axis", 1), value.rank) == value.axis or len(scale.shape) > 1):
        raise Mixes("its scales lie along the rows")
    return Value(value.axis, value.shape)


@rule(
    *[
        "Add",
        "And",
        "BitShift",
        "BitwiseAnd",
        "BitwiseOr",
        "BitwiseXor",
        "Div",
        "Equal",
        "Greater",
        "GreaterOrEqual",
        "Less",
        "LessOrEqual",
        "Max",
        "Mean",
        "Min",
        "Mod",
        "Mul",
        "Or",
        "Pow",
        "PRelu",
        "StringConcat",
        "Sub",
        "Sum",
        "Where",
        "Xor",
    ]
)
def _broadcast(node: Node, given: Given, version: int) -> Value:
    values = [value for value in given if value is not None]
    if any(value.from_rows for value in values):
        raise Mixes("it computes with the number of rows")
    if version and version < 7 and len(values) > 1:
        raise Mixes("its rules of broadcasting are those of an old operator set")
    rank = max(value.rank for value in values)
    # Counted from the last axis, where broadcasting begins.
    places = {value.rank - value.axis for value in values if value.axis is not None}
    if len(places) != 1:
        raise Mixes("the rows lie along different axes of its inputs")
    place = places.pop()
    dims: list[int | None] = [1] * rank
    for value in values:
        if value.axis is None and value.rank >= place and value.shape[value.rank - place] != 1:
            raise Mixes("a constant lies along the rows")
        for at, length in enumerate(value.shape, start=rank - value.rank):
            if dims[at] == 1:
                dims[at] = length
    axis = rank - place
    dims[axis] = None
    return Value(axis, tuple(dims))
