"""How good probabilities are, weighted by row, so that a bootstrap is a matter of weights.

Every function takes `weights`: counts of how often each row stands in a resample. Sorting happens once, in
`Scored`, and each resample costs a few cumulative sums: 200 resamples of 90,000 rows take about a second.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
SMALLEST = 1e-7
"""Probabilities are held off 0 and 1 by this in the log loss, as a float's own precision does."""
CALIBRATION_BINS = 15


class Interval(msgspec.Struct, frozen=True):
    """A value and how sure one can be of it; NaN for what the rows cannot tell."""

    value: float | None
    low: float | None
    high: float | None

    def __post_init__(self) -> None:
        # JSON has no NaN and msgspec writes null, which the fields let in so that it comes back as NaN.
        for name in self.__struct_fields__:
            if getattr(self, name) is None:
                msgspec.structs.force_setattr(self, name, math.nan)


class Scored:
    """Labels and probabilities of some rows, sorted once."""

    def __init__(self, label: NDArray[Any], probability: NDArray[Any]) -> None:
        if len(label) != len(probability):
            raise ValueError(f"{len(label)} labels for {len(probability)} probabilities")
        self.label = np.asarray(label, np.float64)
        self.probability = np.asarray(probability, np.float64)
        self.order = np.argsort(-self.probability, kind="stable")
        ranked = self.probability[self.order]
        # Rows with one score are one step of the curve: their order must not matter.
        self.ends = (
            np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True)) if len(ranked) else np.empty(0, int)
        )
        bounded = np.clip(self.probability, SMALLEST, 1 - SMALLEST)
        self._loss = -np.where(self.label > 0, np.log(bounded), np.log1p(-bounded))
        self._square = (self.probability - self.label) ** 2
        self._bins = np.minimum((self.probability * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)

    def __len__(self) -> int:
        return len(self.label)

    @property
    def positives(self) -> int:
        return int(self.label.sum())

    def curve(self, weights: Floats | None = None) -> tuple[Floats, Floats]:
        """True and false positives as the threshold falls, one entry for each distinct score."""
        ones = self.label[self.order]
        count = np.ones_like(ones) if weights is None else weights[self.order]
        positives = np.cumsum(ones * count)[self.ends]
        return positives, np.cumsum(count)[self.ends] - positives

    def ranking(self, weights: Floats | None = None) -> float:
        """ROC AUC alone; NaN where there is one class only."""
        true, false = self.curve(weights)
        return roc_auc(true, false) if len(true) and true[-1] > 0 and false[-1] > 0 else float("nan")

    def metrics(self, weights: Floats | None = None) -> dict[str, float]:
        """NaN for what one class alone cannot tell."""
        true, false = self.curve(weights)
        total = weights.sum() if weights is not None else float(len(self))
        nothing = float("nan")
        if not total:
            return dict.fromkeys(("roc_auc", "pr_auc", "log_loss", "brier", "calibration_error"), nothing)
        count = np.ones(len(self)) if weights is None else weights
        both = true[-1] > 0 and false[-1] > 0
        return {
            "roc_auc": roc_auc(true, false) if both else nothing,
            "pr_auc": average_precision(true, false) if true[-1] > 0 else nothing,
            "log_loss": float(self._loss @ count / total),
            "brier": float(self._square @ count / total),
            "calibration_error": self._calibration_error(count),
        }

    def _calibration_error(self, count: Floats) -> float:
        said = np.bincount(self._bins, self.probability * count, CALIBRATION_BINS)
        was = np.bincount(self._bins, self.label * count, CALIBRATION_BINS)
        return float(np.abs(said - was).sum() / count.sum())


def roc_auc(true: Floats, false: Floats) -> float:
    """The area under the curve of the counts, ties counted half."""
    rise = np.diff(true, prepend=0.0)
    step = np.diff(false, prepend=0.0)
    return float((step * (true - rise / 2)).sum() / (true[-1] * false[-1]))


def average_precision(true: Floats, false: Floats) -> float:
    with np.errstate(invalid="ignore"):
        precision = np.nan_to_num(true / (true + false))
    return float((np.diff(true, prepend=0.0) * precision).sum() / true[-1])


def resamples(rows: int, count: int, seed: int) -> Iterator[Floats]:
    """Weights of bootstrap resamples; the same for every model, so that differences are paired."""
    generator = np.random.default_rng(seed)
    for _ in range(count):
        picked = generator.integers(0, rows, rows)
        yield np.bincount(picked, minlength=rows).astype(np.float64)


def interval(value: float, draws: list[float], level: float = 0.95) -> Interval:
    known = [draw for draw in draws if not np.isnan(draw)]
    if not known:
        return Interval(value, float("nan"), float("nan"))
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high))


def best_threshold(scored: Scored, false_alarm: float, miss: float) -> tuple[float, float]:
    """Where the cost of mistakes is least, and that cost a row. Positive is what reaches the threshold."""
    true, false = scored.curve()
    cost = false * false_alarm + (scored.positives - true) * miss
    never = scored.positives * miss
    scores = scored.probability[scored.order][scored.ends]
    best = int(np.argmin(cost)) if len(cost) else 0
    if not len(cost) or never <= cost[best]:
        return 1.0, never / max(len(scored), 1)
    # Half-way to the next lower score: float noise in serving must not flip the rows on the edge.
    below = scores[best + 1] if best + 1 < len(scores) else 0.0
    return float((scores[best] + below) / 2), float(cost[best] / len(scored))


def cost_at(scored: Scored, threshold: float, false_alarm: float, miss: float) -> float:
    said = scored.probability >= threshold
    wrong = (said & (scored.label == 0)).sum() * false_alarm + (~said & (scored.label == 1)).sum() * miss
    return float(wrong / max(len(scored), 1))
