"""Operators with weights, and the estimators of ai.onnx.ml."""

from __future__ import annotations

from serving.runtime.graph import Node
from serving.runtime.rows.values import (
    ML,
    Given,
    Mixes,
    Value,
    elsewhere,
    fixed,
    replaced,
    rows_in,
    rule,
    without,
)


@rule("MatMul", "MatMulInteger")
def _matmul(node: Node, given: Given, version: int) -> Value:
    fixed(*given[2:])
    left, right = given[0], given[1]
    if left is None or right is None:
        raise Mixes("an input is missing")
    if right.rank == 1 and right.axis is None and left.rank > 1:
        return without(left, [elsewhere(-1, left)])
    if left.rank < 2 or right.rank < 2:
        raise Mixes("it takes a vector")
    rank = max(left.rank, right.rank)
    places = set()
    for value, summed in ((left, 1), (right, 2)):
        if value.axis is not None:
            place = value.rank - value.axis
            if place <= 2 and (place == summed or value is right):
                raise Mixes("it adds up along the rows, or pairs them")
            places.add(place)
    if len(places) != 1:
        raise Mixes("the rows lie along different axes of its inputs")
    place = places.pop()
    for value in (left, right):
        # Of the axes before the last two, a constant must have one for all rows.
        if value.axis is None and place > 2 and value.rank >= place and value.shape[-place] != 1:
            raise Mixes("a constant lies along the rows")
        if value.axis is None and place == 2 and value.rank > 2:
            raise Mixes("it takes several matrices")
    dims: list[int | None] = [None] * rank
    dims[-2], dims[-1] = left.shape[-2], right.shape[-1]
    dims[rank - place] = None
    return Value(rank - place, tuple(dims))


@rule("Gemm")
def _gemm(node: Node, given: Given, version: int) -> Value:
    value = rows_in(given[0])
    fixed(given[1])
    if value.axis != 0 or node.attributes.get("transA", 0):
        raise Mixes("it adds up along the rows")
    weights, added = given[1], given[2] if len(given) > 2 else None
    if added is not None:
        if added.axis is None and (added.dims is None or (len(added.shape) > 1 and added.shape[0] != 1)):
            raise Mixes("a constant lies along the rows")
        if added.axis is not None and (added.axis != 0 or added.rank != 2):
            raise Mixes("the rows lie along different axes of its inputs")
    width = None
    if weights is not None and weights.dims is not None:
        width = weights.shape[0 if node.attributes.get("transB", 0) else 1]
    return Value(0, (None, width))


@rule(
    *[
        "Conv",
        "ConvInteger",
        "ConvTranspose",
        "MaxPool",
        "AveragePool",
        "LpPool",
        "GlobalAveragePool",
        "GlobalMaxPool",
        "GlobalLpPool",
        "LRN",
        "InstanceNormalization",
        "GroupNormalization",
        "BatchNormalization",
        "QLinearConv",
        "DepthToSpace",
        "SpaceToDepth",
    ]
)
def _of_images(node: Node, given: Given, version: int) -> list[Value]:
    fixed(*given[1:])
    value = rows_in(given[0])
    if value.axis != 0 or value.rank < (2 if node.operator == "BatchNormalization" else 3):
        raise Mixes("the rows are not its batch")
    if len(node.outputs) > 1 or node.attributes.get("training_mode"):
        raise Mixes("it is in training, or counts places in the whole batch")
    same = node.operator.endswith("Normalization") or node.operator == "LRN"
    if same:
        return [Value(0, value.shape)]
    if node.operator.startswith("Global"):
        return [Value(0, (None, value.shape[1], *(1,) * (value.rank - 2)))]
    return [Value(0, (None,) * value.rank)]


@rule(
    "LinearClassifier",
    "LinearRegressor",
    "SVMClassifier",
    "SVMRegressor",
    "TreeEnsembleClassifier",
    "TreeEnsembleRegressor",
    "TreeEnsemble",
    domain=ML,
)
def _estimator(node: Node, given: Given, version: int) -> list[Value]:
    value = rows_in(given[0])
    if value.axis != 0 or value.rank != 2:
        raise Mixes("the rows are not its first of two axes")
    scores = Value(0, (None, node.attributes.get("n_targets") or node.attributes.get("targets")))
    return [Value(0, (None,)), scores] if node.operator.endswith("Classifier") else [scores]


@rule("Scaler", "Normalizer", domain=ML)
def _of_columns(node: Node, given: Given, version: int) -> Value:
    value = rows_in(given[0])
    if value.axis != 0 or value.rank != 2:
        raise Mixes("the rows are not its first of two axes")
    return Value(0, value.shape)


@rule("FeatureVectorizer", domain=ML)
def _put_together(node: Node, given: Given, version: int) -> Value:
    if any(value is None or value.axis != 0 or value.rank != 2 for value in given):
        raise Mixes("the rows are not the first of two axes")
    return Value(0, (None, None))


@rule("OneHotEncoder", domain=ML)
def _encode(node: Node, given: Given, version: int) -> Value:
    value = rows_in(given[0])
    width = node.attributes.get("cats_strings") or node.attributes.get("cats_int64s")
    return Value(value.axis, (*value.shape, width))


@rule("ArrayFeatureExtractor", domain=ML)
def _extract(node: Node, given: Given, version: int) -> Value:
    table, places = given[0], given[1]
    if table is not None and table.axis is None and table.rank == 1 and places is not None:
        # Labels by number: all places in one row, which a Reshape makes rows of.
        one_each = all(length == 1 for at, length in enumerate(places.shape) if at != places.axis)
        if places.axis is None or not one_each:
            raise Mixes("rows have several places each")
        return Value(1, (1, None))
    value = rows_in(table)
    fixed(places)
    elsewhere(-1, value)
    chosen = places.shape if places is not None else None
    width = chosen[-1] if chosen else None
    return Value(value.axis, replaced(value, value.rank - 1, width))


@rule("ZipMap", domain=ML)
def _zip(node: Node, given: Given, version: int) -> Value:
    value = rows_in(given[0])
    if value.axis != 0 or value.rank != 2:
        raise Mixes("the rows are not its first of two axes")
    return Value(0, (None,))


@rule("TfIdfVectorizer")
def _count_words(node: Node, given: Given, version: int) -> Value:
    value = rows_in(given[0])
    if value.axis != 0 or value.rank != 2:
        raise Mixes("the rows are not its first of two axes")
    return Value(0, (None, None))
