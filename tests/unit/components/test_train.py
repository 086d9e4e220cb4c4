"""Splits, inputs, export and determinism; the whole of train against a real S3 and a real MLflow."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import numpy as np
import onnx
import onnxruntime
import polars as pl
import pytest

from components.inputs import InputPlan, plan_inputs
from components.labels import labels
from components.snapshot import SnapshotResult, Window, read_rows, take_snapshot
from components.train import (
    Candidate,
    ModelConfig,
    SplitConfig,
    TrainConfig,
    export,
    fit,
    random_rows,
    time_ordered,
    train,
    with_contract,
)
from components.train.baseline import measure
from slipway.contract import METADATA_KEY, Column, ModelContract, check_agreement
from slipway.errors import DataError, FeatureError, GateNotPassed
from slipway.objects import ObjectStore, make_client
from slipway.project import Elapsed, Label, RequestField
from slipway.settings import Settings
from tests.support.training import PROJECT, SERVICE, Tables


def hours(count: int) -> pl.Series:
    start = datetime(2013, 1, 1, tzinfo=UTC)
    return pl.Series([start + timedelta(hours=hour) for hour in range(count)])


def test_the_split_learns_from_the_past_and_waits_until_answers_are_known():
    parts = time_ordered(
        hours(1000), SplitConfig(test_share=0.2, validation_share=0.25), known_after_hours=10
    )
    assert (parts.test[0], parts.test[-1]) == (800, 999)
    assert parts.validation[-1] == 789  # row 790 is known at 800 at the earliest
    assert parts.training[-1] + 10 < parts.validation[0] + 1
    assert set(parts.training) | set(parts.validation) == set(parts.development)


def test_the_split_at_a_named_time_and_outside_the_rows():
    parts = time_ordered(hours(100), SplitConfig(test_from="2013-01-04T00:00:00+00:00"))
    assert (len(parts.development), parts.test[0]) == (72, 72)
    with pytest.raises(DataError, match="leaves no rows for: test"):
        time_ordered(hours(100), SplitConfig(test_from="2014-01-01T00:00:00+00:00"))
    with pytest.raises(DataError, match="no rows to split"):
        time_ordered(hours(0), SplitConfig())
    with pytest.raises(ValueError, match="test_share is 0"):
        SplitConfig(test_share=0)


def test_the_random_split_has_every_row_once():
    learned, judged = random_rows(1000, SplitConfig())
    assert sorted([*learned, *judged]) == list(range(1000))
    assert len(judged) == 250


def test_inputs_follow_project_and_service_and_misnamed_ones_are_told():
    plan = plan_inputs(PROJECT, SERVICE)
    assert [column.name for column in plan.numbers] == [
        "hour",
        "carrier_delays__mean",
        "carrier_delays__flights",
        "carrier_delays__trend",
        "last_leg__delay",
    ]
    assert [column.name for column in plan.categories] == ["carrier", "last_leg__from"]
    assert [column.name for column in plan.times] == ["departs", "last_leg__landed"]
    wrong = msgspec.structs.replace(PROJECT, elapsed=(Elapsed(name="x", of="departs", since="nowhere"),))
    with pytest.raises(FeatureError, match="nothing brings: nowhere"):
        plan_inputs(wrong, SERVICE)
    without = msgspec.structs.replace(PROJECT, exclude=("last_leg__from",))
    assert "last_leg__from" not in plan_inputs(without, SERVICE).columns
    idle = msgspec.structs.replace(
        PROJECT, request_fields=(*PROJECT.request_fields, RequestField(name="lands", kind="time"))
    )
    with pytest.raises(FeatureError, match="no Elapsed uses: lands"):
        plan_inputs(idle, SERVICE)


def test_defaults_fill_gaps_and_null_is_nan_or_empty():
    plan = InputPlan((Column("a"), Column("b", default=7.0)), (Column("c"),), (), ())
    tensors = plan.tensors(pl.DataFrame({"a": [None, 1.0], "b": [None, 2.0], "c": [None, "x"]}))
    assert np.isnan(tensors["numbers"][0, 0])
    assert tensors["numbers"][:, 1].tolist() == [7.0, 2.0]
    assert tensors["categories"].tolist() == [[""], ["x"]]
    with pytest.raises(DataError, match="missing: b"):
        plan.tensors(pl.DataFrame({"a": [1.0], "c": ["x"]}))


def test_labels_by_bound_by_flag_and_neither():
    frame = pl.DataFrame({"delay": [14.9, 15.0, 99.0], "flag": [True, False, True], "odd": [0, 1, 2]})
    assert labels(frame, PROJECT).tolist() == [0, 1, 1]
    flag = msgspec.structs.replace(PROJECT, label=Label(column="flag"))
    assert labels(frame, flag).tolist() == [1, 0, 1]
    with pytest.raises(DataError, match="more than 0 and 1"):
        labels(frame, msgspec.structs.replace(PROJECT, label=Label(column="odd")))


@pytest.fixture(scope="module")
def snapshot(settings: Settings, tables: Tables) -> SnapshotResult:
    return take_snapshot(settings, PROJECT, Window("2013-01-01", "2013-03-02"), source=tables)


@pytest.fixture(scope="module")
def learned(settings: Settings, snapshot: SnapshotResult, objects: ObjectStore):
    frame = read_rows(objects, snapshot.uri, snapshot.digest)
    plan = plan_inputs(PROJECT, SERVICE)
    return plan, plan.tensors(frame), labels(frame, PROJECT)


@pytest.mark.parametrize("kind", ["boosting", "logistic"])
def test_two_fits_are_equal_and_export_to_equal_bytes(learned, kind):
    plan, tensors, label = learned
    config = ModelConfig(kind=kind, rounds=20)
    contract = ModelContract(name="late", inputs=plan.tensor_inputs(), outputs=(), feature_service=SERVICE)
    first, second = (fit(config, plan, tensors, label) for _ in range(2))
    assert (first.probability(tensors) == second.probability(tensors)).all()
    assert with_contract(export(first), contract) == with_contract(export(second), contract)


def test_lowered_thresholds_take_the_native_branch_on_rows_at_the_edge(learned):
    """A row on the threshold itself, and one float to each side of it: the branch is the native one's."""
    plan, tensors, label = learned
    native = fit(ModelConfig(rounds=20), plan, tensors, label)
    session = onnxruntime.InferenceSession(export(native).SerializeToString())
    thresholds = np.unique(
        np.concatenate(
            [
                predictor.nodes["num_threshold"][predictor.nodes["is_leaf"] == 0]
                for predictors in native.estimator._predictors
                for predictor in predictors
            ]
        )
    ).astype(np.float32)
    edges = np.concatenate(
        [
            thresholds,
            np.nextafter(thresholds, np.float32(np.inf)),
            np.nextafter(thresholds, np.float32(-np.inf)),
        ]
    )
    rows = {name: np.repeat(matrix[:1], len(edges), axis=0) for name, matrix in tensors.items()}
    for place in range(rows["numbers"].shape[1]):
        fed = {name: matrix.copy() for name, matrix in rows.items()}
        fed["numbers"][:, place] = edges
        found = session.run(None, fed)[0][:, 0]
        assert np.abs(found - native.probability(fed)).max() < 1e-6


def test_the_baseline_counts_every_row_of_every_input(learned):
    plan, tensors, label = learned
    baseline = measure(plan, tensors, np.linspace(0, 1, 100))
    assert [feature.name for feature in baseline.features] == list(plan.columns)
    assert {sum(feature.shape) for feature in baseline.features} == {len(label)}
    assert baseline.rows == len(label)
    by_name = {feature.name: feature for feature in baseline.features}
    assert by_name["carrier"].values[0] == "UA"
    gaps = int(np.isnan(tensors["numbers"][:, 1]).sum())
    assert by_name["carrier_delays__mean"].missing == gaps > 0
    assert sum(baseline.outputs[0].counts) == 100
    assert max(baseline.outputs[0].counts) <= 11


@pytest.fixture(scope="module")
def candidate(settings: Settings, snapshot: SnapshotResult) -> Candidate:
    return train(settings, PROJECT, snapshot, TrainConfig(model=ModelConfig(rounds=25)))


def test_a_candidate_carries_its_contract_and_is_found_again(settings, snapshot, candidate, objects):
    model = onnx.load_from_string(candidate.model(objects))
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    contract = check_agreement(candidate.read(objects, "contract.json"), metadata, where=candidate.uri)
    assert contract.snapshot == snapshot.reference
    assert contract.origin is not None
    assert contract.origin.run_id == candidate.record.run_id
    assert contract.feature_service == SERVICE
    assert METADATA_KEY in metadata
    again = train(settings, PROJECT, snapshot, TrainConfig(model=ModelConfig(rounds=25)))
    assert again == candidate


def test_training_elsewhere_gives_equal_metrics_and_equal_bytes_but_for_the_run(
    settings, tables, snapshot, candidate, objects
):
    """The same inputs in another bucket, so that nothing is remembered."""
    other = msgspec.structs.replace(settings, s3=msgspec.structs.replace(settings.s3, bucket="elsewhere"))
    make_client(other.s3).create_bucket(Bucket="elsewhere")
    tables.upload(ObjectStore.from_settings(other), bucket="elsewhere")
    taken = take_snapshot(other, PROJECT, Window("2013-01-01", "2013-03-02"), source=tables)
    assert taken.digest == snapshot.digest
    there = train(other, PROJECT, taken, TrainConfig(model=ModelConfig(rounds=25)))
    assert there.record.run_id != candidate.record.run_id
    assert there.record.metrics == candidate.record.metrics
    assert there.record.threshold == candidate.record.threshold
    assert there.baseline(ObjectStore.from_settings(other)) == candidate.baseline(objects)
    bare = [
        with_contract(onnx.load_from_string(raw), ModelContract(name="late", inputs=(), outputs=()))
        for raw in (candidate.model(objects), there.model(ObjectStore.from_settings(other)))
    ]
    assert bare[0] == bare[1]


def test_a_training_that_was_killed_before_its_record_is_done_again(settings, snapshot, objects):
    config = TrainConfig(model=ModelConfig(kind="logistic", strength=0.5))
    killed = train(settings, PROJECT, snapshot, config)
    objects.delete(killed.uri + "training.json")  # all files there, the marker not yet
    again = train(settings, PROJECT, snapshot, config)
    assert again.uri == killed.uri
    assert again.record.folder != killed.record.folder
    assert again.record.metrics == killed.record.metrics


def test_the_run_in_mlflow_has_parameters_metrics_and_pictures(settings, candidate):
    from components.tracking import open_tracking

    client = open_tracking(settings)
    run = client.get_run(candidate.record.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["model.kind"] == "boosting"
    assert run.data.metrics["validation_roc_auc"] == pytest.approx(
        candidate.record.metrics["validation_roc_auc"]
    )
    assert {item.path for item in client.list_artifacts(run.info.run_id)} >= {
        "validation.png",
        "environment.txt",
    }


def test_an_empty_window_is_inconclusive(settings, tables):
    with pytest.raises(GateNotPassed, match="data is inconclusive: no labelled row between 2019-01-01"):
        take_snapshot(settings, PROJECT, Window("2019-01-01", "2019-02-01"), source=tables)


@pytest.mark.parametrize("kind", ["boosting", "logistic"])
def test_the_graph_asks_for_operators_that_old_runtimes_have(kind, settings, objects, snapshot):
    """What KServe's own images ship reads opset 18 and ML opset 3; a newer one would be refused there."""
    candidate = train(settings, PROJECT, snapshot, TrainConfig(model=ModelConfig(kind=kind, rounds=3)))
    model = onnx.load_from_string(candidate.model(objects))
    asked = {item.domain: item.version for item in model.opset_import}
    assert set(asked) == {"", "ai.onnx.ml"}
    assert asked[""] <= 18
    assert asked["ai.onnx.ml"] <= 3
    assert {node.domain for node in model.graph.node} <= set(asked)
    assert model.ir_version <= 10
