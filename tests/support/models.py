"""A zoo of small ONNX models: what people serve, and what breaks servers.

Each is built from a seed, in the test's process, with the tools that users have (scikit-learn and skl2onnx,
or onnx.helper for what those cannot make), and comes with a maker of inputs. What it must answer is what
onnxruntime answers when it is called directly: `ZooModel.reference`.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

Inputs = dict[str, np.ndarray]

DTYPES: dict[str, tuple[int, type]] = {
    "BOOL": (TensorProto.BOOL, np.bool_),
    "UINT8": (TensorProto.UINT8, np.uint8),
    "UINT16": (TensorProto.UINT16, np.uint16),
    "UINT32": (TensorProto.UINT32, np.uint32),
    "UINT64": (TensorProto.UINT64, np.uint64),
    "INT8": (TensorProto.INT8, np.int8),
    "INT16": (TensorProto.INT16, np.int16),
    "INT32": (TensorProto.INT32, np.int32),
    "INT64": (TensorProto.INT64, np.int64),
    "FP16": (TensorProto.FLOAT16, np.float16),
    "FP32": (TensorProto.FLOAT, np.float32),
    "FP64": (TensorProto.DOUBLE, np.float64),
    "BYTES": (TensorProto.STRING, np.object_),
}
"""The protocol's names, ONNX's numbers and NumPy's types."""


@dataclass(frozen=True)
class ZooModel:
    name: str
    build: Callable[[], onnx.ModelProto]
    sample: Callable[[np.random.Generator, int], Inputs]
    """Random inputs of so many rows."""
    rows_vary: bool = True
    """False: the graph fixes the number of rows."""

    @property
    def content(self) -> bytes:
        return _content(self.name)

    def reference(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """onnxruntime's own answer."""
        session = _session(self.name)
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, dict(inputs)), strict=True))


@functools.cache
def _content(name: str) -> bytes:
    """Built once for each version of this file and its tools: importing scikit-learn alone takes seconds."""
    path = _cache() / f"{name}.onnx"
    try:
        return path.read_bytes()
    except FileNotFoundError:
        content = zoo()[name].build().SerializeToString()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}")
    partial.write_bytes(content)
    partial.rename(path)
    return content


@functools.cache
def _cache() -> Path:
    tools = [f"{tool}={version(tool)}" for tool in ("onnx", "scikit-learn", "skl2onnx", "numpy")]
    key = hashlib.sha256(Path(__file__).read_bytes() + " ".join(tools).encode()).hexdigest()[:16]
    return Path(__file__).parents[2] / ".pytest_cache" / "zoo" / key


@functools.cache
def _session(name: str) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(_content(name), options, providers=["CPUExecutionProvider"])


def write_repository(root: Path, names: Iterable[str] | None = None, *, release: str | None = None) -> Path:
    """A repository as the runtime reads one: a folder a model, with the version's folder in it if asked."""
    for name in zoo() if names is None else names:
        write_model(root / name / release if release else root / name, name)
    return root


def write_model(folder: Path, name: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(_content(name))
    return folder


# ---- what scikit-learn makes -------------------------------------------------------------------------------


def _convert(estimator: object, types: list[tuple[str, object]], **options: object) -> onnx.ModelProto:
    from skl2onnx import to_onnx

    model: onnx.ModelProto = to_onnx(
        estimator, initial_types=types, options={"zipmap": False} if options.get("classifier") else None
    )
    return model


def _floats(width: int) -> list[tuple[str, object]]:
    from skl2onnx.common.data_types import FloatTensorType

    return [("X", FloatTensorType([None, width]))]


def _normal(width: int, name: str = "X") -> Callable[[np.random.Generator, int], Inputs]:
    return lambda rng, rows: {name: rng.normal(size=(rows, width)).astype(np.float32)}


def _labelled(width: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(width)
    features = rng.normal(size=(400, width)).astype(np.float32)
    return features, (np.abs(features[:, :3]).sum(axis=1) * 7).astype(int) % classes


def _logistic() -> onnx.ModelProto:
    from sklearn.linear_model import LogisticRegression

    return _convert(LogisticRegression(max_iter=300).fit(*_labelled(4, 3)), _floats(4), classifier=True)


def _forest_with_names() -> onnx.ModelProto:
    from sklearn.ensemble import RandomForestClassifier

    features, labels = _labelled(6, 3)
    names = np.array(["früh", "on time", "late"])[labels]
    forest = RandomForestClassifier(n_estimators=20, max_depth=5, random_state=0).fit(features, names)
    return _convert(forest, _floats(6), classifier=True)


def _boosted_30() -> onnx.ModelProto:
    from sklearn.ensemble import GradientBoostingClassifier

    features, labels = _labelled(30, 2)
    model = GradientBoostingClassifier(n_estimators=100, max_depth=3, random_state=0).fit(features, labels)
    return _convert(model, _floats(30), classifier=True)


def _boosted_regressor() -> onnx.ModelProto:
    from sklearn.ensemble import HistGradientBoostingRegressor

    features, _ = _labelled(8, 2)
    model = HistGradientBoostingRegressor(max_iter=40, random_state=0)
    return _convert(model.fit(features, features[:, 0] * 3 + np.sin(features[:, 1])), _floats(8))


def _doubles() -> onnx.ModelProto:
    from skl2onnx.common.data_types import DoubleTensorType
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features = np.random.default_rng(5).normal(size=(200, 5))
    model = make_pipeline(StandardScaler(), Ridge()).fit(features, features @ np.arange(5.0))
    return _convert(model, [("X", DoubleTensorType([None, 5]))])


CARRIERS = ("UA", "DL", "AA", "B6", "9E", "ünbekannt")


def _categories() -> onnx.ModelProto:
    import pandas as pd
    from skl2onnx.common.data_types import FloatTensorType, Int64TensorType, StringTensorType
    from sklearn.compose import ColumnTransformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    rng = np.random.default_rng(6)
    table = pd.DataFrame(
        {
            "carrier": rng.choice(CARRIERS[:-1], 300),
            "hour": rng.integers(0, 24, 300),
            "distance": rng.uniform(80, 5000, 300).astype(np.float32),
        }
    )
    prepare = ColumnTransformer(
        [
            ("names", OneHotEncoder(handle_unknown="ignore"), ["carrier"]),
            ("numbers", StandardScaler(), ["hour", "distance"]),
        ]
    )
    model = make_pipeline(prepare, LogisticRegression()).fit(table, table["hour"] > 14)
    return _convert(
        model,
        [
            ("carrier", StringTensorType([None, 1])),
            ("hour", Int64TensorType([None, 1])),
            ("distance", FloatTensorType([None, 1])),
        ],
        classifier=True,
    )


def _category_rows(rng: np.random.Generator, rows: int) -> Inputs:
    return {
        "carrier": rng.choice(np.array(CARRIERS, dtype=object), (rows, 1)),
        "hour": rng.integers(0, 24, (rows, 1), dtype=np.int64),
        "distance": rng.uniform(80, 5000, (rows, 1)).astype(np.float32),
    }


# ---- what onnx.helper makes --------------------------------------------------------------------------------


def graph(
    nodes: list[onnx.NodeProto],
    inputs: Mapping[str, tuple[str, list[str | int]]],
    outputs: Mapping[str, tuple[str, list[str | int]]],
    weights: Mapping[str, np.ndarray] | None = None,
) -> onnx.ModelProto:
    """A checked model; inputs and outputs are name → (protocol's datatype, shape)."""
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "zoo",
            [helper.make_tensor_value_info(n, DTYPES[d][0], shape) for n, (d, shape) in inputs.items()],
            [helper.make_tensor_value_info(n, DTYPES[d][0], shape) for n, (d, shape) in outputs.items()],
            [numpy_helper.from_array(value, name) for name, value in (weights or {}).items()],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=9,
    )
    onnx.checker.check_model(model)
    return model


def _two_and_two() -> onnx.ModelProto:
    pair: dict[str, tuple[str, list[str | int]]] = {"a": ("FP32", ["rows", 2]), "b": ("FP32", ["rows", 2])}
    return graph(
        [helper.make_node("Add", ["a", "b"], ["sum"]), helper.make_node("Sub", ["a", "b"], ["difference"])],
        pair,
        {"sum": ("FP32", ["rows", 2]), "difference": ("FP32", ["rows", 2])},
    )


def _dynamic_axes() -> onnx.ModelProto:
    shape: list[str | int] = ["rows", "columns"]
    return graph(
        [
            helper.make_node("Softmax", ["x"], ["softmax"], axis=-1),
            helper.make_node("ReduceSum", ["x", "last"], ["total"], keepdims=0),
        ],
        {"x": ("FP32", shape)},
        {"softmax": ("FP32", shape), "total": ("FP32", ["rows"])},
        {"last": np.array([-1], dtype=np.int64)},
    )


def _half() -> onnx.ModelProto:
    weights = np.random.default_rng(7).normal(size=(4, 2)).astype(np.float16)
    return graph(
        [helper.make_node("MatMul", ["x", "weights"], ["y"])],
        {"x": ("FP16", ["rows", 4])},
        {"y": ("FP16", ["rows", 2])},
        {"weights": weights},
    )


def echo(dtype: str) -> onnx.ModelProto:
    """Answers what it is given: x → y."""
    shape: list[str | int] = ["rows", "columns"]
    return graph([helper.make_node("Identity", ["x"], ["y"])], {"x": (dtype, shape)}, {"y": (dtype, shape)})


def _every_dtype() -> onnx.ModelProto:
    return graph(
        [helper.make_node("Identity", [f"in_{d}"], [f"out_{d}"]) for d in DTYPES],
        {f"in_{d}": (d, ["rows", 2]) for d in DTYPES},
        {f"out_{d}": (d, ["rows", 2]) for d in DTYPES},
    )


def values(dtype: str, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Random values over the whole range of a type; BYTES holds text with what needs escaping."""
    kind = DTYPES[dtype][1]
    if dtype == "BYTES":
        words = np.array(["", "UA", 'quo"te', "back\\slash", "naïve ✈", "line\nend", "x" * 40], dtype=object)
        return rng.choice(words, shape)
    if dtype == "BOOL":
        return rng.integers(0, 2, shape).astype(np.bool_)
    if dtype.startswith("FP"):
        return rng.normal(scale=100, size=shape).astype(kind)
    limits = np.iinfo(kind)
    return rng.integers(limits.min, limits.max, shape, dtype=kind, endpoint=True)


def _integers_and_flags() -> onnx.ModelProto:
    return graph(
        [
            helper.make_node("Cast", ["wide"], ["seconds"], to=TensorProto.INT32),
            helper.make_node("Where", ["flag", "seconds", "other"], ["chosen"]),
            helper.make_node("Not", ["flag"], ["flipped"]),
        ],
        {"flag": ("BOOL", ["rows"]), "wide": ("INT64", ["rows"]), "other": ("INT32", ["rows"])},
        {"chosen": ("INT32", ["rows"]), "flipped": ("BOOL", ["rows"])},
    )


def _integer_rows(rng: np.random.Generator, rows: int) -> Inputs:
    return {
        "flag": rng.integers(0, 2, rows).astype(np.bool_),
        "wide": rng.integers(-(2**31), 2**31, rows, dtype=np.int64),
        "other": rng.integers(-1000, 1000, rows, dtype=np.int32),
    }


def _convolutions() -> onnx.ModelProto:
    rng = np.random.default_rng(8)

    def weight(*shape: int) -> np.ndarray:
        return (rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)

    return graph(
        [
            helper.make_node("Conv", ["image", "w1"], ["c1"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["c1"], ["r1"]),
            helper.make_node("MaxPool", ["r1"], ["p1"], kernel_shape=[2, 2], strides=[2, 2]),
            helper.make_node("Conv", ["p1", "w2"], ["c2"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["c2"], ["r2"]),
            helper.make_node("MaxPool", ["r2"], ["p2"], kernel_shape=[2, 2], strides=[2, 2]),
            helper.make_node("Flatten", ["p2"], ["flat"], axis=1),
            helper.make_node("Gemm", ["flat", "w3"], ["logits"], transB=1),
            helper.make_node("Softmax", ["logits"], ["digits"], axis=-1),
        ],
        {"image": ("FP32", ["rows", 1, 28, 28])},
        {"digits": ("FP32", ["rows", 10])},
        {"w1": weight(16, 1, 3, 3), "w2": weight(32, 16, 3, 3), "w3": weight(10, 32 * 49)},
    )


def _perceptron(width: int = 1024, layers: int = 5) -> onnx.ModelProto:
    """About a millisecond a row: the weights (20 MB) stream through the cache."""
    rng = np.random.default_rng(9)
    nodes, weights, last = [], {}, "X"
    for layer in range(layers):
        weights[f"w{layer}"] = (rng.normal(size=(width, width)) * np.sqrt(2 / width)).astype(np.float32)
        nodes.append(helper.make_node("MatMul", [last, f"w{layer}"], [f"h{layer}"]))
        nodes.append(helper.make_node("Relu", [f"h{layer}"], [f"r{layer}"]))
        last = f"r{layer}"
    weights["out"] = (rng.normal(size=(width, 1)) / width).astype(np.float32)
    nodes.append(helper.make_node("MatMul", [last, "out"], ["y"]))
    return graph(nodes, {"X": ("FP32", ["rows", width])}, {"y": ("FP32", ["rows", 1])}, weights)


def _row_mixer() -> onnx.ModelProto:
    """A row's answer depends on its neighbours: who batches strangers together answers wrongly."""
    return graph(
        [
            helper.make_node("ReduceMean", ["x", "first"], ["mean"], keepdims=1),
            helper.make_node("Sub", ["x", "mean"], ["centred"]),
        ],
        {"x": ("FP32", ["rows", 3])},
        {"centred": ("FP32", ["rows", 3])},
        {"first": np.array([0], dtype=np.int64)},
    )


def _fixed_rows() -> onnx.ModelProto:
    return graph(
        [helper.make_node("Mul", ["x", "x"], ["squares"])],
        {"x": ("FP32", [1, 4])},
        {"squares": ("FP32", [1, 4])},
    )


def _lookup() -> onnx.ModelProto:
    """Fails while it runs when a key is not below 100: a bad request that only the model can notice."""
    table = np.arange(100, dtype=np.float32) * 1.5
    return graph(
        [helper.make_node("Gather", ["table", "key"], ["value"])],
        {"key": ("INT64", ["rows"])},
        {"value": ("FP32", ["rows"])},
        {"table": table},
    )


@functools.cache
def zoo() -> dict[str, ZooModel]:
    models = [
        ZooModel("logistic", _logistic, _normal(4)),
        ZooModel("forest", _forest_with_names, _normal(6)),
        ZooModel("boosted30", _boosted_30, _normal(30)),
        ZooModel("boosted_regressor", _boosted_regressor, _normal(8)),
        ZooModel("doubles", _doubles, lambda rng, rows: {"X": rng.normal(size=(rows, 5))}),
        ZooModel("categories", _categories, _category_rows),
        ZooModel(
            "two_and_two",
            _two_and_two,
            lambda rng, rows: {n: rng.normal(size=(rows, 2)).astype(np.float32) for n in "ab"},
        ),
        ZooModel(
            "dynamic_axes",
            _dynamic_axes,
            lambda rng, rows: {"x": rng.normal(size=(rows, int(rng.integers(1, 9)))).astype(np.float32)},
        ),
        ZooModel("half", _half, lambda rng, rows: {"x": rng.normal(size=(rows, 4)).astype(np.float16)}),
        ZooModel(
            "every_dtype",
            _every_dtype,
            lambda rng, rows: {f"in_{dtype}": values(dtype, rng, (rows, 2)) for dtype in DTYPES},
        ),
        ZooModel("integers_and_flags", _integers_and_flags, _integer_rows),
        ZooModel(
            "convolutions",
            _convolutions,
            lambda rng, rows: {"image": rng.uniform(size=(rows, 1, 28, 28)).astype(np.float32)},
        ),
        ZooModel("perceptron", _perceptron, _normal(1024)),
        ZooModel("row_mixer", _row_mixer, _normal(3, "x")),
        ZooModel("fixed_rows", _fixed_rows, lambda rng, rows: _normal(4, "x")(rng, 1), rows_vary=False),
        ZooModel("lookup", _lookup, lambda rng, rows: {"key": rng.integers(0, 100, rows, dtype=np.int64)}),
    ]
    return {model.name: model for model in models}


# ---- a model that takes as long as it is told --------------------------------------------------------------


def write_spinner(folder: Path) -> Path:
    """Multiplies matrices `times` times and answers how often: holds a run, however fast the machine is.

    There are twenty turns more, so that even `times` 0 is too slow to run on the server's loop.
    """
    names = ("number", "go_on", "before", "go_on_out", "after")
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["before", "matrix"], ["after"]),
            helper.make_node("Identity", ["go_on"], ["go_on_out"]),
        ],
        "body",
        [
            helper.make_tensor_value_info(names[0], TensorProto.INT64, []),
            helper.make_tensor_value_info(names[1], TensorProto.BOOL, []),
            helper.make_tensor_value_info(names[2], TensorProto.FLOAT, [256, 256]),
        ],
        [
            helper.make_tensor_value_info(names[3], TensorProto.BOOL, []),
            helper.make_tensor_value_info(names[4], TensorProto.FLOAT, [256, 256]),
        ],
    )
    identity = numpy_helper.from_array(np.eye(256, dtype=np.float32), "matrix")
    graph = helper.make_graph(
        [
            helper.make_node("Add", ["times", "twenty"], ["more"]),
            helper.make_node("Squeeze", ["more"], ["trips"]),
            helper.make_node("Loop", ["trips", "", "matrix"], ["last"], body=body),
            helper.make_node("ReduceMax", ["last"], ["one"], keepdims=0),
            helper.make_node("Cast", ["one"], ["whole"], to=TensorProto.INT64),
            helper.make_node("Mul", ["times", "whole"], ["turns"]),
        ],
        "spinner",
        [helper.make_tensor_value_info("times", TensorProto.INT64, [1])],
        [helper.make_tensor_value_info("turns", TensorProto.INT64, [1])],
        [identity, numpy_helper.from_array(np.array([20], np.int64), "twenty")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(model, folder / "model.onnx")
    return folder
