"""The feature tables, one function each: what was known, and from which moment on.

Every table has its entity keys, `event_timestamp`, and its features; a row holds from its timestamp until
the next one of its key. The timestamp is the moment at which the row could first have been written down:

- a departure and its delay: when the plane left;
- an arrival and its delay: when it landed;
- that a flight has not left: at every moment by itself; nobody needs to be told. The table does not say when
  a cancellation was announced, so a flight counts as cancelled once it is three hours late and has not left,
  and stops to if it leaves after all;
- a schedule: long before; it enters two hours ahead;
- an hour's weather: when the hour is over, for its observation is taken within it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

import polars as pl

from feature_repo.windows import Windows

TIME = "event_timestamp"
HISTORY: Mapping[str, timedelta] = {
    "1h": timedelta(hours=1),
    "24h": timedelta(hours=24),
    "7d": timedelta(days=7),
}
BOARD: Mapping[str, timedelta] = {
    "1h": timedelta(hours=1),
    "3h": timedelta(hours=3),
    "24h": timedelta(hours=24),
}
LATE = 15
"""Minutes from which on a flight counts as late (the DOT's definition)."""
OVERDUE_AFTER = timedelta(minutes=LATE)
CANCELLED_AFTER = timedelta(hours=3)
CANCELLED_FOR = timedelta(hours=24)
WEATHER_DELAY = timedelta(hours=1)
ALWAYS = datetime(1970, 1, 1, tzinfo=UTC)
"""The event time of what does not change: seats of a plane, length of a route."""


def carrier_delays(flights: pl.DataFrame) -> pl.DataFrame:
    return _arrivals(flights, ["carrier"], "carrier")


def destination_delays(flights: pl.DataFrame) -> pl.DataFrame:
    return _arrivals(flights, ["dest"], "dest")


def destination_departures(flights: pl.DataFrame) -> pl.DataFrame:
    return _board(flights, ["dest"], "dest")


def origin_congestion(flights: pl.DataFrame) -> pl.DataFrame:
    return _board(flights, ["origin"], "origin", ahead=True)


def carrier_at_origin(flights: pl.DataFrame) -> pl.DataFrame:
    return _board(flights, ["carrier", "origin"], "carrier_origin")


def last_leg(flights: pl.DataFrame) -> pl.DataFrame:
    """The plane's latest flight out of New York: one row when it leaves, one when it lands.

    `leg_due_at` is when it lands: the schedule plus the delay of its departure while it is in the air, the
    true time once it is down. `leg_back_at` adds the way back, as long as the way out was scheduled to take.
    """
    flown = flights.filter(pl.col("tailnum").is_not_null() & pl.col("actual_departure").is_not_null())
    outbound = pl.col("scheduled_arrival") - pl.col("scheduled_departure")
    common = {
        "departed": pl.col("actual_departure"),
        "leg_departure_delay": pl.col("dep_delay").cast(pl.Float32),
        "leg_distance": pl.col("distance").cast(pl.Float32),
    }
    expected = pl.col("scheduled_arrival") + pl.duration(minutes="dep_delay")
    left = flown.select(
        "tailnum",
        pl.col("actual_departure").alias(TIME),
        **common,
        leg_arrival_delay=pl.lit(None, pl.Float32),
        leg_due_at=_epoch(expected),
        leg_back_at=_epoch(expected + outbound),
    )
    landed = flown.filter(pl.col("actual_arrival").is_not_null()).select(
        "tailnum",
        pl.col("actual_arrival").alias(TIME),
        **common,
        leg_arrival_delay=pl.col("arr_delay").cast(pl.Float32),
        leg_due_at=_epoch(pl.col("actual_arrival")),
        leg_back_at=_epoch(pl.col("actual_arrival") + outbound),
    )
    # Where a tail number is wrong, a plane leaves before it landed (126 flights of 2013): the later departure
    # is the latest leg, and the landing of an earlier one says nothing about it.
    rows = pl.concat([left, landed]).sort("tailnum", TIME, "departed", "leg_due_at")
    newest = pl.col("departed") >= pl.col("departed").cum_max().over("tailnum")
    return rows.filter(newest).unique(["tailnum", TIME], keep="last", maintain_order=True).drop("departed")


def weather(observations: pl.DataFrame) -> pl.DataFrame:
    three_hours = timedelta(hours=3)
    before = observations.select(
        "origin", pl.col("time_hour") + three_hours, pressure_before=pl.col("pressure")
    )
    return (
        observations.join(before, on=["origin", "time_hour"], how="left")
        .sort("origin", "time_hour")
        .select(
            "origin",
            (pl.col("time_hour") + WEATHER_DELAY).alias(TIME),
            *(
                pl.col(name).cast(pl.Float32)
                for name in ("temp", "dewp", "humid", "wind_dir", "wind_speed", "precip", "pressure", "visib")
            ),
            # No gust is reported where there is none: then the wind itself is the strongest.
            pl.max_horizontal("wind_gust", "wind_speed").cast(pl.Float32).alias("wind_gust"),
            pl.col("precip")
            .rolling_sum_by("time_hour", window_size="3h")
            .over("origin")
            .cast(pl.Float32)
            .alias("precip_3h"),
            (pl.col("pressure") - pl.col("pressure_before")).cast(pl.Float32).alias("pressure_change_3h"),
        )
    )


def plane(planes: pl.DataFrame) -> pl.DataFrame:
    return planes.sort("tailnum").select(
        "tailnum",
        pl.lit(ALWAYS).cast(pl.Datetime("us", "UTC")).alias(TIME),
        pl.col("seats").cast(pl.Int64),
    )


def route(flights: pl.DataFrame) -> pl.DataFrame:
    """The length of a route. Where the table changes it (two routes of 2013), the new one holds from a day
    before the first flight that has it: schedules are known by then."""
    distance = pl.col("distance")
    changed = distance != distance.shift(1).over("origin", "dest")
    return (
        flights.select("origin", "dest", "scheduled_departure", "carrier", "flight", "distance")
        .sort("origin", "dest", "scheduled_departure", "carrier", "flight")
        .filter(changed.fill_null(True))
        .select(
            "origin",
            "dest",
            pl.when(pl.int_range(pl.len()).over("origin", "dest") == 0)
            .then(pl.lit(ALWAYS))
            .otherwise(pl.col("scheduled_departure") - timedelta(days=1))
            .cast(pl.Datetime("us", "UTC"))
            .alias(TIME),
            distance.cast(pl.Float32),
        )
        .unique(["origin", "dest", TIME], keep="last", maintain_order=True)
    )


def _arrivals(flights: pl.DataFrame, keys: list[str], prefix: str) -> pl.DataFrame:
    """How many landed in each window, their mean delay, and the share that was late."""
    windows = Windows(flights.select(*keys, "actual_arrival", "arr_delay"), keys)
    windows.add_windows(_counted("arr_delay"), HISTORY, at="actual_arrival")
    names = f"{prefix}_arrivals", f"{prefix}_arrival_delay", f"{prefix}_late_share"
    return _until_end(windows, flights).select(*keys, TIME, *_means(HISTORY, *names))


def _board(flights: pl.DataFrame, keys: list[str], prefix: str, *, ahead: bool = False) -> pl.DataFrame:
    """What the departure board tells: who left and how late, who should have left, who will not."""
    scheduled, gone = pl.col("scheduled_departure"), pl.col("actual_departure")
    given_up = scheduled + CANCELLED_AFTER
    spans = {
        f"{prefix}_overdue": (scheduled + OVERDUE_AFTER, pl.min_horizontal(gone, given_up)),
        f"{prefix}_cancelled_24h": (given_up, pl.min_horizontal(gone, given_up + CANCELLED_FOR)),
    }
    if ahead:
        for hours in (1, 2):
            spans[f"{prefix}_scheduled_next_{hours}h"] = (scheduled - timedelta(hours=hours), scheduled)
    windows = Windows(flights.select(*keys, "scheduled_departure", "actual_departure", "dep_delay"), keys)
    windows.add_windows(_counted("dep_delay"), BOARD, at="actual_departure")
    windows.add_spans(spans)
    names = f"{prefix}_departures", f"{prefix}_departure_delay", f"{prefix}_departure_late_share"
    return _until_end(windows, flights).select(*keys, TIME, *_means(BOARD, *names), *spans)


def _counted(delay: str) -> dict[str, pl.Expr]:
    return {"n": pl.lit(1), "delay": pl.col(delay), "late": pl.col(delay) >= LATE}


def _means(windows: Mapping[str, timedelta], count: str, mean: str, share: str) -> list[pl.Expr]:
    """Count, mean delay and share of late ones; the latter two are null where nothing was counted."""
    made: list[pl.Expr] = []
    for window in windows:
        number = pl.col(f"n_{window}")
        some = pl.when(number > 0)
        made.append(number.alias(f"{count}_{window}"))
        made.append(some.then(pl.col(f"delay_{window}") / number).cast(pl.Float32).alias(f"{mean}_{window}"))
        made.append(some.then(pl.col(f"late_{window}") / number).cast(pl.Float32).alias(f"{share}_{window}"))
    return made


def _until_end(windows: Windows, flights: pl.DataFrame) -> pl.DataFrame:
    """Past the last scheduled departure of the table a window would seem to empty, only because nobody told
    what came then."""
    end = flights["scheduled_departure"].max()
    return windows.totals(at=TIME).filter(pl.col(TIME) <= pl.lit(end))


def _epoch(moment: pl.Expr) -> pl.Expr:
    """Seconds since 1970 in a Float64: exact, and null becomes the NaN that a model takes for missing."""
    return moment.dt.epoch("s").cast(pl.Float64)


Compute = Callable[[pl.DataFrame], pl.DataFrame]
TABLES: Mapping[str, tuple[str, Sequence[str], Compute]] = {
    "carrier_delays": ("flights", ("carrier",), carrier_delays),
    "destination_delays": ("flights", ("dest",), destination_delays),
    "destination_departures": ("flights", ("dest",), destination_departures),
    "origin_congestion": ("flights", ("origin",), origin_congestion),
    "carrier_at_origin": ("flights", ("carrier", "origin"), carrier_at_origin),
    "last_leg": ("flights", ("tailnum",), last_leg),
    "weather": ("weather", ("origin",), weather),
    "plane": ("planes", ("tailnum",), plane),
    "route": ("flights", ("origin", "dest"), route),
}
"""View → the table it is made from, its entity keys, and how."""
