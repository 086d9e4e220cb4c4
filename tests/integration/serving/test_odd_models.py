"""Graphs that few people write and the protocol allows: each answers as ONNX Runtime does, again and again.

Every request is made several times, because the first is read in the general way, the second binds memory,
and those after it go the short way.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from serving.client.grpc_messages import infer_message
from tests.conformance.target import Target
from tests.support.messages import SERVICE, message
from tests.support.server import Running, running_server
from tests.support.ways import WAYS

FLOAT, INT64, BFLOAT16 = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BFLOAT16
_value = helper.make_tensor_value_info


def _model(nodes: list[Any], inputs: list[Any], outputs: list[Any]) -> onnx.ModelProto:
    opsets = [helper.make_opsetid("", 18)]
    return helper.make_model(
        helper.make_graph(nodes, "odd", inputs, outputs), opset_imports=opsets, ir_version=9
    )


_CONSTANT = numpy_helper.from_array(np.array([1.5, 2.5], np.float32))
MODELS: dict[str, onnx.ModelProto] = {
    "no_inputs": _model(
        [helper.make_node("Constant", [], ["y"], value=_CONSTANT)], [], [_value("y", FLOAT, [2])]
    ),
    "sequence": _model(
        [helper.make_node("Neg", ["x"], ["z"]), helper.make_node("SequenceConstruct", ["x", "z"], ["y"])],
        [_value("x", FLOAT, ["rows", 3])],
        [helper.make_tensor_sequence_value_info("y", FLOAT, ["rows", 3])],
    ),
    "scalar": _model(
        [helper.make_node("Mul", ["x", "x"], ["y"])], [_value("x", FLOAT, [])], [_value("y", FLOAT, [])]
    ),
    "as_many_as_there_are": _model(
        [
            helper.make_node("NonZero", ["x"], ["places"]),
            helper.make_node("Transpose", ["places"], ["y"], perm=[1, 0]),
        ],
        [_value("x", FLOAT, ["rows", 3])],
        [_value("y", INT64, ["found", 2])],
    ),
    "negative": _model(
        [helper.make_node("Neg", ["x"], ["y"])],
        [_value("x", FLOAT, ["n", 3])],
        [_value("y", FLOAT, ["n", 3])],
    ),
    "three_names": _model(
        [helper.make_node("Shape", ["x"], ["y"])],
        [_value("x", FLOAT, ["a", "b", "c"])],
        [_value("y", INT64, [3])],
    ),
}
PAIRS: dict[str, onnx.ModelProto] = {
    "broadcast": _model(
        [helper.make_node("Add", ["x", "y"], ["z"])],
        [_value("x", FLOAT, ["n", 3]), _value("y", FLOAT, ["m", 3])],
        [_value("z", FLOAT, ["k", 3])],
    ),
    "weights": _model(
        [helper.make_node("MatMul", ["x", "y"], ["z"])],
        [_value("x", FLOAT, ["n", 3]), _value("y", FLOAT, ["k"])],
        [_value("z", FLOAT, ["n"])],
    ),
    "factor": _model(
        [
            helper.make_node("Mul", ["x", "y"], ["z"]),
            helper.make_node("ReduceSum", ["x"], ["all"], keepdims=0),
        ],
        [_value("x", FLOAT, ["n", 3]), _value("y", FLOAT, [])],
        [_value("z", FLOAT, ["n", 3]), _value("all", FLOAT, [])],
    ),
}
"""Two inputs that have not as many rows."""
REFUSED = _model(
    [helper.make_node("Identity", ["x"], ["y"])],
    [_value("x", BFLOAT16, ["rows", 2])],
    [_value("y", BFLOAT16, ["rows", 2])],
)
ASKED: list[tuple[str, list[Any]]] = [
    ("no_inputs", [None]),
    ("sequence", [[[1, 2, 3]], [[1, 2, 3], [4, 5, 6]], [[7, 8, 9]]]),
    ("scalar", [3.0, -2.0]),
    ("as_many_as_there_are", [[[1, 0, 1]], [[1, 1, 1]], [[0, 0, 0]], [[1, 0, 0]], [[0, 0, 1], [1, 0, 0]]]),
    ("three_names", [np.zeros((1, 2, 3)).tolist(), np.zeros((0, 2, 3)).tolist()]),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    root = tmp_path_factory.mktemp("odd")
    for name, model in {**MODELS, **PAIRS, "refused": REFUSED}.items():
        (root / "models" / name).mkdir(parents=True)
        onnx.save(model, root / "models" / name / "model.onnx")
    with running_server(root / "models", root / "run") as running:
        yield running


def _wanted(name: str, feeds: dict[str, np.ndarray]) -> np.ndarray:
    session = onnxruntime.InferenceSession(MODELS[name].SerializeToString())
    (found,) = session.run(None, feeds)
    return np.stack(found) if isinstance(found, list) else found


@pytest.mark.parametrize(("name", "values"), ASKED, ids=[name for name, _ in ASKED])
def test_every_answer_is_that_of_onnxruntime(server: Running, name: str, values: list[Any]) -> None:
    shape = {"three_names": lambda at: (1 - at, 2, 3)}.get(name)
    with httpx.Client(timeout=10) as client, grpc.insecure_channel(server.grpc_address) as channel:
        infer = channel.unary_unary(
            f"/{SERVICE}/ModelInfer", response_deserializer=message("ModelInferResponse").FromString
        )
        for _ in range(2):
            for at, value in enumerate(values):
                array = np.array(value, np.float32)
                if shape is not None:
                    array = array.reshape(shape(at))
                feeds = {} if value is None else {"x": array}
                wanted = _wanted(name, feeds)
                inputs = [
                    {"name": n, "datatype": "FP32", "shape": v.shape, "data": v.ravel().tolist()}
                    for n, v in feeds.items()
                ]
                for _ in range(3):
                    answer = client.post(f"{server.url}/v2/models/{name}/infer", json={"inputs": inputs})
                    assert answer.status_code == 200, answer.text
                    (output,) = answer.json()["outputs"]
                    assert output["shape"] == list(wanted.shape)
                    assert output["data"] == wanted.ravel().tolist()
                    told = infer(infer_message(name, feeds, None, None, None, None, None), timeout=10)
                    assert list(told.outputs[0].shape) == list(wanted.shape)
                    assert told.raw_output_contents[0] == wanted.tobytes()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("name", "shapes"), [("broadcast", (2, 1)), ("broadcast", (3, 3)), ("weights", (2, 3))]
)
def test_inputs_need_not_have_as_many_rows(
    server: Running, way: str, name: str, shapes: tuple[int, int]
) -> None:
    generator = np.random.default_rng(1)
    target = Target(server.url, server.grpc_address)
    for _ in range(4):
        feeds = {"x": generator.normal(size=(shapes[0], 3)).astype(np.float32)}
        wide = (3,) if name == "weights" else (shapes[1], 3)
        feeds["y"] = generator.normal(size=wide).astype(np.float32)
        session = onnxruntime.InferenceSession(PAIRS[name].SerializeToString())
        (wanted,) = session.run(None, feeds)
        np.testing.assert_array_equal(WAYS[way](target, name, feeds)["z"], wanted, strict=True)
    target.close()


@pytest.mark.parametrize("way", WAYS)
def test_no_rows_have_no_answers(server: Running, way: str) -> None:
    """And whoever asks among others does not change theirs."""
    target = Target(server.url, server.grpc_address)
    for rows in (1, 1, 0, 1, 0, 0, 2, 1):
        x = np.full((rows, 3), rows + 1, np.float32)
        np.testing.assert_array_equal(WAYS[way](target, "negative", {"x": x})["y"], -x, strict=True)
    target.close()


def test_v1_gives_every_output_as_it_is_where_rows_there_are_none(server: Running) -> None:
    inputs = {"x": [[1, 2, 3], [4, 5, 6]], "y": 2}
    for name, wanted in (
        ("factor", {"z": [[2, 4, 6], [8, 10, 12]], "all": [21]}),
        ("broadcast", [[3, 4, 5], [6, 7, 8]]),
    ):
        given = inputs if name == "factor" else {**inputs, "y": [[2, 2, 2]]}
        answer = httpx.post(f"{server.url}/v1/models/{name}:predict", json={"inputs": given})
        assert answer.json() == {"predictions": wanted}


def test_a_graph_that_the_protocol_cannot_carry_is_refused_by_itself(server: Running) -> None:
    index = {entry["name"]: entry for entry in httpx.post(f"{server.url}/v2/repository/index").json()}
    assert {name for name, entry in index.items() if entry["state"] == "READY"} == {*MODELS, *PAIRS}
    assert "bfloat16" in index["refused"]["reason"]
    answer = httpx.post(f"{server.url}/v2/models/refused/infer", json={"inputs": []})
    assert (answer.status_code, "bfloat16" in answer.json()["error"]) == (503, True)
