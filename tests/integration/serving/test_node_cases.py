"""ONNX's own tests of every operator through the server: some 1,500 models that nobody here wrote."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from serving.runtime.graph import read_graph
from serving.runtime.model import Model
from serving.runtime.rows import follow_rows
from slipway.errors import ContractMismatch, ServingError
from tests.conformance.target import Target
from tests.support.node_cases import NodeCase, node_cases
from tests.support.server import Running, running_server
from tests.support.ways import WAYS, Refused, datatype_of


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    root = tmp_path_factory.mktemp("nodes")
    for case in node_cases():
        (root / "models" / case.name).mkdir(parents=True)
        (root / "models" / case.name / "model.onnx").write_bytes(case.content)
    with running_server(
        root / "models", root / "run", "--load", "none", "--memory-budget", "256M"
    ) as running:
        yield running


def _disagreement(target: Target, way: str, case: NodeCase, at: int) -> str:
    """Empty, or what is other than onnxruntime called directly."""
    wanted = case.answers[at]
    try:
        got = WAYS[way](target, case.name, case.asked[at])
    except Refused as refused:
        return "" if isinstance(wanted, str) and len(refused.text) > 20 else str(refused)
    if isinstance(wanted, str):
        return f"answered, where onnxruntime says {wanted}"
    if got.keys() != wanted.keys():
        return f"has outputs {list(got)}, not {list(wanted)}"
    for name, value in wanted.items():
        value = np.asarray(value)
        value = value.astype(object) if value.dtype.kind == "U" else value
        if way == "json" and value.dtype.kind == "f":
            value = np.where(np.isfinite(value), value, np.array(np.nan, value.dtype))
        if (got[name].dtype, got[name].shape) != (value.dtype, value.shape):
            return f"{name} is {got[name].dtype}{got[name].shape}, not {value.dtype}{value.shape}"
        if case.steady and not np.array_equal(got[name], value, equal_nan=value.dtype.kind == "f"):
            return f"{name} has other values"
    return ""


def test_every_operator_answers_as_onnxruntime_does(server: Running) -> None:
    """In two of the four ways by turns; in all with SLIPWAY_TEST_WAYS=all, which takes twice as long."""
    target = Target(server.url, server.grpc_address)
    cases = [case for case in node_cases() if case.in_protocol]
    pairs = [("json", "raw"), ("binary", "typed"), ("json", "binary"), ("raw", "typed")]
    wrong, asked = [], 0
    for number, case in enumerate(cases):
        ways = list(WAYS) if os.environ.get("SLIPWAY_TEST_WAYS") == "all" else pairs[number % 4]
        for at, feeds in enumerate(case.asked):
            for way in ways:
                if way == "typed" and "FP16" in map(datatype_of, feeds.values()):
                    continue  # it has no typed contents
                asked += 1
                told = _disagreement(target, way, case, at)
                if told:
                    wrong.append(f"{case.name} by {way}: {told}")
    target.close()
    assert wrong == []
    assert len(cases) > 1400
    assert asked > 2800


def test_what_the_protocol_cannot_carry_is_refused_with_its_reason(server: Running) -> None:
    target = Target(server.url, None)
    cases = [case for case in node_cases() if not case.in_protocol]
    refused = 0
    for case in cases:
        answer = target.infer(case.name, {"inputs": []})
        if answer.status != 503:
            # A sequence of tensors comes out as one tensor.
            assert all(kind.startswith(("tensor(", "seq(tensor(")) for kind in case.types), case.name
            continue
        text = answer.refused(503)
        assert "cannot carry" in text, (case.name, text)
        assert any(kind in text for kind in case.types), (case.name, text)
        refused += 1
    target.close()
    assert len(cases) > 50
    assert refused > 50


# ---- rows --------------------------------------------------------------------------------------------------


def _with_rows(case: NodeCase, *, alone: bool) -> onnx.ModelProto | None:
    """The case with a first axis of any length in all inputs; `alone`: the first is the one input, all others
    are weights.
    """
    model = onnx.load_from_string(case.content)
    graph = model.graph
    known = {constant.name for constant in graph.initializer}
    inputs = [value for value in graph.input if value.name not in known]
    if alone:
        if len(inputs) < 2 or any(case.asked[0][value.name].dtype == object for value in inputs[1:]):
            return None
        for value in inputs[1:]:
            graph.initializer.append(numpy_helper.from_array(case.asked[0][value.name], value.name))
            graph.input.remove(value)
        inputs = inputs[:1]
    for value in inputs:
        axes = value.type.tensor_type.shape.dim
        if not axes:
            return None
        axes[0].Clear()
        axes[0].dim_param = "rows"
    for value in graph.output:
        value.type.tensor_type.ClearField("shape")
    del graph.value_info[:]
    return model


def _some(generator: np.random.Generator, like: np.ndarray, rows: int) -> np.ndarray:
    shape = (rows, *like.shape[1:])
    if like.dtype.kind == "f":
        values = generator.normal(size=shape) * 3
        return (np.abs(values) if like.min(initial=0) >= 0 else values).astype(like.dtype)
    if like.dtype == np.bool_:
        return generator.integers(0, 2, shape).astype(bool)
    return generator.choice(like.ravel(), shape) if like.size else np.zeros(shape, like.dtype)


def _mixed(model: Model, rows: dict[str, np.ndarray], count: int) -> bool:
    try:
        together = model.run(rows)
    except ServingError:
        return False  # weights of the case were made for its own number of rows
    alone = [model.run({n: v[at : at + 1].copy() for n, v in rows.items()}) for at in range(count)]
    for number, whole in enumerate(together):
        parts = np.concatenate([answer[number] for answer in alone])
        if parts.shape != whole.shape:
            return True
        if whole.dtype.kind == "f":
            tolerance = 2e-2 if whole.dtype == np.float16 else 1e-4
            if not np.allclose(parts, whole, rtol=tolerance, atol=tolerance, equal_nan=True):
                return True
        elif not np.array_equal(parts, whole):
            return True
    return False


def test_no_operator_mixes_rows_that_is_said_to_keep_them_apart() -> None:
    generator = np.random.default_rng(1)
    checked, operators, wrong = 0, set(), []
    for case in node_cases():
        if not case.in_protocol or not case.asked or isinstance(case.answers[0], str):
            continue
        for alone in (False, True):
            varied = _with_rows(case, alone=alone)
            if varied is None:
                continue
            content = varied.SerializeToString()
            try:
                model = Model(case.name, "1", content)
            except ContractMismatch:
                continue
            graph = read_graph(content)
            inputs = [(spec.name, spec.shape) for spec in model.inputs]
            if not follow_rows(graph, inputs, model.output_names).apart:
                continue
            for count in (2, 5):
                rows: dict[str, Any] = {
                    spec.name: _some(generator, case.asked[0][spec.name], count) for spec in model.inputs
                }
                checked += 1
                operators.update(node.operator for node in graph.nodes)
                if _mixed(model, rows, count):
                    wrong.append(f"{case.name} ({count} rows)")
    assert wrong == []
    assert checked > 1000
    assert len(operators) > 100
