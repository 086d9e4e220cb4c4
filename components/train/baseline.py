"""How the training rows were distributed, in the bins that the runtime counts into."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.inputs import CATEGORIES, InputPlan, Tensors
from components.train.graph import PROBABILITY
from slipway.baseline import Baseline, CategoryBaseline, FeatureBaseline, NumericBaseline

BINS = 10
CATEGORIES_KEPT = 40


def measure(plan: InputPlan, tensors: Tensors, answers: NDArray[Any]) -> Baseline:
    """Of the rows that were trained on, and of the answers to rows that were not."""
    features: list[FeatureBaseline] = []
    for tensor in plan.tensor_inputs():
        matrix = tensors[tensor.name]
        for position, column in enumerate(tensor.columns):
            values = matrix[:, position]
            features.append(
                _categories(column.name, values)
                if tensor.name == CATEGORIES
                else _numbers(column.name, values)
            )
    rows = len(next(iter(tensors.values())))
    return Baseline(rows, tuple(features), (_numbers(PROBABILITY.name, answers),))


def _numbers(name: str, values: NDArray[Any]) -> NumericBaseline:
    """Deciles; where few values make most of the rows, as many bins as can be told apart."""
    known = values[~np.isnan(values)].astype(np.float64)
    missing = len(values) - len(known)
    if not len(known):
        return NumericBaseline(name, (), (0,), missing)
    edges = np.unique(np.quantile(known, np.linspace(0, 1, BINS + 1)[1:-1], method="lower"))
    # An edge at the minimum would leave an empty bin below it.
    edges = edges[(edges > known.min()) & np.isfinite(edges)]
    counts = np.bincount(np.searchsorted(edges, known, side="right"), minlength=len(edges) + 1)
    return NumericBaseline(
        name,
        tuple(map(float, edges)),
        tuple(map(int, counts)),
        missing,
        mean=float(known.mean()),
        std=float(known.std()),
        minimum=float(known.min()),
        maximum=float(known.max()),
    )


def _categories(name: str, values: NDArray[Any]) -> CategoryBaseline:
    texts, counts = np.unique(values.astype(str), return_counts=True)
    missing = int(counts[texts == ""].sum())
    ranked = sorted(
        ((int(count), str(text)) for text, count in zip(texts, counts, strict=True) if text != ""),
        key=lambda item: (-item[0], item[1]),
    )
    kept, rest = ranked[:CATEGORIES_KEPT], ranked[CATEGORIES_KEPT:]
    return CategoryBaseline(
        name,
        tuple(text for _, text in kept),
        tuple(count for count, _ in kept),
        sum(count for count, _ in rest),
        missing,
    )
