"""A definition of one's own against figures that others published for the same question."""

from __future__ import annotations

from components.evaluate.evaluation import Evaluation
from components.gates import answer
from slipway.contract import GateResult
from slipway.project import Project


def against_published(project: Project, evaluation: Evaluation) -> GateResult:
    """Both splits, by time and at random, must surely beat every published figure."""
    gate = "published"
    facts = {split.title: split.roc_auc for split in evaluation.splits}
    if not project.published or len(evaluation.splits) < 2:
        missing = "figure" if not project.published else "split at random"
        return answer(gate, "inconclusive", f"there is no {missing} to compare with", facts)
    beaten: list[str] = []
    for published in project.published:
        for split in evaluation.splits:
            found = split.roc_auc
            told = f"{split.title} {found.value:.4f} ({found.low:.4f} to {found.high:.4f})"
            against = f"ROC AUC {published.roc_auc:.3f} ({published.title})"
            if not found.value > published.roc_auc:
                return answer(gate, "fail", f"{told} does not beat {against}", facts)
            if not found.low > published.roc_auc:
                return answer(gate, "inconclusive", f"{told} does not surely beat {against}", facts)
            beaten.append(told)
    figures = ", ".join(f"{published.roc_auc:.3f}" for published in project.published)
    return answer(gate, "pass", f"{' and '.join(beaten)} beat {figures}", facts)
