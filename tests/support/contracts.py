"""Model versions as the pipelines publish them: a graph with its contract inside and beside it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from slipway.baseline import Baseline, NumericBaseline
from slipway.contract import (
    METADATA_KEY,
    Column,
    FeatureService,
    ModelContract,
    Origin,
    Snapshot,
    TensorInput,
    TensorOutput,
    View,
    ViewField,
    prefix_digest,
)
from tests.support.models import graph

COLUMNS = ("delay_1h", "delay_24h", "distance")


def weighted(weights: tuple[float, ...] = (1.0, 10.0, 100.0)) -> onnx.ModelProto:
    """score = sum of features x weights, without a GEMM: the bits do not depend on the batch."""
    return graph(
        [
            helper.make_node("Mul", ["features", "weights"], ["parts"]),
            helper.make_node("ReduceSum", ["parts", "last"], ["score"], keepdims=0),
        ],
        {"features": ("FP32", ["rows", len(weights)])},
        {"score": ("FP32", ["rows"])},
        {"weights": np.array(weights, np.float32), "last": np.array([1])},
    )


def contract(name: str = "delays", *, store: str = "default", run_id: str = "run-1") -> ModelContract:
    view = View(
        name="carrier_delays",
        join_keys={"carrier": "carrier"},
        key_types={"carrier": "String"},
        fields=(ViewField("delay_1h", "Float32"), ViewField("delay_24h", "Float32")),
    )
    return ModelContract(
        name=name,
        inputs=(
            TensorInput(
                "features",
                "FP32",
                (-1, 3),
                (
                    Column("delay_1h", "carrier_delays", default=-1.0),
                    Column("delay_24h", "carrier_delays", default=-2.0),
                    Column("distance"),
                ),
            ),
        ),
        outputs=(TensorOutput("score", "FP32", (-1,)),),
        feature_service=FeatureService(
            "delays_v1", "flights", "f" * 8, (view,), on_unavailable="fail" if store == "fail" else "default"
        ),
        snapshot=Snapshot("s3://slipway/snapshots/1", "5" * 64, 100, "2013-01-01", "2013-02-01"),
        origin=Origin(run_id, "c0ffee"),
    )


BASELINE = Baseline(
    rows=100,
    features=tuple(NumericBaseline(name, (0.0, 10.0), (10, 80, 10)) for name in COLUMNS),
    outputs=(NumericBaseline("score", (0.0,), (50, 50)),),
)


def publish(
    root: Path,
    promised: ModelContract,
    *,
    model: onnx.ModelProto | None = None,
    inside: ModelContract | None = None,
    baseline: Baseline | None = BASELINE,
    version: str | None = None,
) -> Path:
    """Into root/<version>; the version is the digest where none is given. The contract is written last."""
    graph_with = model if model is not None else weighted()
    del graph_with.metadata_props[:]
    helper.set_model_props(graph_with, {METADATA_KEY: (inside or promised).to_json().decode()})
    files: Mapping[str, bytes] = {
        "model.onnx": graph_with.SerializeToString(),
        **({"baseline.json": baseline.to_json()} if baseline else {}),
        "report.html": b"<html></html>",
        "contract.json": promised.to_json(),
    }
    digest = prefix_digest({name: hashlib.sha256(content).hexdigest() for name, content in files.items()})
    folder = root / (version or digest)
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder
