"""Fit, export, and describe a model: everything that a later step needs lies in one folder."""

from __future__ import annotations

import hashlib
import io
from datetime import UTC
from typing import Any

import msgspec
import numpy as np
import polars as pl

from components.gates import answer, require_pass
from components.inputs import InputPlan, Tensors, plan_inputs
from components.labels import labels
from components.metrics import Scored, best_threshold
from components.provenance import content_key, git_commit, libraries
from components.runs import end_abandoned, working_on
from components.snapshot import SnapshotResult, read_manifest, read_rows
from components.tracking import experiment, open_tracking
from components.train import baseline, graph
from components.train.candidate import NATIVE_FILE, RECORD_FILE, Candidate, TrainingRecord, read_candidate
from components.train.models import ModelConfig, Native, fit, rounds_used
from components.train.split import Parts, SplitConfig, time_ordered
from components.train.tracked import log_training
from slipway.contract import BASELINE_FILE, CONTRACT_FILE, MODEL_FILE, ModelContract, Origin
from slipway.errors import ObjectConflict
from slipway.objects import ObjectStore, publish
from slipway.project import Project
from slipway.settings import Settings
from slipway.source_code import code_digest


class TrainConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    model: ModelConfig = ModelConfig()
    split: SplitConfig = SplitConfig()


class Fitted(msgspec.Struct, frozen=True):
    """What fitting alone gives: no S3, no MLflow. The sweep compares these."""

    native: Native
    parts: Parts
    threshold: float
    metrics: dict[str, float]
    rounds: int
    held_out: np.ndarray[Any, Any]
    """Answers of the model without the validation rows, on them."""


def fit_parts(
    config: TrainConfig,
    plan: InputPlan,
    tensors: Tensors,
    label: np.ndarray[Any, Any],
    parts: Parts,
    project: Project,
) -> Fitted:
    """Fit on the training rows, learn on the validation rows when to stop and where the threshold lies,
    then fit again on both: the newest rows are the likest to those that come next."""
    costs = project.costs
    held = (take(tensors, parts.validation), label[parts.validation])
    first = fit(config.model, plan, take(tensors, parts.training), label[parts.training], validation=held)
    held_out = first.probability(held[0])
    scored = Scored(held[1], held_out)
    threshold, cost = best_threshold(scored, costs.false_alarm, costs.miss)
    rounds = rounds_used(first, config.model)
    again = msgspec.structs.replace(config.model, rounds=max(rounds, 1))
    native = fit(again, plan, take(tensors, parts.development), label[parts.development])
    metrics = {f"validation_{name}": value for name, value in scored.metrics().items()}
    return Fitted(native, parts, threshold, metrics | {"validation_cost": cost}, rounds, held_out)


def take(tensors: Tensors, rows: np.ndarray[Any, Any]) -> Tensors:
    return {name: matrix[rows] for name, matrix in tensors.items()}


def train(
    settings: Settings,
    project: Project,
    snapshot: SnapshotResult,
    config: TrainConfig = TrainConfig(),  # noqa: B008 (frozen)
    *,
    objects: ObjectStore | None = None,
) -> Candidate:
    """A candidate: ONNX model, contract, drift baseline and native pipeline under one content-keyed prefix.

    The same snapshot, project, configuration, code and libraries have the same prefix: then the candidate
    that is there is answered, with the run that made it.
    """
    objects = objects or ObjectStore.from_settings(settings)
    client = open_tracking(settings)
    place = experiment(client, settings)
    end_abandoned(client, place.experiment_id)
    key = content_key(
        project,
        snapshot.digest,
        config,
        code_digest(
            "components/train", "components/inputs.py", "components/metrics.py", "components/labels.py"
        ),
        libraries(),
        # A run that a lost tracking store took along is no provenance: train again there.
        [place.experiment_id, place.creation_time],
    )
    prefix = settings.uri("candidates", project.name, key) + "/"
    if objects.head(prefix + RECORD_FILE) is not None:
        return read_candidate(objects, prefix)

    manifest = read_manifest(objects, snapshot.uri)
    frame = read_rows(objects, snapshot.uri, snapshot.digest)
    label = labels(frame, project)
    _enough(project, frame, label, snapshot.uri)
    plan = plan_inputs(project, manifest.service)
    tensors = plan.tensors(frame)
    times = frame[project.event_time]
    parts = time_ordered(times, config.split, known_after_hours=project.label.known_after_hours)
    title = f"{project.name} {config.model.kind}"
    with working_on(client, place.experiment_id, title, {"slipway.candidate": key}) as run:
        fitted = fit_parts(config, plan, tensors, label, parts, project)
        contract = ModelContract(
            name=project.name,
            inputs=plan.tensor_inputs(),
            outputs=(graph.PROBABILITY,),
            threshold=fitted.threshold,
            feature_service=manifest.service,
            snapshot=snapshot.reference,
            origin=Origin(
                run.info.run_id, git_commit(), settings.pipelines.image if settings.profile != "local" else ""
            ),
            metrics=fitted.metrics,
            libraries=libraries(),
        )
        measured = baseline.measure(plan, take(tensors, parts.development), fitted.held_out)
        files = {
            MODEL_FILE: graph.with_contract(graph.export(fitted.native), contract),
            CONTRACT_FILE: contract.to_json(),
            BASELINE_FILE: measured.to_json(),
            NATIVE_FILE: _pickled(fitted.native),
        }
        record = TrainingRecord(
            folder=f"{prefix}{run.info.run_id}/",
            name=project.name,
            key=key,
            run_id=run.info.run_id,
            snapshot_uri=snapshot.uri,
            snapshot_digest=snapshot.digest,
            model=config.model,
            split=config.split,
            plan=plan,
            test_from=_text(times[int(parts.test[0])]),
            rows={name: len(getattr(parts, name)) for name in ("training", "validation", "test")},
            rounds=fitted.rounds,
            threshold=fitted.threshold,
            metrics=fitted.metrics,
            digests={name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
        )
        log_training(client, record, fitted, label[parts.validation], len(files[MODEL_FILE]))
        publish(objects, record.folder, files, marker=CONTRACT_FILE)
    try:
        objects.put(prefix + RECORD_FILE, msgspec.json.encode(record), if_absent=True)
    except ObjectConflict:
        return read_candidate(objects, prefix)
    return Candidate(prefix, record)


def _enough(project: Project, frame: pl.DataFrame, label: np.ndarray[Any, Any], where: str) -> None:
    positives = int(label.sum())
    if len(frame) < 20 or positives in (0, len(label)):
        reason = f"{len(frame)} rows, {positives} of them {project.label.meaning}: nothing can be learned"
        require_pass([answer("data", "inconclusive", reason, {"rows": len(frame)})], where=where)


def _pickled(native: Native) -> bytes:
    import joblib

    buffer = io.BytesIO()
    joblib.dump(native, buffer, compress=3)
    return buffer.getvalue()


def _text(moment: Any) -> str:
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return str(aware.isoformat())
