"""Another question on other data takes a project, and no change to any component."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from sklearn.datasets import load_breast_cancer

from components.evaluate import evaluate
from components.snapshot import Window, take_snapshot, to_parquet
from components.snapshot.manifest import SourceFile, ViewSource
from components.train import ModelConfig, TrainConfig, train
from components.verify import verify
from slipway.contract import FeatureService, View, ViewField
from slipway.errors import SettingsError
from slipway.objects import ObjectStore
from slipway.project import Budget, Floors, Label, Project, RequestField, Slice, load_project
from slipway.settings import Settings

START = datetime(2020, 1, 1, tzinfo=UTC)
MEASURED = 10

PROJECT = Project(
    name="tumour",
    title="Is this tumour benign?",
    feature_service="measurements",
    rows="tumours/rows",
    key=("patient",),
    entities=("patient",),
    label=Label(column="benign", meaning="benign"),
    request_fields=(RequestField(name="size", kind="category", default="unknown"),),
    slices=(Slice(column="size"),),
    floors=Floors(roc_auc=0.9, rows=100, calibration_error=0.2),
    budget=Budget(milliseconds=50.0),
)


class Measurements:
    """One view, keyed by patient, measured an hour before the question."""

    def __init__(self) -> None:
        data = load_breast_cancer()
        # Standard deviation of the second ten columns: the first ten alone already tell nearly everything.
        self.names = [name.replace(" ", "_") for name in data.feature_names[MEASURED : 2 * MEASURED]]
        count = len(data.target)
        asked = [START + timedelta(hours=6 * row) for row in range(count)]
        patients = [f"P{row:04d}" for row in range(count)]
        self.rows = pl.DataFrame(
            {
                "event_timestamp": asked,
                "patient": patients,
                "size": np.where(data.data[:, 0] > 14, "large", "small"),
                "benign": data.target.astype(bool),
            }
        )
        values = {name: data.data[:, MEASURED + place] for place, name in enumerate(self.names)}
        self.view = pl.DataFrame(
            {"patient": patients, "measured": [time - timedelta(hours=1) for time in asked], **values}
        )

    def service(self) -> FeatureService:
        fields = tuple(ViewField(name, "Float64") for name in self.names)
        view = View("errors", {"patient": "patient"}, {"patient": "String"}, fields, ttl_seconds=86400.0)
        return FeatureService("measurements", "slipway", "1" * 64, (view,))

    def sources(self, objects: ObjectStore) -> tuple[ViewSource, ...]:
        files = tuple(
            SourceFile(info.uri, info.size, info.etag) for info in objects.list("s3://slipway/tumours/errors")
        )
        columns = {name: f"errors__{name}" for name in self.names}
        path = "s3://slipway/tumours/errors"
        return (
            ViewSource("errors", path, files, {"patient": "patient"}, columns, "measured", None, 86400.0),
        )

    def join(self, rows: pl.DataFrame) -> pl.DataFrame:
        named = self.view.drop("measured").rename({name: f"errors__{name}" for name in self.names})
        return rows.join(named, on="patient", how="left", maintain_order="left")


@pytest.fixture(scope="module")
def measurements(settings: Settings, objects: ObjectStore) -> Measurements:
    made = Measurements()
    objects.put("s3://slipway/tumours/rows/all.parquet", to_parquet(made.rows))
    objects.put("s3://slipway/tumours/errors/all.parquet", to_parquet(made.view))
    return made


@pytest.mark.parametrize("kind", ["boosting", "logistic"])
def test_another_data_set_goes_from_rows_to_a_verified_version(settings, objects, measurements, kind):
    end = (START + timedelta(hours=6 * len(measurements.rows))).isoformat()
    snapshot = take_snapshot(settings, PROJECT, Window(START.isoformat(), end), source=measurements)
    assert snapshot.rows == 569
    candidate = train(settings, PROJECT, snapshot, TrainConfig(model=ModelConfig(kind=kind, rounds=40)))
    evaluation = evaluate(settings, PROJECT, candidate, random_split=False)
    assert evaluation.challenger.metrics["roc_auc"].value > 0.9
    verified = verify(settings, PROJECT, candidate, evaluation, online=False)
    assert {gate.verdict for gate in verified.gates} == {"pass"}
    assert candidate.contract(objects).inputs[1].columns[0].default == "unknown"


def test_a_project_is_found_by_its_name_and_others_are_named(settings):
    assert load_project(settings).name == "flight-delay"
    assert load_project(settings, "LATE_30").label.at_least == 30.0
    with pytest.raises(SettingsError, match="use one of: LATE_30, PROJECT"):
        load_project(settings, "LATE_45")
    with pytest.raises(SettingsError, match="no module nowhere"):
        load_project(settings, "nowhere:PROJECT")


def test_a_project_that_contradicts_itself_is_refused():
    with pytest.raises(ValueError, match="entity_inputs names plane"):
        Project(
            name="x",
            title="?",
            feature_service="x",
            rows="x",
            key=("a",),
            entities=("a",),
            entity_inputs=("plane",),
            label=Label(column="y"),
        )
