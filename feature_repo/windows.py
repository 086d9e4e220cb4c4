"""Sliding windows over events, exact at every moment, in one pass.

A window of length W holds at moment t the events of (t - W, t]. Its sums change only when an event enters
(at its time) and when it leaves (W later), so a row for each such moment is the whole history: an as-of read
of those rows gives at *any* t what a scan of the events would give, and there is no grid to be stale by up
to its step. The same goes for spans: how many flights are overdue changes when one gets to be and when it
leaves. So everything here is signed steps in time, sorted once and summed up once.

Sums are of integers: they do not depend on the order of the events, and nothing drifts over a year.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta

import polars as pl

_CODE = "__code"
_KEY = "__key"
_SECONDS = 1 << 33
"""Beyond the seconds since 1970 of any time until the year 2242."""


class Windows:
    """Running totals for each key. Times are whole seconds."""

    def __init__(self, events: pl.DataFrame, keys: Sequence[str]) -> None:
        self._keys = events.select(keys).unique().sort(*keys).with_row_index(_KEY)
        self._events = events.join(self._keys, on=list(keys), how="inner")
        self._steps: list[pl.DataFrame] = []

    def add_windows(
        self, values: Mapping[str, pl.Expr], windows: Mapping[str, timedelta], *, at: str
    ) -> None:
        """Sums of values (integers or booleans, never null) over each window: `<value>_<window>`.

        An event whose time `at` is null never happened.
        """
        happened = self._events.filter(pl.col(at).is_not_null())
        amounts = {name: value.cast(pl.Int64) for name, value in values.items()}
        named = {
            window: {f"{name}_{window}": amount for name, amount in amounts.items()} for window in windows
        }
        entering = {name: amount for group in named.values() for name, amount in group.items()}
        self._steps.append(happened.select(_code(pl.col(at)), **entering))
        for window, length in windows.items():
            leaving = {name: -amount for name, amount in named[window].items()}
            self._steps.append(happened.select(_code(pl.col(at) + length), **leaving))

    def add_spans(self, spans: Mapping[str, tuple[pl.Expr, pl.Expr]]) -> None:
        """How many events are inside a span of their own: name → (begin, end).

        At its end an event is out; a span that ends where it begins, or before, holds nothing.
        """
        for name, (begin, end) in spans.items():
            inside = self._events.filter(begin < end)
            for moment, amount in ((begin, 1), (end, -1)):
                step = pl.lit(amount, pl.Int64).alias(name)
                self._steps.append(inside.select(_code(moment), step))

    def totals(self, *, at: str) -> pl.DataFrame:
        """One row for each key and moment at which something entered or left: keys, `at`, and the sums."""
        steps = pl.concat(self._steps, how="diagonal").sort(_CODE)
        # All that enters for a key leaves for it too, so its total ends at zero and the next key's begins
        # there: one sum over everything will do. The last row of a moment has all of its steps.
        summed = steps.select(_CODE, pl.exclude(_CODE).fill_null(0).cum_sum())
        last = summed.filter((pl.col(_CODE) != pl.col(_CODE).shift(-1)).fill_null(True))
        key = (pl.col(_CODE) // _SECONDS).cast(pl.UInt32)
        moment = pl.from_epoch(pl.col(_CODE) % _SECONDS, time_unit="s").cast(pl.Datetime("us"))
        names = self._keys.drop(_KEY)
        return last.select(
            *(pl.lit(names[name]).gather(key).alias(name) for name in names.columns),
            moment.dt.replace_time_zone("UTC").alias(at),
            pl.exclude(_CODE),
        )


def _code(moment: pl.Expr) -> pl.Expr:
    """Key and moment in one number: sorting by it is five times as fast as by the two."""
    return (pl.col(_KEY).cast(pl.Int64) * _SECONDS + moment.dt.epoch("s")).alias(_CODE)
