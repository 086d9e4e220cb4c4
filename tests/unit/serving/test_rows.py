"""Which graphs keep their rows apart. Each that does not is one that random rows would not have found out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from serving.runtime.model import Model
from serving.runtime.warmup import compare_shape, warm_up

FLOAT, INT64, STRING = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING
_node = helper.make_node
Tensors = dict[str, tuple[int, list[Any]]]


def _graph(
    nodes: list[Any], inputs: Tensors, outputs: Tensors, weights: Mapping[str, Any] | None = None
) -> onnx.ModelProto:
    def described(tensors: Tensors) -> list[Any]:
        return [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in tensors.items()]

    constants = [numpy_helper.from_array(np.asarray(value), name) for name, value in (weights or {}).items()]
    model = helper.make_model(
        helper.make_graph(nodes, "rows", described(inputs), described(outputs), constants),
        opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)],
        ir_version=9,
    )
    onnx.checker.check_model(model)
    return model


def _warm(model: onnx.ModelProto, batching: Any = "exact") -> Model:
    content = model.SerializeToString()
    loaded = Model("rows", "1", content)
    warm_up(loaded, content, max_rows=256, batching=batching)
    return loaded


X: Tensors = {"x": (FLOAT, ["n", 3])}
Y: Tensors = {"y": (FLOAT, ["n", 3])}
FIRST, LAST = np.array([0], np.int64), np.array([-1], np.int64)
ONE_HOT = [
    _node("OneHotEncoder", ["s"], ["hot"], domain="ai.onnx.ml", cats_strings=["UA", "DL", "AA"], zeros=1),
    _node("Reshape", ["hot", "shape"], ["h"]),
]

MIXING: dict[str, tuple[onnx.ModelProto, str, dict[str, Any]]] = {
    "only what is large is compared with the others": (
        _graph(
            [
                _node("ReduceMax", ["x", "first"], ["most"], keepdims=1),
                _node("Greater", ["most", "limit"], ["large"]),
                _node("Where", ["large", "most", "x"], ["y"]),
            ],
            {"x": (INT64, ["n", 1])},
            {"y": (INT64, ["n", 1])},
            {"first": FIRST, "limit": np.array([[1000]])},
        ),
        "ReduceMax",
        {"x": np.array([[1], [5000], [3]])},
    ),
    "the mean of categories that no random word hits": (
        _graph(
            [
                *ONE_HOT,
                _node("ReduceMean", ["h", "first"], ["mean"], keepdims=1),
                _node("Sub", ["h", "mean"], ["y"]),
            ],
            {"s": (STRING, ["n", 1])},
            Y,
            {"shape": np.array([-1, 3]), "first": FIRST},
        ),
        "ReduceMean",
        {"s": np.array([["UA"], ["DL"], ["AA"]], object)},
    ),
    "rows that are left out": (
        _graph(
            [
                _node("ReduceMax", ["x", "last"], ["most"], keepdims=0),
                _node("Greater", ["most", "limit"], ["keep"]),
                _node("Compress", ["x", "keep"], ["y"], axis=0),
            ],
            X,
            {"y": (FLOAT, ["m", 3])},
            {"last": LAST, "limit": np.float32(-1e9)},
        ),
        "Compress",
        {"x": np.array([[1, 2, 3], [-1e10, -1e10, -1e10], [4, 5, 6]], np.float32)},
    ),
    "one scale for the whole batch": (
        _graph(
            [
                _node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"]),
                _node("Cast", ["q"], ["y"], to=FLOAT),
            ],
            X,
            Y,
        ),
        "DynamicQuantizeLinear",
        {"x": np.array([[1, 2, 3], [100, 200, 300]], np.float32)},
    ),
    "the first row is taken from all": (
        _graph(
            [_node("Gather", ["x", "place"], ["head"], axis=0), _node("Sub", ["x", "head"], ["y"])],
            X,
            Y,
            {"place": np.array(0)},
        ),
        "Gather",
        {"x": np.arange(9, dtype=np.float32).reshape(3, 3)},
    ),
    "rows are numbered": (
        _graph(
            [
                _node("Shape", ["x"], ["shape"]),
                _node("Gather", ["shape", "zero"], ["count"]),
                _node("Range", ["zero", "count", "one"], ["number"]),
                _node("Cast", ["number"], ["f"], to=FLOAT),
                _node("Unsqueeze", ["f", "last"], ["column"]),
                _node("Add", ["x", "column"], ["y"]),
            ],
            X,
            Y,
            {"zero": np.array(0), "one": np.array(1), "last": LAST},
        ),
        "Range",
        {"x": np.ones((3, 3), np.float32)},
    ),
    "parts of two rows become one": (
        _graph(
            [
                _node("Reshape", ["x", "turned"], ["z"]),
                _node("Softmax", ["z"], ["soft"], axis=-1),
                _node("Reshape", ["soft", "back"], ["y"]),
            ],
            {"x": (FLOAT, ["n", 3])},
            Y,
            {"turned": np.array([3, -1]), "back": np.array([-1, 3])},
        ),
        "Reshape",
        {"x": np.arange(9, dtype=np.float32).reshape(3, 3)},
    ),
    "a random number": (
        _graph(
            [_node("RandomUniform", [], ["noise"], shape=[1, 3]), _node("Add", ["x", "noise"], ["y"])], X, Y
        ),
        "RandomUniform",
        {},
    ),
}


@pytest.mark.parametrize(("model", "told", "rows"), MIXING.values(), ids=list(MIXING))
def test_what_mixes_rows_is_never_batched(
    model: onnx.ModelProto, told: str, rows: dict[str, np.ndarray]
) -> None:
    loaded = _warm(model)
    assert not loaded.behaviour.batchable
    assert told in loaded.behaviour.reason
    if rows:  # it does mix them
        together = loaded.run(rows)[0]
        count = len(next(iter(rows.values())))
        alone = [loaded.run({n: v[at : at + 1] for n, v in rows.items()})[0] for at in range(count)]
        assert len(together) != count or np.concatenate(alone).tolist() != together.tolist()


ATTENTION = _graph(
    [
        _node("MatMul", ["x", "wq"], ["q"]),
        _node("MatMul", ["x", "wk"], ["k"]),
        _node("Shape", ["x"], ["shape"]),
        _node("Gather", ["shape", "zero"], ["rows"]),
        _node("Gather", ["shape", "one"], ["steps"]),
        _node("Unsqueeze", ["rows", "first"], ["rows1"]),
        _node("Unsqueeze", ["steps", "first"], ["steps1"]),
        _node("Concat", ["rows1", "steps1", "heads"], ["split"], axis=0),
        _node("Reshape", ["q", "split"], ["q4"]),
        _node("Reshape", ["k", "split"], ["k4"]),
        _node("Transpose", ["q4"], ["qt"], perm=[0, 2, 1, 3]),
        _node("Transpose", ["k4"], ["kt"], perm=[0, 2, 3, 1]),
        _node("MatMul", ["qt", "kt"], ["scores"]),
        _node("Softmax", ["scores"], ["y"], axis=-1),
    ],
    {"x": (FLOAT, ["n", "t", 8])},
    {"y": (FLOAT, ["n", 2, "t", "t"])},
    {
        "wq": np.random.default_rng(1).normal(size=(8, 8)).astype(np.float32),
        "wk": np.random.default_rng(2).normal(size=(8, 8)).astype(np.float32),
        "zero": np.array(0),
        "one": np.array(1),
        "first": FIRST,
        "heads": np.array([2, 4]),
    },
)
APART: dict[str, onnx.ModelProto] = {
    "one-hot": _graph(
        [*ONE_HOT, _node("Neg", ["h"], ["y"])], {"s": (STRING, ["n", 1])}, Y, {"shape": [-1, 3]}
    ),
    "attention": ATTENTION,
    "an embedding": _graph(
        [_node("Gather", ["table", "x"], ["z"]), _node("ReduceMax", ["z", "last"], ["y"], keepdims=0)],
        {"x": (INT64, ["n", 2])},
        {"y": (FLOAT, ["n", 2])},
        {"table": np.random.default_rng(3).normal(size=(9, 4)).astype(np.float32), "last": LAST},
    ),
    "a transpose and back": _graph(
        [
            _node("Transpose", ["x"], ["t"], perm=[1, 0]),
            _node("Slice", ["t", "from", "to", "first"], ["s"]),
            _node("Transpose", ["s"], ["y"], perm=[1, 0]),
        ],
        X,
        {"y": (FLOAT, ["n", 2])},
        {"from": np.array([0]), "to": np.array([2]), "first": FIRST},
    ),
}


@pytest.mark.parametrize("model", APART.values(), ids=list(APART))
def test_what_keeps_rows_apart_is_batched(model: onnx.ModelProto) -> None:
    loaded = _warm(model)
    assert loaded.behaviour.batchable, loaded.behaviour.reason
    tail = tuple(5 if axis == -1 else axis for axis in (loaded.inputs[0].shape or ())[1:])
    if loaded.behaviour.limits is not None:
        compare_shape(loaded, (tail,))
    assert loaded.behaviour.most((tail,)) >= 16


def test_sums_that_depend_on_where_a_row_lies_are_not_batched() -> None:
    """Seven columns: every other row begins in the middle of what is added up at once."""
    mean = _node("ReduceMean", ["x", "last"], ["y"], keepdims=0)
    loaded = _warm(_graph([mean], {"x": (FLOAT, ["n", 7])}, {"y": (FLOAT, ["n"])}, {"last": LAST}))
    rows = np.random.default_rng(1).normal(size=(40, 7)).astype(np.float32)
    alone = np.concatenate([loaded.run({"x": rows[at : at + 1].copy()})[0] for at in range(40)])
    same = loaded.run({"x": rows})[0].tobytes() == alone.tobytes()
    assert same or not loaded.behaviour.batchable


def test_rows_of_any_length_share_a_run_only_once_that_length_was_compared() -> None:
    total = _node("ReduceSum", ["x", "last"], ["y"], keepdims=0)
    behaviour = (
        loaded := _warm(_graph([total], {"x": (FLOAT, ["n", "k"])}, {"y": (FLOAT, ["n"])}, {"last": LAST}))
    ).behaviour
    assert behaviour.batchable
    for width in (1, 4, 30):
        assert behaviour.most(((width,),)) == 0
        compare_shape(loaded, ((width,),))
        most = behaviour.most(((width,),))
        rows = np.random.default_rng(1).normal(size=(16, width)).astype(np.float32)
        alone = np.concatenate([loaded.run({"x": rows[at : at + 1].copy()})[0] for at in range(16)])
        same = loaded.run({"x": rows})[0].tobytes() == alone.tobytes()
        assert same or most < 16
    assert behaviour.most(((1,),)) >= 16


def test_labels_alone_do_not_show_in_which_order_floats_were_added_up() -> None:
    weights = np.random.default_rng(4).normal(size=(3, 3)).astype(np.float32)
    model = _graph(
        [_node("MatMul", ["x", "w"], ["scores"]), _node("ArgMax", ["scores"], ["y"], axis=1, keepdims=0)],
        X,
        {"y": (INT64, ["n"])},
        {"w": weights},
    )
    behaviour = _warm(model).behaviour
    assert not behaviour.batchable
    assert "order" in behaviour.reason


def test_answers_that_are_all_alike_show_nothing() -> None:
    model = _graph(
        [_node("Mul", ["x", "zero"], ["z"]), _node("Abs", ["z"], ["y"])], X, Y, {"zero": np.float32(0)}
    )
    behaviour = _warm(model).behaviour
    assert not behaviour.batchable
    assert "same answer" in behaviour.reason


def test_who_allows_a_tolerance_vouches_for_the_graph() -> None:
    split = _graph([_node("Split", ["x"], ["a", "y"], axis=1, num_outputs=2)], X, {"y": (FLOAT, ["n", 1])})
    assert _warm(split).behaviour.batchable
    trilu = _graph(
        [_node("Unsqueeze", ["x", "first"], ["z"]), _node("Trilu", ["z"], ["t"]), _node("Neg", ["x"], ["y"])],
        X,
        Y,
        {"first": LAST},
    )
    trilu.graph.output.append(helper.make_tensor_value_info("t", FLOAT, ["n", 3, 1]))
    assert not _warm(trilu).behaviour.batchable
    assert _warm(trilu, "tolerant").behaviour.batchable


def test_a_file_that_cannot_be_followed_is_not_batched() -> None:
    content = _graph([_node("Neg", ["x"], ["y"])], X, Y).SerializeToString()
    loaded = Model("rows", "1", content)
    warm_up(loaded, content[:-7], max_rows=256, batching="exact")
    assert not loaded.behaviour.batchable
    assert "followed" in loaded.behaviour.reason
