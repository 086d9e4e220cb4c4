"""What a model's answers are worth on given rows, with how sure one can be of it."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from components.metrics import (
    CALIBRATION_BINS,
    Interval,
    Scored,
    best_threshold,
    cost_at,
    interval,
    resamples,
)
from slipway.project import Project, Slice

RESAMPLES = 200
SLICE_RESAMPLES = 100
CURVE_POINTS = 200
SMALLEST_SLICE = 50
"""Groups with fewer rows of either class are shown and not judged."""


class Point(msgspec.Struct, frozen=True):
    x: float
    y: float


class CalibrationBin(msgspec.Struct, frozen=True):
    said: float
    was: float
    rows: int


class CostPoint(msgspec.Struct, frozen=True):
    threshold: float
    cost: float


class AtThreshold(msgspec.Struct, frozen=True):
    """What the contract's threshold does on these rows."""

    threshold: float
    cost: float
    true_positives: int
    false_positives: int
    true_negatives: int
    false_negatives: int
    best_threshold: float
    """Where the cost of these very rows is least: known only afterwards."""
    best_cost: float


class SliceScore(msgspec.Struct, frozen=True):
    column: str
    group: str
    rows: int
    positives: int
    roc_auc: Interval
    log_loss: float
    calibration_error: float
    champion_roc_auc: float | None = None

    @property
    def judged(self) -> bool:
        return min(self.positives, self.rows - self.positives) >= SMALLEST_SLICE


class Difference(msgspec.Struct, frozen=True):
    """Challenger minus champion on the same rows and resamples; None of it is noise of the sample."""

    champion: float
    difference: Interval


class Scores(msgspec.Struct, frozen=True, kw_only=True):
    rows: int
    positives: int
    metrics: Mapping[str, Interval]
    roc: tuple[Point, ...]
    precision_recall: tuple[Point, ...]
    calibration: tuple[CalibrationBin, ...]
    cost_curve: tuple[CostPoint, ...]
    at_threshold: AtThreshold | None
    slices: tuple[SliceScore, ...] = ()
    against_champion: Mapping[str, Difference] = {}


def score(
    project: Project,
    label: NDArray[Any],
    probability: NDArray[Any],
    *,
    threshold: float | None,
    seed: int,
    frame: pl.DataFrame | None = None,
    champion: NDArray[Any] | None = None,
    resample: bool = True,
) -> Scores:
    """Everything the report shows; `frame` brings the slices, `champion` the other model's answers."""
    scored = Scored(label, probability)
    other = Scored(label, champion) if champion is not None else None
    values = scored.metrics()
    other_values = other.metrics() if other else {}
    draws: dict[str, list[float]] = {name: [] for name in values}
    differences: dict[str, list[float]] = {name: [] for name in values}
    for weights in resamples(len(scored), RESAMPLES if resample else 0, seed):
        drawn = scored.metrics(weights)
        against = other.metrics(weights) if other else {}
        for name, value in drawn.items():
            draws[name].append(value)
            if other:
                differences[name].append(value - against[name])
    true, false = scored.curve()
    return Scores(
        rows=len(scored),
        positives=scored.positives,
        metrics={name: interval(value, draws[name]) for name, value in values.items()},
        roc=_roc(true, false),
        precision_recall=_precision_recall(true, false),
        calibration=_calibration(scored),
        cost_curve=_costs(scored, project, true, false),
        at_threshold=None if threshold is None else _at(scored, threshold, project),
        slices=_slices(project, frame, scored, other, seed) if frame is not None else (),
        against_champion={
            name: Difference(
                other_values[name], interval(values[name] - other_values[name], differences[name])
            )
            for name in other_values
        },
    )


def groups(frame: pl.DataFrame, item: Slice) -> pl.Series:
    """The name of each row's group."""
    column = frame[item.column]
    if item.bins:
        edges = [float(edge) for edge in item.bins]
        names = [f"< {edges[0]:g}"]
        names += [f"{low:g} to {high:g}" for low, high in pairwise(edges)] + [f"≥ {edges[-1]:g}"]
        values = column.cast(pl.Float64).to_numpy()
        found = np.searchsorted(edges, values, side="right")
        return pl.Series(
            [None if np.isnan(value) else names[at] for value, at in zip(values, found, strict=True)]
        )
    return column.cast(pl.String)


def _slices(
    project: Project, frame: pl.DataFrame, scored: Scored, other: Scored | None, seed: int
) -> tuple[SliceScore, ...]:
    found = []
    for item in project.slices:
        names = groups(frame, item).fill_null("(none)").to_numpy()
        rows = []
        for name in np.unique(names):
            inside = np.flatnonzero(names == name)
            part = Scored(scored.label[inside], scored.probability[inside])
            values = part.metrics()
            judged = min(part.positives, len(part) - part.positives) >= SMALLEST_SLICE
            times = SLICE_RESAMPLES if judged else 0
            draws = [part.ranking(weights) for weights in resamples(len(part), times, seed)]
            champion = None
            if other is not None:
                champion = Scored(other.label[inside], other.probability[inside]).metrics()["roc_auc"]
            rows.append(
                SliceScore(
                    item.title or item.column,
                    str(name),
                    len(part),
                    part.positives,
                    interval(values["roc_auc"], draws),
                    values["log_loss"],
                    values["calibration_error"],
                    champion,
                )
            )
        # Bins in their order, values by size.
        if item.bins:
            order = {name: at for at, name in enumerate(dict.fromkeys(groups(_ladder(item), item).to_list()))}
            rows.sort(key=lambda row: order.get(row.group, len(order)))
        else:
            rows.sort(key=lambda row: (-row.rows, row.group))
        found += rows
    return tuple(found)


def _ladder(item: Slice) -> pl.DataFrame:
    edges = [item.bins[0] - 1, *item.bins]
    return pl.DataFrame({item.column: [float(edge) for edge in edges]})


def _thin(count: int) -> NDArray[Any]:
    return np.unique(np.linspace(0, count - 1, min(count, CURVE_POINTS)).astype(int))


def _roc(true: NDArray[Any], false: NDArray[Any]) -> tuple[Point, ...]:
    if not len(true) or not true[-1] or not false[-1]:
        return ()
    kept = _thin(len(true))
    return (
        Point(0.0, 0.0),
        *(Point(float(false[at] / false[-1]), float(true[at] / true[-1])) for at in kept),
    )


def _precision_recall(true: NDArray[Any], false: NDArray[Any]) -> tuple[Point, ...]:
    if not len(true) or not true[-1]:
        return ()
    recalled = true / true[-1]
    # Even steps of recall: even steps of rank would crowd where precision is flat.
    kept = np.unique(np.searchsorted(recalled, np.linspace(0.002, 1, CURVE_POINTS)).clip(max=len(true) - 1))
    return tuple(Point(float(recalled[at]), float(true[at] / (true[at] + false[at]))) for at in kept)


def _calibration(scored: Scored) -> tuple[CalibrationBin, ...]:
    """Bins of equal width, as the calibration error is made."""
    at = np.minimum((scored.probability * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    found = []
    for number in range(CALIBRATION_BINS):
        inside = at == number
        if rows := int(inside.sum()):
            found.append(
                CalibrationBin(
                    float(scored.probability[inside].mean()), float(scored.label[inside].mean()), rows
                )
            )
    return tuple(found)


def _costs(
    scored: Scored, project: Project, true: NDArray[Any], false: NDArray[Any]
) -> tuple[CostPoint, ...]:
    if not len(scored):
        return ()
    costs = project.costs
    cost = (false * costs.false_alarm + (scored.positives - true) * costs.miss) / len(scored)
    thresholds = scored.probability[scored.order][scored.ends]
    wanted = np.linspace(0, 1, 101)
    # All scores at or above a threshold are called positive; thresholds fall along the curve.
    at = np.searchsorted(-thresholds, -wanted, side="right") - 1
    never = scored.positives * costs.miss / len(scored)
    return tuple(
        CostPoint(float(threshold), float(cost[place]) if place >= 0 else never)
        for threshold, place in zip(wanted, at, strict=True)
    )


def _at(scored: Scored, threshold: float, project: Project) -> AtThreshold:
    said = scored.probability >= threshold
    was = scored.label == 1
    costs = project.costs
    best, best_cost = best_threshold(scored, costs.false_alarm, costs.miss)
    return AtThreshold(
        threshold,
        cost_at(scored, threshold, costs.false_alarm, costs.miss),
        int((said & was).sum()),
        int((said & ~was).sum()),
        int((~said & ~was).sum()),
        int((~said & was).sum()),
        best,
        best_cost,
    )
