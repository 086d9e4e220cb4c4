"""Local clock readings against the standard library's time zones, minute by minute."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.ingest.clock import by_zone, first_after, minutes_of, shown, to_utc

ZONES = [
    "America/New_York",
    "America/Los_Angeles",
    "America/Phoenix",
    "Pacific/Honolulu",
    "America/Puerto_Rico",
]
MINUTE = timedelta(minutes=1)
# Both nights of change of 2013, and days without one.
departures = st.one_of(
    *(
        st.integers(0, 48 * 60).map(lambda minute, day=day: day + minute * MINUTE)
        for day in (
            datetime(2013, 3, 9, 12, tzinfo=UTC),
            datetime(2013, 11, 2, 12, tzinfo=UTC),
            datetime(2013, 7, 1, tzinfo=UTC),
        )
    )
)


def one(expression: pl.Expr) -> object:
    return pl.select(expression).item()


@settings(max_examples=200, deadline=None)
@given(departures, st.sampled_from(ZONES), st.integers(0, 1439))
def test_an_arrival_is_the_first_moment_at_which_the_clocks_show_it(
    departure: datetime, zone: str, minutes: int
) -> None:
    local = departure.astimezone(ZoneInfo("America/New_York"))
    midnight = pl.lit(datetime(local.year, local.month, local.day))
    found = one(first_after(midnight, pl.lit(minutes), pl.lit(departure), zone))
    assert isinstance(found, datetime)
    assert found > departure
    clock = ZoneInfo(zone)
    later = departure + MINUTE
    while (seen := later.astimezone(clock)).hour * 60 + seen.minute != minutes:
        later += MINUTE
        if later - departure > timedelta(hours=25):
            break  # a reading that the night of the change left out
    if later - departure <= timedelta(hours=25) and later.astimezone(clock).fold == 0:
        assert found == later
    else:
        assert found - departure <= timedelta(hours=49)


@pytest.mark.parametrize(
    ("local", "latest", "expected"),
    [
        (datetime(2013, 3, 10, 1, 59), False, datetime(2013, 3, 10, 6, 59, tzinfo=UTC)),
        (datetime(2013, 3, 10, 2, 3), False, datetime(2013, 3, 10, 7, 3, tzinfo=UTC)),
        (datetime(2013, 3, 10, 3, 3), False, datetime(2013, 3, 10, 7, 3, tzinfo=UTC)),
        (datetime(2013, 11, 3, 1, 30), False, datetime(2013, 11, 3, 5, 30, tzinfo=UTC)),
        (datetime(2013, 11, 3, 1, 30), True, datetime(2013, 11, 3, 6, 30, tzinfo=UTC)),
        (datetime(2013, 11, 3, 2, 0), True, datetime(2013, 11, 3, 7, 0, tzinfo=UTC)),
    ],
)
def test_the_nights_of_change(local: datetime, latest: bool, expected: datetime) -> None:
    assert one(to_utc(pl.lit(local), "America/New_York", latest=latest)) == expected


@pytest.mark.parametrize(
    ("clock", "minutes"),
    [
        (0, 0),
        (1, 1),
        (59, 59),
        (60, None),
        (100, 60),
        (1359, 839),
        (2359, 1439),
        (2400, 1440),
        (2401, None),
        (-1, None),
    ],
)
def test_a_clock_reading_is_minutes_or_nothing(clock: int, minutes: int | None) -> None:
    assert one(minutes_of(pl.lit(clock))) == minutes


def test_each_row_is_told_by_its_own_zone_and_a_row_without_one_by_none() -> None:
    moment = datetime(2013, 7, 1, 12, tzinfo=UTC)
    frame = pl.DataFrame({"zone": ["America/New_York", None, "Pacific/Honolulu"], "at": [moment] * 3})
    found = by_zone(frame, "zone", lambda zone: {"clock": shown(pl.col("at"), zone)})
    assert dict(found.select("zone", "clock").iter_rows()) == {
        "America/New_York": 8 * 60,
        "Pacific/Honolulu": 2 * 60,
        None: None,
    }
