"""Flights for tests: random tables by hypothesis, and what of a table is known at a moment."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import polars as pl
from hypothesis import strategies as st

START = datetime(2013, 3, 9, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


@dataclass(frozen=True)
class Flight:
    carrier: str
    flight: int
    origin: str
    dest: str
    tailnum: str | None
    scheduled_departure: datetime
    scheduled_arrival: datetime
    dep_delay: int | None
    """None: it never left."""
    arr_delay: int | None
    """None: it never landed where it should."""
    distance: int = 1000

    @property
    def actual_departure(self) -> datetime | None:
        return None if self.dep_delay is None else self.scheduled_departure + self.dep_delay * MINUTE

    @property
    def actual_arrival(self) -> datetime | None:
        return None if self.arr_delay is None else self.scheduled_arrival + self.arr_delay * MINUTE

    @property
    def status(self) -> str:
        if self.dep_delay is None:
            return "cancelled"
        return "diverted" if self.arr_delay is None else "arrived"

    def as_known_at(self, moment: datetime) -> Flight:
        """This flight by what had happened until then: what is to come is as if it never will."""
        left, landed = self.actual_departure, self.actual_arrival
        return replace(
            self,
            dep_delay=self.dep_delay if left is not None and left <= moment else None,
            arr_delay=self.arr_delay if landed is not None and landed <= moment else None,
        )


_TYPES: Mapping[str, pl.DataType | type[pl.DataType]] = {
    "carrier": pl.String,
    "flight": pl.Int32,
    "origin": pl.String,
    "dest": pl.String,
    "tailnum": pl.String,
    "status": pl.String,
    "scheduled_departure": pl.Datetime("us", "UTC"),
    "actual_departure": pl.Datetime("us", "UTC"),
    "scheduled_arrival": pl.Datetime("us", "UTC"),
    "actual_arrival": pl.Datetime("us", "UTC"),
    "dep_delay": pl.Int32,
    "arr_delay": pl.Int32,
    "distance": pl.Int32,
}


def to_frame(flights: list[Flight]) -> pl.DataFrame:
    """The columns of the ingested table that features are made of."""
    rows = [{name: getattr(flight, name) for name in _TYPES} for flight in flights]
    return pl.DataFrame(rows, schema=dict(_TYPES))


@st.composite
def flight(draw: st.DrawFn, *, earliest: int = 0, latest: int = 2 * 24 * 60) -> Flight:
    departure = START + draw(st.integers(earliest, latest)) * MINUTE
    block = draw(st.integers(30, 400))
    # Delays cluster at the bounds that features know: 15 minutes and three hours.
    delay = st.one_of(
        st.integers(-30, 60), st.sampled_from([14, 15, 16, 179, 180, 181]), st.integers(0, 2000)
    )
    left = draw(st.none() | delay)
    landed = None if left is None else draw(st.none() | st.integers(-20, 200).map(lambda late: left + late))
    return Flight(
        carrier=draw(st.sampled_from(["AA", "B6"])),
        flight=draw(st.integers(1, 9999)),
        origin=draw(st.sampled_from(["EWR", "JFK"])),
        dest=draw(st.sampled_from(["LAX", "ORD"])),
        tailnum=draw(st.sampled_from([None, "N1", "N2"])),
        scheduled_departure=departure,
        scheduled_arrival=departure + block * MINUTE,
        dep_delay=left,
        arr_delay=None if landed is None else max(landed, left - block + 1),
        distance=draw(st.sampled_from([200, 1000])),
    )


@st.composite
def another_future(draw: st.DrawFn, flights: list[Flight], moment: datetime) -> list[Flight]:
    """The same flights up to a moment, and other things after it: all that had not happened may change."""
    changed = []
    for one in flights:
        left, landed = one.actual_departure, one.actual_arrival
        if left is None or left > moment:
            soonest = int((moment - one.scheduled_departure) / MINUTE) + 1
            delay = draw(st.none() | st.integers(max(soonest, -30), max(soonest, -30) + 3000))
            later = None if delay is None else draw(st.none() | st.integers(delay, delay + 300))
            one = replace(one, dep_delay=delay, arr_delay=later)
        elif landed is None or landed > moment:
            soonest = int((moment - one.scheduled_arrival) / MINUTE) + 1
            one = replace(one, arr_delay=draw(st.none() | st.integers(soonest, soonest + 3000)))
        changed.append(one)
    more = draw(st.lists(flight(), max_size=3))
    # Schedules are known ahead, two hours of them count: flights that nobody heard of come later than that.
    return changed + [
        replace(
            one,
            scheduled_departure=one.scheduled_departure + shift,
            scheduled_arrival=one.scheduled_arrival + shift,
        )
        for one in more
        if (shift := moment + timedelta(days=1, minutes=1) - START)
    ]


def as_of(table: pl.DataFrame, keys: tuple[str, ...], moments: Iterable[datetime]) -> pl.DataFrame:
    """The latest row of every key at each moment, in the column `at`; keys without one are not in it."""
    at = pl.Series("at", sorted(set(moments)), pl.Datetime("us", "UTC")).to_frame()
    asked = at.join(table.select(keys).unique(), how="cross").sort("at", *keys)
    found = asked.join_asof(
        table.sort("event_timestamp"),
        left_on="at",
        right_on="event_timestamp",
        by=list(keys),
        coalesce=False,
        check_sortedness=False,
    )
    return found.filter(pl.col("event_timestamp").is_not_null()).drop("event_timestamp")
