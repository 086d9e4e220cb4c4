"""Time columns as integers of any unit, with a zone or without, and filters for Parquet statistics."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl

from slipway.errors import FeatureSourceError
from slipway.features.offline.sources import Source

Unit: TypeAlias = Literal["ms", "us", "ns"]

_PER_SECOND: dict[Unit, int] = {"ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_LIMIT = np.iinfo(np.int64).max


def check_time(schema: pl.Schema, column: str, source: Source) -> None:
    if not isinstance(schema[column], pl.Datetime | pl.Date):
        raise FeatureSourceError(
            f"column {column} is to hold timestamps, but holds {schema[column]}",
            where=source.uri,
            fix="write it as a Parquet timestamp (UTC, or without a zone, which counts as UTC)",
        )


def clock_of(schema: pl.Schema, columns: list[str]) -> Unit:
    """The finest time unit of these columns."""
    units = [kind.time_unit for name in columns if isinstance(kind := schema[name], pl.Datetime)]
    return max(units, key=lambda unit: _PER_SECOND[unit], default="us")


def ticks(schema: pl.Schema, column: str, unit: Unit) -> pl.Expr:
    """Integers since 1970 in UTC."""
    kind = schema[column]
    time = pl.col(column) if isinstance(kind, pl.Datetime) else pl.col(column).cast(pl.Datetime("us"))
    # What a column of times holds inside is UTC, if it has a zone; without one it counts as UTC.
    return time.dt.cast_time_unit(unit).to_physical()


def time_range(
    schema: pl.Schema, column: str, unit: Unit, first: int | None, last: int | None
) -> list[pl.Expr]:
    """The column is within these ticks, both included, as comparisons that Parquet statistics can answer."""
    kind = schema[column]

    def bound(tick: int) -> pl.Expr:
        if isinstance(kind, pl.Datetime):
            own = rescale(tick, unit, kind.time_unit)
            return pl.lit(own, pl.Int64).cast(pl.Datetime(kind.time_unit, kind.time_zone))
        return pl.lit(tick // (86_400 * _PER_SECOND[unit]), pl.Int32).cast(pl.Date)

    wanted = []
    if first is not None:
        # Not before `first` is after the tick before it: the floor of that is exact in a coarser unit too.
        wanted.append(pl.col(column) > bound(first - 1))
    if last is not None:
        wanted.append(pl.col(column) <= bound(last))
    return wanted


def rescale(tick: int, unit: Unit, to: Unit) -> int:
    """Floored, and held within 64 bits."""
    value = tick * _PER_SECOND[to] // _PER_SECOND[unit]
    return max(min(value, _LIMIT), -_LIMIT)


def ticks_of(times: pl.Series, unit: Unit) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Times in a unit, floored, and whether that cut something off; nulls become the epoch."""
    raw = times.to_physical().fill_null(0).to_numpy()
    own: Unit = getattr(times.dtype, "time_unit", "us")
    ours, theirs = _PER_SECOND[own], _PER_SECOND[unit]
    if theirs >= ours:
        factor = theirs // ours
        # Far dates, such as the year 9999 for "the newest there is", do not fit into nanoseconds.
        bound = _LIMIT // factor
        return np.clip(raw, -bound, bound) * factor, np.zeros(len(raw), np.bool_)
    floor, rest = np.divmod(raw, ours // theirs)
    return floor, rest > 0


def microseconds(moment: datetime) -> int:
    """Since 1970; a time without a zone counts as UTC."""
    aware = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
    since = aware - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
