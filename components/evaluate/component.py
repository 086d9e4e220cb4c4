"""Judge a model on rows it has never seen, beside the champion, and draw what was found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import polars as pl

from components.evaluate.evaluation import EVALUATION_FILE, Evaluation, SplitScore, read_evaluation
from components.evaluate.report import render
from components.evaluate.scores import RESAMPLES, Scores, score
from components.gates import answer, require_pass
from components.inputs import missing_columns
from components.labels import labels
from components.metrics import Scored, interval, resamples
from components.onnx_model import OnnxModel
from components.provenance import content_key
from components.snapshot import SnapshotResult, read_rows
from components.tracking import open_tracking
from components.train import Candidate, fit, random_rows, take
from slipway.contract import CONTRACT_FILE, MODEL_FILE, REPORT_FILE, ModelContract, check_agreement
from slipway.errors import ObjectError
from slipway.objects import ObjectStore, publish
from slipway.project import Project
from slipway.registry import ModelVersion, Registry
from slipway.settings import Settings
from slipway.source_code import code_digest


def evaluate(
    settings: Settings,
    project: Project,
    candidate: Candidate,
    *,
    objects: ObjectStore | None = None,
    champion: ModelVersion | None = None,
    random_split: bool = True,
) -> Evaluation:
    """The candidate on its test rows, beside `champion` (by default the registry's) and a random split.

    The random split fits the same model again, which takes as long as training did.
    """
    objects = objects or ObjectStore.from_settings(settings)
    record = candidate.record
    champion = champion or Registry(settings).champion(project.name)
    key = content_key(
        project, record.key, record.run_id, champion.digest if champion else "", random_split, _code()
    )
    prefix = settings.uri("evaluations", project.name, key) + "/"
    if objects.head(prefix + EVALUATION_FILE) is not None:
        return read_evaluation(objects, prefix)

    frame = read_rows(objects, record.snapshot_uri, record.snapshot_digest)
    times = frame[project.event_time].dt.to_string("iso:strict")
    test = frame.filter(pl.lit(np.arange(len(frame)) >= len(frame) - record.rows["test"]))
    model = OnnxModel(candidate.model(objects), candidate.contract(objects))
    evaluation = _judge(settings, project, prefix, test, model, champion, objects, seed=record.split.seed)
    splits: tuple[SplitScore, ...] = ()
    if random_split:
        learned = record.rows["training"] + record.rows["validation"]
        ordered = SplitScore(
            f"by time: test from {times[len(frame) - record.rows['test']][:16]}",
            True,
            learned,
            len(test),
            evaluation.challenger.metrics["roc_auc"],
        )
        splits = (ordered, _random_split(project, candidate, frame))
    made_from = {
        "candidate": candidate.uri,
        "snapshot": f"{record.snapshot_uri} ({record.snapshot_digest})",
        "run": record.run_id,
        "model": msgspec.json.encode(record.model).decode(),
        "features": f"{len(record.plan.columns)} inputs, service {project.feature_service}",
    }
    evaluation = msgspec.structs.replace(evaluation, splits=splits, made_from=made_from)
    _publish(objects, project, evaluation)
    _track(settings, record.run_id, evaluation, project)
    return evaluation


def evaluate_version(
    settings: Settings,
    project: Project,
    version: ModelVersion,
    snapshot: SnapshotResult,
    *,
    objects: ObjectStore | None = None,
) -> Evaluation:
    """A registered version on all rows of a snapshot, beside the champion where that is another one."""
    objects = objects or ObjectStore.from_settings(settings)
    champion = Registry(settings).champion(project.name)
    if champion is not None and champion.digest == version.digest:
        champion = None
    key = content_key(project, version.digest, snapshot.digest, champion.digest if champion else "", _code())
    prefix = settings.uri("evaluations", project.name, key) + "/"
    if objects.head(prefix + EVALUATION_FILE) is not None:
        return read_evaluation(objects, prefix)
    frame = read_rows(objects, snapshot.uri, snapshot.digest)
    model = open_version(objects, version)
    evaluation = _judge(settings, project, prefix, frame, model, champion, objects, seed=0)
    made_from = {
        "version": f"{version.name} {version.version} ({version.digest})",
        "snapshot": f"{snapshot.uri} ({snapshot.digest})",
    }
    evaluation = msgspec.structs.replace(evaluation, made_from=made_from)
    _publish(objects, project, evaluation)
    return evaluation


def open_version(objects: ObjectStore, version: ModelVersion) -> OnnxModel:
    """A registered version's model, if the contract inside it and the one beside it agree."""
    folder = version.uri.rstrip("/") + "/"
    model = objects.get(folder + MODEL_FILE)
    opened = OnnxModel(model, ModelContract(name=version.name, inputs=(), outputs=()))
    metadata: Mapping[str, str] = opened.session.get_modelmeta().custom_metadata_map
    opened.contract = check_agreement(objects.get(folder + CONTRACT_FILE), metadata, where=folder)
    return opened


def _judge(
    settings: Settings,
    project: Project,
    uri: str,
    frame: pl.DataFrame,
    model: OnnxModel,
    champion: ModelVersion | None,
    objects: ObjectStore,
    *,
    seed: int,
) -> Evaluation:
    label = labels(frame, project)
    positives = int(label.sum())
    if positives in (0, len(label)):
        reason = f"{len(label)} rows, {positives} of them {project.label.meaning}: nothing can be judged"
        require_pass([answer("quality", "inconclusive", reason, {"rows": len(label)})], where=uri)
    answers = model.answer_rows(frame)
    other: np.ndarray[Any, Any] | None = None
    other_threshold: float | None = None
    note, comparable = "There is no champion yet.", True
    if champion is not None:
        note = f"Version {champion.version} ({champion.digest[:12]})."
        other, other_threshold, trouble = _ask_champion(objects, champion, frame)
        if trouble:
            note, comparable = f"{note} It could not be asked about these rows: {trouble}", False
    challenger = score(
        project,
        label,
        answers,
        threshold=model.contract.threshold,
        seed=seed,
        frame=frame,
        champion=other,
    )
    beside: Scores | None = None
    if other is not None:
        beside = score(project, label, other, threshold=other_threshold, seed=seed, resample=False)
    times = frame[project.event_time]
    return Evaluation(
        uri=uri,
        name=project.name,
        start=str(times.min()),
        end=str(times.max()),
        challenger=challenger,
        champion=beside,
        champion_note=note,
        champion_digest=champion.digest if champion else "",
        comparable=comparable,
    )


def _ask_champion(
    objects: ObjectStore, champion: ModelVersion, frame: pl.DataFrame
) -> tuple[np.ndarray[Any, Any] | None, float | None, str]:
    try:
        model = open_version(objects, champion)
    except ObjectError as error:
        return None, None, str(error)
    missing = missing_columns(model.contract.inputs, frame)
    if missing:
        return None, None, f"it eats {', '.join(missing)}, which this snapshot does not have"
    return model.answer_rows(frame), model.contract.threshold, ""


def _random_split(project: Project, candidate: Candidate, frame: pl.DataFrame) -> SplitScore:
    """The same model and rounds, learned from and judged on rows that are mixed in time."""
    record = candidate.record
    label = labels(frame, project)
    tensors = record.plan.tensors(frame)
    learned, judged = random_rows(len(frame), record.split)
    config = msgspec.structs.replace(record.model, rounds=max(record.rounds, 1))
    native = fit(config, record.plan, take(tensors, learned), label[learned])
    scored = Scored(label[judged], native.probability(take(tensors, judged)))
    draws = [scored.ranking(weights) for weights in resamples(len(scored), RESAMPLES, record.split.seed)]
    found = interval(scored.ranking(), draws)
    return SplitScore("at random", False, len(learned), len(judged), found)


def _publish(objects: ObjectStore, project: Project, evaluation: Evaluation) -> None:
    files = {
        REPORT_FILE: render(project, evaluation).encode(),
        EVALUATION_FILE: msgspec.json.encode(evaluation),
    }
    publish(objects, evaluation.uri, files, marker=EVALUATION_FILE)


def _track(settings: Settings, run_id: str, evaluation: Evaluation, project: Project) -> None:
    client = open_tracking(settings)
    for name, value in evaluation.metrics().items():
        client.log_metric(run_id, name, value)
    client.log_text(run_id, render(project, evaluation), REPORT_FILE)


def _code() -> str:
    return code_digest("components/evaluate", "components/metrics.py", "components/train/models.py")
