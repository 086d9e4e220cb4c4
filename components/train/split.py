"""Which rows to learn from and which to judge by."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from slipway.errors import DataError

Rows = NDArray[Any]
"""Positions of rows, ascending."""


class SplitConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    test_from: str = ""
    """RFC 3339: rows from then on judge the model. Empty: the last `test_share` of the rows."""
    test_share: float = 0.25
    validation_share: float = 0.15
    """The last part of the training rows: it stops boosting and sets the threshold."""
    seed: int = 2013
    """Of the random split that stands beside the time-ordered one for comparison."""

    def __post_init__(self) -> None:
        for name in ("test_share", "validation_share"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, and must lie between 0 and 1")
        if self.test_from:
            datetime.fromisoformat(self.test_from)


class Parts(msgspec.Struct, frozen=True):
    training: Rows
    """Without the validation rows."""
    validation: Rows
    test: Rows

    @property
    def development(self) -> Rows:
        """All that may be learned from."""
        return np.concatenate([self.training, self.validation])


def time_ordered(times: pl.Series, config: SplitConfig, *, known_after_hours: float = 0.0) -> Parts:
    """Learn from the past, judge by the future. `times` ascends."""
    if times.is_empty():
        raise DataError("there are no rows to split", fix="choose a window in which there are events")
    if config.test_from:
        border = datetime.fromisoformat(config.test_from)
    else:
        border = times[min(len(times) - 1, round(len(times) * (1 - config.test_share)))]
    before = _known(times, border, known_after_hours)
    inner_border = times[min(len(times) - 1, round(before * (1 - config.validation_share)))]
    inner = _known(times, inner_border, known_after_hours)
    test_start = _position(times, border)
    validation_start = _position(times, inner_border)
    parts = Parts(np.arange(inner), np.arange(validation_start, before), np.arange(test_start, len(times)))
    empty = [name for name in ("training", "validation", "test") if not len(getattr(parts, name))]
    if empty:
        raise DataError(
            f"a split at {border} leaves no rows for: {', '.join(empty)}",
            where=f"rows from {times[0]} to {times[-1]}",
            fix="choose test_from inside the window, or a wider window",
        )
    return parts


def random_rows(count: int, config: SplitConfig) -> tuple[Rows, Rows]:
    """The same shares at random: what many published figures use, and what flatters them."""
    order = np.random.default_rng(config.seed).permutation(count)
    border = round(count * (1 - config.test_share))
    return np.sort(order[:border]), np.sort(order[border:])


def _known(times: pl.Series, border: Any, hours: float) -> int:
    """How many of the first rows had their answer known at the border."""
    return _position(times, border - timedelta(hours=hours))


def _position(times: pl.Series, moment: Any) -> int:
    zone = getattr(times.dtype, "time_zone", None)
    if zone is None and moment.tzinfo is not None:
        moment = moment.replace(tzinfo=None)
    if zone is not None and moment.tzinfo is None:
        times = times.dt.replace_time_zone(None)
    return int(times.search_sorted(moment, side="left"))
