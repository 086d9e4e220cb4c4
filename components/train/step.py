"""The train step, as pipelines call it: text in, text out."""

from __future__ import annotations

from pathlib import Path

import msgspec

from components.snapshot import read_manifest
from components.snapshot.manifest import result_of
from components.stepping import step
from components.train.candidate import Candidate
from components.train.component import TrainConfig, train
from slipway.contract import MODEL_FILE
from slipway.errors import SettingsError
from slipway.objects import ObjectStore
from slipway.project import load_project


def read_config(text: str) -> TrainConfig:
    """The configuration from JSON; empty text is the default."""
    try:
        return msgspec.json.decode(text or "{}", type=TrainConfig)
    except msgspec.MsgspecError as error:
        fields = "; ".join(
            f"{part.name} has {', '.join(field.name for field in msgspec.structs.fields(part.type))}"
            for part in msgspec.structs.fields(TrainConfig)
        )
        raise SettingsError(
            f"not a training configuration: {error}",
            where=f"config {text!r}",
            fix=f'write JSON such as {{"model": {{"kind": "boosting", "rounds": 160}}}}; {fields}',
        ) from error


def run(project: str, snapshot: str, config: str, *, model: str) -> str:
    """Train; the candidate's address. `model` is the file that KFP keeps as an artifact."""
    with step("train") as this:
        objects = ObjectStore.from_settings(this.settings)
        taken = result_of(snapshot, read_manifest(objects, snapshot), created=False)
        candidate = train(
            this.settings, load_project(this.settings, project), taken, read_config(config), objects=objects
        )
        Path(model).parent.mkdir(parents=True, exist_ok=True)
        Path(model).write_bytes(candidate.read(objects, MODEL_FILE))
        return this.answer(candidate.uri, _summary(candidate))


def _summary(candidate: Candidate) -> str:
    record = candidate.record
    score = record.metrics.get("validation_roc_auc")
    judged = "" if score is None else f", ROC AUC {score:.4f} on the validation rows"
    return f"{record.model.kind} on {record.rows['training'] + record.rows['validation']:,} rows{judged}"
