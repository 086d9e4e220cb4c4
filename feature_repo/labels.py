"""The questions and their answers: a row for each flight, asked an hour before its scheduled departure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import polars as pl

LEAD = timedelta(hours=1)
"""How long before the scheduled departure the question is asked."""
HOME_ZONE = "America/New_York"
REQUEST_FIELDS: tuple[str, ...] = ("scheduled_departure", "hour", "weekday", "month")
"""What the caller must bring beside the entities; all follow from the scheduled departure."""


@dataclass(frozen=True)
class Labels:
    frame: pl.DataFrame
    """carrier, flight, origin, dest, tailnum, event_timestamp, the request fields, arr_delay, late."""
    excluded: Mapping[str, int]
    """Why flights of the window are not in the frame → how many."""


def label_frame(
    flights: pl.DataFrame,
    *,
    minutes: int = 15,
    start: datetime | None = None,
    end: datetime | None = None,
) -> Labels:
    """The flights scheduled in [start, end) with an answer: did they land `minutes` late or more?

    A cancelled or diverted flight has no arrival, so it has no answer; nor is there a question about a
    flight that had left before it could be asked. They are counted.
    """
    scheduled = pl.col("scheduled_departure")
    asked = scheduled - LEAD
    window = pl.lit(True)
    if start is not None:
        window &= scheduled >= start
    if end is not None:
        window &= scheduled < end
    inside = flights.filter(window)
    gone = (pl.col("status") == "arrived") & (pl.col("actual_departure") <= asked)
    counted = {
        "cancelled": pl.col("status") == "cancelled",
        "diverted": pl.col("status") == "diverted",
        "departed before the question": gone,
    }
    excluded = inside.select(rows.sum().alias(name) for name, rows in counted.items()).row(0, named=True)
    local = scheduled.dt.convert_time_zone(HOME_ZONE)
    frame = (
        inside.filter((pl.col("status") == "arrived") & ~gone)
        .sort("scheduled_departure", "carrier", "flight", "origin")
        .select(
            "carrier",
            "flight",
            "origin",
            "dest",
            "tailnum",
            asked.alias("event_timestamp"),
            scheduled.dt.epoch("s").cast(pl.Float64).alias("scheduled_departure"),
            (local.dt.hour() + local.dt.minute() / 60).cast(pl.Float32).alias("hour"),
            local.dt.weekday().cast(pl.Float32).alias("weekday"),
            local.dt.month().cast(pl.Float32).alias("month"),
            "arr_delay",
            (pl.col("arr_delay") >= minutes).cast(pl.Int8).alias("late"),
        )
    )
    return Labels(frame, excluded)


def request_fields(scheduled_departure: datetime) -> dict[str, float]:
    """The same fields for one request, from the scheduled departure (a time with a zone)."""
    if scheduled_departure.tzinfo is None:
        raise ValueError("scheduled_departure has no time zone; give one, such as 2013-07-01T12:00:00-04:00")
    local = scheduled_departure.astimezone(ZoneInfo(HOME_ZONE))
    return {
        "scheduled_departure": scheduled_departure.timestamp(),
        "hour": local.hour + local.minute / 60,
        "weekday": float(local.isoweekday()),
        "month": float(local.month),
    }
