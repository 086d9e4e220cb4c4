"""Flights: true moments for every local clock reading, and what became of each flight."""

from __future__ import annotations

import polars as pl

from components.ingest.clock import by_zone, first_after, midnight, minutes_of, offset, shown, to_utc
from components.ingest.sources import ROW
from slipway.datasets import Decision

ARRIVED, DIVERTED, CANCELLED = "arrived", "diverted", "cancelled"
KEY = ("carrier", "flight", "origin", "scheduled_departure")


def derive(flights: pl.DataFrame, zones: pl.DataFrame) -> pl.DataFrame:
    """Adds the moments in UTC, the status, and what the checks compare; nothing is judged here.

    `zones` has the columns `airport` and `zone`.
    """
    frame = (
        flights.join(zones.rename({"airport": "origin", "zone": "origin_zone"}), on="origin", how="left")
        .join(zones.rename({"airport": "dest", "zone": "dest_zone"}), on="dest", how="left")
        .with_columns(
            midnight=midnight(),
            status=pl.when(pl.col("dep_time").is_null())
            .then(pl.lit(CANCELLED))
            .when(pl.col("arr_delay").is_null())
            .then(pl.lit(DIVERTED))
            .otherwise(pl.lit(ARRIVED)),
        )
    )
    frame = by_zone(frame, "origin_zone", _departure).with_columns(
        actual_departure=pl.col("scheduled_departure") + pl.duration(minutes="dep_delay")
    )
    frame = by_zone(frame, "origin_zone", lambda zone: _clock_check("departure", "dep_time", zone))
    frame = by_zone(frame, "dest_zone", _arrival).with_columns(
        actual_arrival=pl.col("scheduled_arrival") + pl.duration(minutes="arr_delay")
    )
    frame = by_zone(frame, "dest_zone", lambda zone: _clock_check("arrival", "arr_time", zone))
    return frame.with_columns(
        minutes_gate_to_gate=(pl.col("actual_arrival") - pl.col("actual_departure")).dt.total_minutes()
    ).sort(ROW)


def _departure(zone: str) -> dict[str, pl.Expr]:
    local = pl.col("midnight") + pl.duration(minutes=minutes_of(pl.col("sched_dep_time")))
    early, late = to_utc(local, zone), to_utc(local, zone, latest=True)
    told = pl.col("time_hour")
    return {
        # Only in the fold do the two differ, and then time_hour tells which of them is meant.
        "scheduled_departure": pl.when(late.dt.truncate("1h") == told).then(late).otherwise(early),
        "departure_in_fold": early != late,
    }


def _arrival(zone: str) -> dict[str, pl.Expr]:
    return {
        "scheduled_arrival": first_after(
            pl.col("midnight"), minutes_of(pl.col("sched_arr_time")), pl.col("scheduled_departure"), zone
        )
    }


def _clock_check(what: str, clock: str, zone: str) -> dict[str, pl.Expr]:
    """How far the clock reading is from the one that schedule and delay give, in minutes of [-720, 720)."""
    scheduled, actual = pl.col(f"scheduled_{what}"), pl.col(f"actual_{what}")
    apart = (shown(actual, zone) - minutes_of(pl.col(clock)) + 720) % 1440 - 720
    # A clock that nobody had set yet, in the night of a change, is an hour off, and the delay is right: the
    # one such flight of 2013 (gap of 10 March) agrees with its time in the air by the delay alone.
    excused = (apart.abs() == 60) & (offset(scheduled, zone) != offset(actual, zone))
    return {
        f"{what}_clock_apart": pl.when(excused).then(0).otherwise(apart),
        f"{what}_clock_excused": excused.fill_null(False),
    }


CLEAN = (
    "carrier", "flight", "tailnum", "origin", "dest", "status",
    "scheduled_departure", "actual_departure", "scheduled_arrival", "actual_arrival",
    "dep_delay", "arr_delay", "air_time", "distance",
    "year", "month", "day", "sched_dep_time", "dep_time", "sched_arr_time", "arr_time",
    "origin_zone", "dest_zone",
)  # fmt: skip


def decisions(flights: pl.DataFrame, by_hand: pl.DataFrame) -> list[Decision]:
    """What the accepted rows left open, how it is settled here, and how many rows each touched."""
    counted: list[tuple[str, str, pl.Expr]] = [
        (
            "cancelled",
            "no departure time: cancelled. Kept; it counts into congestion, and has no label.",
            pl.col("status") == CANCELLED,
        ),
        (
            "diverted",
            "departed, but no arrival delay: diverted. Kept; its departure counts, its arrival never does "
            "(a later arr_time is when it came on from elsewhere), and it has no label.",
            pl.col("status") == DIVERTED,
        ),
        (
            "diverted and came on",
            "of those, the ones with an arr_time.",
            (pl.col("status") == DIVERTED) & pl.col("arr_time").is_not_null(),
        ),
        (
            "tail number missing",
            "kept with a null tail number: such a flight has no last leg and no seats. All are cancelled.",
            pl.col("tailnum").is_null(),
        ),
        (
            "tail number missing, departed",
            "of those, the ones that departed.",
            pl.col("tailnum").is_null() & (pl.col("status") != CANCELLED),
        ),
        (
            "departed after midnight",
            "left on a later date than scheduled; the moment is schedule plus delay.",
            pl.col("actual_departure").is_not_null()
            & (minutes_of(pl.col("sched_dep_time")) + pl.col("dep_delay") >= 1440),
        ),
        (
            "arrives after midnight",
            "scheduled to land by a clock that is earlier than that of its departure: on the next day, by "
            "the destination's own time zone.",
            minutes_of(pl.col("sched_arr_time")) < minutes_of(pl.col("sched_dep_time")),
        ),
        (
            "clock says 2400",
            "the midnight that ends the day.",
            (pl.col("dep_time") == 2400) | (pl.col("arr_time") == 2400),
        ),
        (
            "departure in the autumn fold",
            "its hour comes twice; time_hour says which is meant, and without it the first is taken.",
            pl.col("departure_in_fold"),
        ),
        (
            "clock in the night of a change",
            "reads an hour off because it was not set yet; the delay is right.",
            pl.col("departure_clock_excused") | pl.col("arrival_clock_excused"),
        ),
        (
            "destination not in airports",
            "BQN, PSE, SJU and STT: Atlantic time, told by hand.",
            pl.col("dest").is_in(by_hand.get_column("airport").implode()),
        ),
    ]
    counts = flights.select(pl.when(rows).then(1).sum().alias(name) for name, _, rows in counted).row(
        0, named=True
    )
    return [Decision(name, counts[name], text) for name, text, _ in counted]
