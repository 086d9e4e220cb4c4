"""The metrics against scikit-learn's own, with and without weights, and the threshold by brute force."""

import msgspec
import numpy as np
import pytest
from sklearn.metrics import average_precision_score, brier_score_loss, log_loss, roc_auc_score

from components.metrics import Interval, Scored, best_threshold, cost_at, interval, resamples


def example(rows: int = 500, seed: int = 1, ties: bool = False) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    label = draw.integers(0, 2, rows)
    probability = np.clip(0.5 + 0.2 * (label - 0.5) + draw.normal(0, 0.2, rows), 0.01, 0.99)
    return label, np.clip(np.round(probability, 1), 0.1, 0.9) if ties else probability


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_metrics_are_those_of_scikit_learn(ties, weighted):
    label, probability = example(ties=ties)
    weights = next(resamples(len(label), 1, 3)) if weighted else None
    found = Scored(label, probability).metrics(weights)
    assert found["roc_auc"] == pytest.approx(
        roc_auc_score(label, probability, sample_weight=weights), abs=1e-12
    )
    assert found["pr_auc"] == pytest.approx(
        average_precision_score(label, probability, sample_weight=weights), abs=1e-12
    )
    assert found["log_loss"] == pytest.approx(log_loss(label, probability, sample_weight=weights), abs=1e-9)
    assert found["brier"] == pytest.approx(brier_score_loss(label, probability, sample_weight=weights))


def test_calibration_error_of_answers_that_are_always_a_quarter_off():
    label = np.array([0, 1] * 50)
    assert Scored(label, np.full(100, 0.75)).metrics()["calibration_error"] == pytest.approx(0.25)
    assert Scored(label, np.full(100, 0.5)).metrics()["calibration_error"] == pytest.approx(0.0)


def test_one_class_and_no_rows_are_nan_and_no_error():
    assert np.isnan(Scored(np.ones(5), np.linspace(0, 1, 5)).metrics()["roc_auc"])
    assert np.isnan(Scored(np.empty(0), np.empty(0)).metrics()["log_loss"])
    with pytest.raises(ValueError, match="2 labels for 3"):
        Scored(np.ones(2), np.ones(3))


@pytest.mark.parametrize(("false_alarm", "miss"), [(1, 1), (1, 5), (4, 1)])
def test_the_threshold_is_the_cheapest_of_all(false_alarm, miss):
    label, probability = example(200, ties=True)
    scored = Scored(label, probability)
    threshold, cost = best_threshold(scored, false_alarm, miss)
    every = [cost_at(scored, value, false_alarm, miss) for value in np.linspace(0, 1.01, 1000)]
    assert cost == pytest.approx(min(every))
    assert cost_at(scored, threshold, false_alarm, miss) == pytest.approx(cost)


def test_an_expensive_false_alarm_means_never_to_warn():
    threshold, cost = best_threshold(Scored(np.array([0, 0, 1]), np.array([0.9, 0.8, 0.1])), 100, 1)
    assert (threshold, cost) == (1.0, pytest.approx(1 / 3))


def test_the_interval_covers_the_truth_as_often_as_it_says():
    """Of 60 samples of a known population, about 57 intervals hold its value."""
    label, probability = example(40_000, seed=5)
    truth = Scored(label, probability).ranking()
    covered = 0
    draw = np.random.default_rng(2)
    for _ in range(60):
        rows = draw.integers(0, len(label), 400)
        part = Scored(label[rows], probability[rows])
        found = interval(part.ranking(), [part.ranking(weights) for weights in resamples(400, 100, 9)])
        covered += found.low <= truth <= found.high
    assert 51 <= covered <= 60


def test_resamples_are_the_same_for_every_model():
    first, second = (list(resamples(100, 3, 4)) for _ in range(2))
    assert all((left == right).all() and left.sum() == 100 for left, right in zip(first, second, strict=True))


def test_what_the_rows_cannot_tell_survives_json() -> None:
    unknown = interval(float("nan"), [])
    again = msgspec.json.decode(msgspec.json.encode(unknown), type=Interval)
    assert np.isnan([again.value, again.low, again.high]).all()
    known = Interval(0.5, 0.4, 0.6)
    assert msgspec.json.decode(msgspec.json.encode(known), type=Interval) == known
