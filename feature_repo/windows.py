"""Sliding windows over events, exact at every moment, in one pass.

A window of length W holds at moment t the events of (t - W, t]. Its sums change only when an event enters
(at its time) and when it leaves (W later), so one row for each such moment is the whole history: an as-of
read of those rows gives at *any* t what a scan of the events would give, and there is no grid that would be
stale by up to its step. Sums are of integers, so they do not depend on the order of the events.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta

import polars as pl

Spans = Mapping[str, tuple[pl.Expr, pl.Expr]]


def running_sums(
    events: pl.LazyFrame,
    keys: Sequence[str],
    values: Mapping[str, pl.Expr],
    windows: Mapping[str, timedelta],
    *,
    at: str = "at",
) -> pl.LazyFrame:
    """Sums of `values` over each window, one row for each key and moment at which any of them changes.

    Columns: keys, `at`, and `<value>_<window>` for every value and window. Each value must be an integer
    expression without nulls.
    """
    steps: list[pl.LazyFrame] = []
    for suffix, length in windows.items():
        amounts = {f"{name}_{suffix}": value.cast(pl.Int64) for name, value in values.items()}
        steps.append(events.select(*keys, pl.col(at), **amounts))
        steps.append(
            events.select(
                *keys, (pl.col(at) + length).alias(at), **{name: -value for name, value in amounts.items()}
            )
        )
    names = [f"{name}_{suffix}" for suffix in windows for name in values]
    return accumulate(steps, keys, names, at=at)


def running_counts(
    events: pl.LazyFrame, keys: Sequence[str], spans: Spans, *, at: str = "at"
) -> pl.LazyFrame:
    """How many events are inside a span of their own: name → (when it begins, when it ends).

    An event whose span has no beginning, or ends when it begins or before, is never inside.
    """
    steps: list[pl.LazyFrame] = []
    for name, (begins, ends) in spans.items():
        inside = events.select(*keys, begins.alias("__begins"), ends.alias("__ends")).filter(
            pl.col("__begins") < pl.col("__ends")
        )
        for moment, amount in (("__begins", 1), ("__ends", -1)):
            steps.append(inside.select(*keys, pl.col(moment).alias(at), pl.lit(amount, pl.Int64).alias(name)))
    return accumulate(steps, keys, list(spans), at=at)


def accumulate(
    steps: Sequence[pl.LazyFrame], keys: Sequence[str], names: Sequence[str], *, at: str = "at"
) -> pl.LazyFrame:
    """Running totals of signed steps: one row for each key and moment."""
    return (
        pl.concat(steps, how="diagonal")
        .group_by(*keys, at)
        .agg(pl.col(name).sum() for name in names)
        .sort(*keys, at)
        .with_columns(pl.col(name).cum_sum().over(keys) for name in names)
    )
