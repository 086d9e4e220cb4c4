from __future__ import annotations

import msgspec
import pytest

from components.evaluate.evaluation import Evaluation, SplitScore
from components.evaluate.published import against_published
from components.evaluate.scores import Scores
from components.metrics import Interval
from feature_repo.project import LATE_30, PROJECT

NOTHING = Scores(
    rows=0,
    positives=0,
    metrics={},
    roc=(),
    precision_recall=(),
    calibration=(),
    cost_curve=(),
    at_threshold=None,
)


def _evaluation(*found: tuple[float, float]) -> Evaluation:
    """By time and at random: the value, and the low end of its range."""
    titles = (("by time", True), ("at random", False))
    splits = tuple(
        SplitScore(title, ordered, 100, 50, Interval(value, low, value + 0.01))
        for (title, ordered), (value, low) in zip(titles, found, strict=False)
    )
    return Evaluation(
        uri="s3://b/e/", name="m", start="", end="", challenger=NOTHING, champion_note="", splits=splits
    )


@pytest.mark.parametrize(
    ("found", "verdict", "reason"),
    [
        (((0.802, 0.797), (0.834, 0.830)), "pass", "by time 0.8020 (0.7970 to 0.8120) and at random 0.8340"),
        (((0.764, 0.750), (0.834, 0.830)), "fail", "by time 0.7640"),
        (
            ((0.802, 0.797), (0.700, 0.690)),
            "fail",
            "at random 0.7000 (0.6900 to 0.7100) does not beat ROC AUC 0.764",
        ),
        (
            ((0.770, 0.763), (0.834, 0.830)),
            "inconclusive",
            "by time 0.7700 (0.7630 to 0.7800) does not surely beat",
        ),
        (((float("nan"), float("nan")), (0.834, 0.830)), "fail", "by time nan"),
        (((0.802, 0.797),), "inconclusive", "there is no split at random to compare with"),
    ],
)
def test_both_splits_must_surely_beat_the_figure(
    found: tuple[tuple[float, float], ...], verdict: str, reason: str
) -> None:
    result = against_published(LATE_30, _evaluation(*found))
    assert (result.verdict, result.gate) == (verdict, "published")
    assert reason in result.reason


def test_without_a_published_figure_nothing_is_proved() -> None:
    result = against_published(PROJECT, _evaluation((0.9, 0.9), (0.9, 0.9)))
    assert (result.verdict, result.reason) == ("inconclusive", "there is no figure to compare with")


def test_every_figure_counts() -> None:
    two = (
        *LATE_30.published,
        msgspec.structs.replace(LATE_30.published[0], title="a better one", roc_auc=0.82),
    )
    project = msgspec.structs.replace(LATE_30, published=two)
    result = against_published(project, _evaluation((0.802, 0.797), (0.834, 0.830)))
    assert (result.verdict, "a better one" in result.reason) == ("fail", True)
