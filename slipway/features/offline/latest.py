"""Rows of a source by time: all of them, or the newest of each key."""

from __future__ import annotations

from datetime import datetime

import polars as pl

from slipway.features.offline.sources import Source
from slipway.features.offline.times import check_time, microseconds, time_range


def rows_between(
    source: Source, columns: list[str], timestamp: str, start: datetime | None, end: datetime | None
) -> pl.DataFrame:
    """All rows with a time from start to end, both included."""
    rows = _rows(source, columns, [timestamp], start, end)
    with source.reading():
        return rows.collect(engine="streaming")


def newest_between(
    source: Source,
    keys: list[str],
    columns: list[str],
    timestamp: str,
    created: str | None,
    start: datetime | None,
    end: datetime | None,
) -> pl.DataFrame:
    """Of each key the row with the latest time; of several the one created last, then the last in the source.

    A row with a null in its key belongs to nobody and is left out.
    """
    times = [timestamp, *([created] if created else [])]
    rows = _rows(source, [*keys, *columns], times, start, end)
    with source.reading():
        if not keys:
            return rows.collect(engine="streaming").sort(times, nulls_last=False, maintain_order=True).tail(1)
        frame = rows.filter(pl.col(key).is_not_null() for key in keys).collect(engine="streaming")
        order = frame.lazy().select(*keys, *times).with_row_index("slipway:row")
        winners = (
            order.sort(*times, nulls_last=False, maintain_order=True)
            .unique(keys, keep="last", maintain_order=True)
            .select("slipway:row")
            .collect()
        )
        return frame[winners["slipway:row"]]


def _rows(
    source: Source, columns: list[str], times: list[str], start: datetime | None, end: datetime | None
) -> pl.LazyFrame:
    schema = source.schema()
    wanted = list(dict.fromkeys([*columns, *times]))
    source.require(dict.fromkeys(wanted, "wanted") | dict.fromkeys(times, "a timestamp"), schema)
    for name in times:
        check_time(schema, name, source)
    first, last = (None if moment is None else microseconds(moment) for moment in (start, end))
    return source.scan(schema).filter(*time_range(schema, times[0], "us", first, last)).select(wanted)
