"""Scores by group and by threshold, and the report that shows them."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import msgspec
import numpy as np
import polars as pl
import pytest

from components.evaluate import Evaluation, Scores, render, score
from components.evaluate.charts import ticks
from components.evaluate.scores import groups
from slipway.contract import GateResult
from slipway.project import Slice
from tests.support.training import PROJECT

ROWS = 1200


@pytest.fixture(scope="module")
def frame() -> pl.DataFrame:
    draw = np.random.default_rng(1)
    carriers = draw.choice(["UA", "B6", None], ROWS, p=[0.6, 0.37, 0.03])
    return pl.DataFrame({"carrier": list(carriers), "hour": draw.integers(0, 24, ROWS).astype(float)})


@pytest.fixture(scope="module")
def scores(frame: pl.DataFrame) -> Scores:
    draw = np.random.default_rng(2)
    label = draw.integers(0, 2, ROWS)
    ours = np.clip(draw.normal(0.35 + 0.3 * label, 0.15), 0, 1)
    other = np.clip(draw.normal(0.45 + 0.1 * label, 0.15), 0, 1)
    return score(PROJECT, label, ours, threshold=0.5, seed=3, frame=frame, champion=other)


def test_groups_are_values_or_bins_with_edges_in_the_upper_one(frame):
    hours = pl.DataFrame({"hour": [5.9, 6.0, 18.0, None]})
    assert groups(hours, Slice(column="hour", bins=(6.0, 18.0))).to_list() == ["< 6", "6 to 18", "≥ 18", None]
    assert groups(frame, Slice(column="carrier")).to_list() == frame["carrier"].to_list()


def test_every_row_is_in_one_group_of_each_slice_and_small_groups_are_not_judged(scores):
    by_column: dict[str, list[str]] = {}
    for item in scores.slices:
        by_column.setdefault(item.column, []).append(item.group)
    assert by_column == {
        "carrier": ["UA", "B6", "(none)"],
        "hour": ["< 6", "6 to 12", "12 to 18", "≥ 18"],
    }
    assert sum(item.rows for item in scores.slices) == 2 * ROWS
    judged = {item.group: item.judged for item in scores.slices if item.column == "carrier"}
    assert judged == {"UA": True, "B6": True, "(none)": False}


def test_the_difference_is_paired_and_surely_positive(scores):
    found = scores.against_champion["roc_auc"]
    assert found.difference.value == pytest.approx(scores.metrics["roc_auc"].value - found.champion)
    assert 0 < found.difference.low < found.difference.value < found.difference.high


def test_the_confusion_adds_up_and_the_cost_is_its_own(scores):
    at = scores.at_threshold
    assert at is not None
    wrong = at.false_positives * PROJECT.costs.false_alarm + at.false_negatives * PROJECT.costs.miss
    assert at.true_positives + at.false_positives + at.true_negatives + at.false_negatives == ROWS
    assert at.cost == pytest.approx(wrong / ROWS)
    assert at.best_cost <= at.cost
    curve = {round(point.threshold, 2): point.cost for point in scores.cost_curve}
    assert curve[0.5] == pytest.approx(at.cost)


def test_the_report_needs_nothing_else_and_escapes_what_it_shows(scores):
    project = msgspec.structs.replace(PROJECT, title="<script>alert(1)</script> & late?")
    evaluation = Evaluation(
        uri="s3://b/e/",
        name="late",
        start="2013-01-01 00:00:00",
        end="2013-02-01 00:00:00",
        challenger=scores,
        champion_note="Version 3.",
        champion_digest="a" * 64,
    )
    gates = [GateResult("budget: size", "fail", "9 MB of <1 MB>")]
    page = render(project, evaluation, gates=gates)
    assert not re.search(r"<script|https?://|url\(|<link|<img", page)
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; late?" in page
    assert "Stopped by budget: size." in page
    assert "9 MB of &lt;1 MB&gt;" in page
    drawings = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(drawings) == 6
    for drawing in drawings:
        ElementTree.fromstring(drawing)  # well-formed
        assert "nan" not in drawing


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0.5, 0.83, [0.5, 0.6, 0.7, 0.8]),
        (0, 0.03, [0, 0.01, 0.02, 0.03]),
    ],
)
def test_ticks_are_round(low, high, expected):
    assert ticks(low, high) == pytest.approx(expected)
