"""Rows of a source by time: all of them, or the newest of each key."""

from __future__ import annotations

from datetime import datetime

import polars as pl

from slipway.features.offline.sources import Source
from slipway.features.offline.times import check_time, microseconds, time_range

BATCH_ROWS = 250_000
"""Rows that are read before only the newest of each key are kept: memory follows the keys, not the rows."""

_ROW = "slipway:row"


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
    if keys:
        rows = rows.filter(pl.col(key).is_not_null() for key in keys)
    with source.reading():
        found, waiting, count = rows.head(0).collect(), [], 0
        for batch in rows.collect_batches(chunk_size=BATCH_ROWS, maintain_order=True, engine="streaming"):
            waiting.append(batch)
            count += len(batch)
            # Never fewer than were found so far: each row is then compared twice or so, however many keys.
            if count >= max(BATCH_ROWS, len(found)):
                found, waiting, count = _newest([found, *waiting], keys, times), [], 0
        return _newest([found, *waiting], keys, times)


def _newest(parts: list[pl.DataFrame], keys: list[str], times: list[str]) -> pl.DataFrame:
    """Of each key the row that comes last by these times, then by its place in the parts."""
    frame = pl.concat(parts)
    order = (
        frame.lazy()
        .select(*keys, *times)
        .with_row_index(_ROW)
        .sort(*times, nulls_last=False, maintain_order=True)
    )
    last = order.group_by(keys).agg(pl.col(_ROW).last()) if keys else order.tail(1)
    return frame[last.select(pl.col(_ROW).sort()).collect().to_series()]


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
