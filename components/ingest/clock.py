"""From local clock readings such as 1359 to moments in UTC, through daylight saving and past midnight.

The table tells times as the clocks of an airport showed them. A reading has no date and no offset: a flight
that leaves at 22:00 and lands at 00:40 lands tomorrow; one to the west may land by an earlier clock than it
left; on two nights of the year a reading is ambiguous or does not exist.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import polars as pl

from components.ingest.columns import UTC_TIME

# Destinations of the package's flights that its table of airports does not know (7,602 flights of 2013);
# all four lie in Atlantic time, which has no daylight saving.
ZONES_NOT_IN_AIRPORTS: Mapping[str, str] = {
    "BQN": "America/Puerto_Rico",
    "PSE": "America/Puerto_Rico",
    "SJU": "America/Puerto_Rico",
    "STT": "America/Puerto_Rico",
}
_DAYS = (-1, 0, 1, 2)
"""The days on which a flight may land, counted from that of its departure, by the clocks of both places."""


def minutes_of(clock: pl.Expr) -> pl.Expr:
    """1359 → 839; null for what is no clock reading. 2400 is the midnight that ends the day."""
    return pl.when(is_clock(clock)).then(clock // 100 * 60 + clock % 100)


def is_clock(clock: pl.Expr) -> pl.Expr:
    return clock.is_between(0, 2400) & (clock % 100 < 60)


def midnight() -> pl.Expr:
    """The date of year, month and day as a time without a zone; null for one that the calendar lacks."""
    text = pl.format("{}-{}-{}", *(pl.col(name).cast(pl.String) for name in ("year", "month", "day")))
    return text.str.to_date("%Y-%m-%d", strict=False).cast(pl.Datetime("us"))


def to_utc(local: pl.Expr, zone: str, *, latest: bool = False) -> pl.Expr:
    """A local time in UTC.

    A reading in the spring gap counts as one of a clock that nobody had set yet: 02:03 standard time, which
    the others call 03:03. In the autumn fold it is the earlier of its two moments, or the `latest`.
    """
    hour = pl.duration(hours=1)
    return pl.coalesce(_exact(local, zone, latest), _exact(local - hour, zone, latest) + hour)


def _exact(local: pl.Expr, zone: str, latest: bool) -> pl.Expr:
    zoned = local.dt.replace_time_zone(
        zone, ambiguous="latest" if latest else "earliest", non_existent="null"
    )
    return zoned.dt.convert_time_zone("UTC").cast(UTC_TIME)


def first_after(local_midnight: pl.Expr, minutes: pl.Expr, after: pl.Expr, zone: str) -> pl.Expr:
    """The first moment later than `after` at which the clocks of the zone show `minutes`."""
    candidates = [to_utc(local_midnight + pl.duration(days=days, minutes=minutes), zone) for days in _DAYS]
    return pl.coalesce([pl.when(moment > after).then(moment) for moment in candidates])


def shown(moment: pl.Expr, zone: str) -> pl.Expr:
    """What the clocks of the zone show at that moment, in minutes since midnight."""
    local = moment.dt.convert_time_zone(zone)
    return local.dt.hour().cast(pl.Int32) * 60 + local.dt.minute().cast(pl.Int32)


def offset(moment: pl.Expr, zone: str) -> pl.Expr:
    """How far the zone is from UTC at that moment."""
    local = moment.dt.convert_time_zone(zone)
    return local.dt.base_utc_offset() + local.dt.dst_offset()


def by_zone(frame: pl.DataFrame, zone: str, columns: Callable[[str], Mapping[str, pl.Expr]]) -> pl.DataFrame:
    """Adds `columns(zone)`, each row's by its own zone; null for rows without one.

    polars converts a column to one zone at a time, so the rows go zone by zone; the order of rows changes.
    """
    names = frame.get_column(zone).unique()
    if len(names) == 1 and names[0] is not None:
        return frame.with_columns(**columns(str(names[0])))
    parts: list[pl.DataFrame] = []
    for (name,), rows in frame.group_by(zone, maintain_order=True):
        if name is None:
            empty = columns("UTC")
            types = rows.head(0).select(**empty).schema
            parts.append(rows.with_columns(pl.lit(None, types[column]).alias(column) for column in empty))
        else:
            parts.append(rows.with_columns(**columns(str(name))))
    return pl.concat(parts)
