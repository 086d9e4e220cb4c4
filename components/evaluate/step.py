"""The evaluate step, as pipelines call it: the report, the numbers and the curves that KFP shows."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from components.evaluate.component import evaluate, evaluate_version
from components.evaluate.evaluation import Evaluation, read_evaluation
from components.evaluate.published import against_published
from components.gates import require_pass
from components.snapshot import read_manifest
from components.snapshot.manifest import result_of
from components.stepping import step
from components.train.candidate import read_candidate
from slipway.contract import REPORT_FILE
from slipway.objects import ObjectStore
from slipway.project import Project, load_project
from slipway.registry import Registry


class MetricsArtifact(Protocol):
    """KFP's Metrics."""

    def log_metric(self, metric: str, value: float) -> None: ...


class CurvesArtifact(Protocol):
    """KFP's ClassificationMetrics."""

    def log_roc_curve(self, fpr: list[float], tpr: list[float], threshold: list[float]) -> None: ...

    def log_confusion_matrix(self, categories: list[str], matrix: list[list[int]]) -> None: ...


def run(
    project: str, candidate: str, *, report: str, metrics: MetricsArtifact, curves: CurvesArtifact
) -> str:
    """Judge a candidate beside the champion; the evaluation's address. KFP shows what is drawn."""
    with step("evaluate") as this:
        objects = ObjectStore.from_settings(this.settings)
        described = load_project(this.settings, project)
        evaluation = evaluate(this.settings, described, read_candidate(objects, candidate), objects=objects)
        _show(objects, evaluation, described, Path(report), metrics, curves)
        return this.answer(evaluation.uri, _summary(evaluation))


def run_version(
    project: str,
    version: str,
    snapshot: str,
    *,
    report: str,
    metrics: MetricsArtifact,
    curves: CurvesArtifact,
) -> str:
    """Judge a registered version on all rows of a snapshot; the evaluation's address."""
    with step("evaluate") as this:
        objects = ObjectStore.from_settings(this.settings)
        described = load_project(this.settings, project)
        evaluation = evaluate_version(
            this.settings,
            described,
            Registry(this.settings).find(described.name, version),
            result_of(snapshot, read_manifest(objects, snapshot), created=False),
            objects=objects,
        )
        _show(objects, evaluation, described, Path(report), metrics, curves)
        return this.answer(evaluation.uri, _summary(evaluation))


def run_published(project: str, evaluation: str) -> str:
    """Whether an evaluation beats what others published, by time and at random; what it says of them."""
    with step("published") as this:
        described = load_project(this.settings, project)
        found = read_evaluation(ObjectStore.from_settings(this.settings), evaluation)
        result = against_published(described, found)
        require_pass([result], where=described.name)
        return this.answer(result.reason, result.reason)


def _summary(evaluation: Evaluation) -> str:
    scores = evaluation.challenger
    area = scores.metrics["roc_auc"]
    told = f"ROC AUC {area.value:.4f} ({area.low:.4f} to {area.high:.4f}) on {scores.rows:,} later rows"
    against = scores.against_champion.get("roc_auc")
    return told if against is None else f"{told}, champion {against.champion:.4f}"


def _show(
    objects: ObjectStore,
    evaluation: Evaluation,
    project: Project,
    report: Path,
    metrics: MetricsArtifact,
    curves: CurvesArtifact,
) -> None:
    report.parent.mkdir(parents=True, exist_ok=True)
    report.write_bytes(objects.get(evaluation.uri + REPORT_FILE))
    scores = evaluation.challenger
    for name, value in evaluation.metrics().items():
        metrics.log_metric(name, value)
    # KFP draws by the three lists; a threshold for each point is asked for, and only shown on hovering.
    count = len(scores.roc)
    curves.log_roc_curve(
        [point.x for point in scores.roc],
        [point.y for point in scores.roc],
        [1.0 - number / max(1, count - 1) for number in range(count)],
    )
    at = scores.at_threshold
    if at is not None:
        curves.log_confusion_matrix(
            [f"not {project.label.meaning}", project.label.meaning],
            [[at.true_negatives, at.false_positives], [at.false_negatives, at.true_positives]],
        )
