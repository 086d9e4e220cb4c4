"""From a fitted pipeline to one ONNX graph that eats the contract's tensors."""

from __future__ import annotations

from typing import Any

import numpy as np

from components.inputs import CATEGORIES, NUMBERS, TIMES
from components.train.models import Native
from slipway.contract import METADATA_KEY, ModelContract, TensorOutput

PROBABILITY = TensorOutput("probability", "FP32", (-1, 1))
OPSET = {"": 18, "ai.onnx.ml": 3}
"""Old enough for every runtime that KServe ships, and all that the operators here need."""


def export(native: Native) -> Any:
    """The graph as an onnx.ModelProto, without a contract yet; the same model gives the same bytes."""
    from onnx import TensorProto, checker, helper, numpy_helper
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType, StringTensorType
    from sklearn.pipeline import Pipeline

    plan = native.plan
    inputs = [("features", FloatTensorType([None, len(plan.features)]))]
    if plan.categories:
        inputs.append((CATEGORIES, StringTensorType([None, len(plan.categories)])))
    whole = Pipeline([("preparation", native.preparation), ("estimator", native.estimator)])
    model = convert_sklearn(
        whole,
        name="slipway",
        initial_types=inputs,
        target_opset=OPSET,
        options={id(native.estimator): {"zipmap": False}},
    )
    graph = model.graph

    front = []
    parts = [NUMBERS] if plan.numbers else []
    if plan.elapsed:
        position = {column.name: index for index, column in enumerate(plan.times)}
        for name, picked in (
            ("of", [position[item.of] for item in plan.elapsed]),
            ("since", [position[item.since] for item in plan.elapsed]),
        ):
            graph.initializer.append(numpy_helper.from_array(np.array(picked, np.int64), f"elapsed_{name}"))
            front.append(helper.make_node("Gather", [TIMES, f"elapsed_{name}"], [name], name=name, axis=1))
        front.append(helper.make_node("Sub", ["of", "since"], ["seconds"], name="seconds"))
        front.append(helper.make_node("Cast", ["seconds"], ["elapsed"], name="elapsed", to=TensorProto.FLOAT))
        parts.append("elapsed")
    front.append(helper.make_node("Concat", parts, ["features"], name="features", axis=1))

    graph.initializer.append(numpy_helper.from_array(np.array([1], np.int64), "positive"))
    back = helper.make_node(
        "Gather", ["probabilities", "positive"], [PROBABILITY.name], name=PROBABILITY.name, axis=1
    )
    nodes = [*front, *graph.node, back]
    del graph.node[:]
    graph.node.extend(nodes)

    del graph.input[:]
    kinds = {"FP32": TensorProto.FLOAT, "FP64": TensorProto.DOUBLE, "BYTES": TensorProto.STRING}
    for tensor in plan.tensor_inputs():
        shape = ["rows", *tensor.shape[1:]]
        graph.input.append(helper.make_tensor_value_info(tensor.name, kinds[tensor.dtype], shape))
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(PROBABILITY.name, TensorProto.FLOAT, ["rows", 1]))
    model.doc_string = graph.doc_string = ""
    # skl2onnx lists them in the order of a set of texts, which is another in each process.
    domains = sorted(model.opset_import, key=lambda item: item.domain)
    del model.opset_import[:]
    model.opset_import.extend(domains)
    _drop_unused(graph)
    checker.check_model(model)
    return model


def _drop_unused(graph: Any) -> None:
    """The predicted class is not asked for: the threshold is the contract's."""
    wanted = {output.name for output in graph.output}
    kept = []
    for node in reversed(graph.node):
        if wanted & set(node.output):
            kept.append(node)
            wanted |= set(node.input)
    del graph.node[:]
    graph.node.extend(reversed(kept))


def with_contract(model: Any, contract: ModelContract) -> bytes:
    """The bytes of the model with this contract inside, in place of any other."""
    from onnx import ModelProto, helper

    copy = ModelProto()
    copy.CopyFrom(model)
    del copy.metadata_props[:]
    helper.set_model_props(copy, {METADATA_KEY: contract.to_json().decode()})
    text: bytes = copy.SerializeToString(deterministic=True)
    return text
