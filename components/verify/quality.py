"""Is the model good enough, and not worse than the one that serves?"""

from __future__ import annotations

from components.evaluate import Evaluation
from components.gates import answer
from components.verify.checks import Evidence, check
from slipway.contract import GateResult

SLICE_DROP = 0.05
"""How much ROC AUC below the champion's a group may surely fall."""
NEGLIGIBLE_RANKING = 0.001
"""Of ROC AUC: less is no reason to keep a model back, however sure it is on many rows."""
NEGLIGIBLE_LOSS = 0.002
"""Of the champion's log loss, as a share of it."""


def _evaluation(evidence: Evidence) -> Evaluation:
    assert evidence.evaluation is not None  # noqa: S101 - the registry asks for it before the check runs
    return evidence.evaluation


@check("quality", "floor", needs=["evaluation"])
def floor(evidence: Evidence) -> GateResult:
    """On the time-ordered test rows the model reaches the project's floors."""
    floors = evidence.project.floors
    metrics = _evaluation(evidence).challenger.metrics
    ranking, calibration = metrics["roc_auc"], metrics["calibration_error"]
    facts = {
        "roc_auc": ranking,
        "roc_auc_floor": floors.roc_auc,
        "calibration_error": calibration.value,
        "calibration_error_bound": floors.calibration_error,
    }
    if ranking.value != ranking.value:
        return answer("", "inconclusive", "the test rows have one class only", facts)
    if ranking.value < floors.roc_auc:
        return answer("", "fail", f"ROC AUC is {ranking.value:.4f}, the floor {floors.roc_auc}", facts)
    if calibration.value > floors.calibration_error:
        reason = f"the calibration error is {calibration.value:.4f}, the bound {floors.calibration_error}"
        return answer("", "fail", reason, facts)
    reason = f"ROC AUC {ranking.value:.4f} ({ranking.low:.4f} to {ranking.high:.4f}), floor {floors.roc_auc}"
    return answer("", "pass", reason, facts)


@check("quality", "champion", needs=["evaluation"])
def champion(evidence: Evidence) -> GateResult:
    """On the same rows the model is not surely worse than the champion, by more than what is negligible."""
    evaluation = _evaluation(evidence)
    if not evaluation.champion_digest:
        return answer("", "pass", "there is no champion to beat")
    if not evaluation.comparable:
        return answer("", "inconclusive", evaluation.champion_note)
    against = evaluation.challenger.against_champion
    ranking, loss = against["roc_auc"], against["log_loss"]
    margins = {"roc_auc": NEGLIGIBLE_RANKING, "log_loss": NEGLIGIBLE_LOSS * loss.champion}
    facts = {"roc_auc": ranking, "log_loss": loss, "negligible": margins}
    worse_by = {"roc_auc": -ranking.difference.value, "log_loss": loss.difference.value}
    at_least = {"roc_auc": -ranking.difference.high, "log_loss": loss.difference.low}
    worse = [name for name in margins if at_least[name] > 0 and worse_by[name] > margins[name]]
    name = worse[0] if worse else "roc_auc"
    told = against[name].difference
    reason = f"{name} differs by {told.value:+.4f} ({told.low:+.4f} to {told.high:+.4f}) from the champion's"
    return answer("", "fail" if worse else "pass", reason, facts)


@check("quality", "groups", needs=["evaluation"])
def groups(evidence: Evidence) -> GateResult:
    """No group of rows has collapsed behind a good average."""
    lowest = evidence.project.floors.slice_roc_auc
    judged = [item for item in _evaluation(evidence).challenger.slices if item.judged]
    collapsed = [item for item in judged if item.roc_auc.high < lowest]
    fallen = [
        item
        for item in judged
        if item.champion_roc_auc is not None and item.roc_auc.high < item.champion_roc_auc - SLICE_DROP
    ]
    facts = {"judged": len(judged), "floor": lowest, "collapsed": collapsed, "fallen_behind": fallen}
    if collapsed or fallen:
        told = "; ".join(
            f"{item.column} {item.group}: {item.roc_auc.value:.3f} ({item.roc_auc.low:.3f} to "
            f"{item.roc_auc.high:.3f})"
            for item in (collapsed + fallen)[:5]
        )
        why = f"below {lowest}" if collapsed else "far behind the champion"
        return answer("", "fail", f"groups {why}: {told}", facts)
    if not judged:
        return answer("", "pass", "no group has enough rows to be judged by itself", facts)
    worst = min(judged, key=lambda item: item.roc_auc.value)
    reason = f"{len(judged)} groups; the weakest, {worst.column} {worst.group}, has {worst.roc_auc.value:.3f}"
    return answer("", "pass", reason, facts)
