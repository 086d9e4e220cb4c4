"""The feature tables against a slow reference, and against other futures."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from feature_repo.tables import ALWAYS, TABLES, last_leg, plane, route, weather
from tests.support.flights import MINUTE, START, Flight, another_future, as_of, flight, to_frame

HOUR = timedelta(hours=1)
WINDOWED = {
    "carrier_delays": ("carrier",),
    "destination_delays": ("dest",),
    "destination_departures": ("dest",),
    "origin_congestion": ("origin",),
    "carrier_at_origin": ("carrier", "origin"),
}
OF_FLIGHTS = {name: tuple(keys) for name, (table, keys, _) in TABLES.items() if table == "flights"}
SPANS = {"1h": HOUR, "3h": 3 * HOUR, "24h": 24 * HOUR, "7d": 168 * HOUR}

some = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
tables = st.lists(flight(), min_size=1, max_size=25)
moments = st.integers(0, 4 * 24 * 60).map(lambda minute: START + minute * MINUTE)


def compute(view: str, flights: list[Flight]) -> pl.DataFrame:
    return TABLES[view][2](to_frame(flights))


def mean(values: list[int]) -> float | None:
    """As a Float32 holds it."""
    return float(np.float32(sum(values) / len(values))) if values else None


def windowed(
    prefix: str, what: str, delays: list[tuple[datetime, int]], windows: list[str], now: datetime
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for window in windows:
        inside = [delay for at, delay in delays if now - SPANS[window] < at <= now]
        late = f"{prefix}_late_share" if what == "arrival" else f"{prefix}_departure_late_share"
        found[f"{prefix}_{what}s_{window}"] = len(inside)
        found[f"{prefix}_{what}_delay_{window}"] = mean(inside)
        found[f"{late}_{window}"] = mean([delay >= 15 for delay in inside])
    return found


def reference(view: str, mine: list[Flight], now: datetime) -> dict[str, Any]:
    """The features of one key at a moment, from nothing but what had happened by then."""
    mine = [one.as_known_at(now) for one in mine]
    if view in ("carrier_delays", "destination_delays"):
        landed = [(one.actual_arrival, one.arr_delay) for one in mine if one.arr_delay is not None]
        return windowed(
            "carrier" if view == "carrier_delays" else "dest", "arrival", landed, ["1h", "24h", "7d"], now
        )
    prefix = {"destination_departures": "dest", "origin_congestion": "origin"}.get(view, "carrier_origin")
    left = [(one.actual_departure, one.dep_delay) for one in mine if one.dep_delay is not None]
    found = windowed(prefix, "departure", left, ["1h", "3h", "24h"], now)
    waiting = [now - one.scheduled_departure for one in mine if one.dep_delay is None]
    found[f"{prefix}_overdue"] = sum(15 * MINUTE <= since < 3 * HOUR for since in waiting)
    found[f"{prefix}_cancelled_24h"] = sum(3 * HOUR <= since < 27 * HOUR for since in waiting)
    if view == "origin_congestion":
        for hours in (1, 2):
            ahead = [one.scheduled_departure - now for one in mine]
            found[f"origin_scheduled_next_{hours}h"] = sum(0 * HOUR < left <= hours * HOUR for left in ahead)
    return found


@pytest.mark.parametrize("view", WINDOWED)
@some
@given(flights=tables, moment=moments)
def test_windows_equal_the_reference(view: str, flights: list[Flight], moment: datetime) -> None:
    keys = WINDOWED[view]
    moment = min(moment, max(one.scheduled_departure for one in flights))
    rows = {
        tuple(row[key] for key in keys): row
        for row in as_of(compute(view, flights), keys, [moment]).drop("at").to_dicts()
    }
    for key in {tuple(getattr(one, name) for name in keys) for one in flights}:
        mine = [one for one in flights if tuple(getattr(one, name) for name in keys) == key]
        expected = reference(view, mine, moment)
        found = rows.get(key)
        if found is None:
            assert not any(expected.values()), "there is no row, and something had happened"
            continue
        assert {name: found[name] for name in expected} == expected
        assert set(found) == {*keys, *expected}


@some
@given(flights=tables, moment=moments)
def test_the_last_leg_is_the_latest_departure(flights: list[Flight], moment: datetime) -> None:
    found = {
        row["tailnum"]: row for row in as_of(last_leg(to_frame(flights)), ("tailnum",), [moment]).to_dicts()
    }
    for tail in ("N1", "N2"):
        known = [one.as_known_at(moment) for one in flights if one.tailnum == tail]
        legs = [one for one in known if one.dep_delay is not None]
        if not legs:
            assert tail not in found
            continue
        newest = max(one.actual_departure for one in legs)
        candidates = [one for one in legs if one.actual_departure == newest]
        outbound = [one.scheduled_arrival - one.scheduled_departure for one in candidates]
        due = [one.actual_arrival or one.scheduled_arrival + one.dep_delay * MINUTE for one in candidates]
        row = found[tail]
        assert row["leg_arrival_delay"] in [one.arr_delay for one in candidates]
        assert row["leg_departure_delay"] in [one.dep_delay for one in candidates]
        assert row["leg_due_at"] in [moment.timestamp() for moment in due]
        assert row["leg_back_at"] in [(at + way).timestamp() for at, way in zip(due, outbound, strict=True)]
    assert None not in found


@pytest.mark.parametrize("view", OF_FLIGHTS)
@some
@given(data=st.data(), flights=tables, moment=moments)
def test_another_future_changes_no_past_feature(
    view: str, data: st.DataObject, flights: list[Flight], moment: datetime
) -> None:
    moment = min(moment, max(one.scheduled_departure for one in flights))
    others = data.draw(another_future(flights, moment))
    keys = OF_FLIGHTS[view]
    known = pl.col("event_timestamp") <= moment
    before, after = (
        compute(view, table).filter(known).sort(*keys, "event_timestamp") for table in (flights, others)
    )
    if view == "route":  # a route that nobody had heard of has a length all the same, by its first flight
        heard = to_frame([one for one in flights if one.scheduled_departure <= moment]).select(keys)
        before, after = (table.join(heard, on=keys, how="semi") for table in (before, after))
    # Rows may be written at moments at which nothing changed; what is read as of any moment must not differ.
    times = [*before["event_timestamp"], *after["event_timestamp"], moment]
    assert_frame_equal(as_of(before, keys, times), as_of(after, keys, times))


def simple(**changes: Any) -> Flight:
    given = {
        "carrier": "AA", "flight": 1, "origin": "EWR", "dest": "ORD", "tailnum": "N1",
        "scheduled_departure": START + 10 * HOUR, "scheduled_arrival": START + 12 * HOUR,
        "dep_delay": 0, "arr_delay": 0,
    }  # fmt: skip
    return Flight(**{**given, **changes})


def value(view: str, flights: list[Flight], name: str, at: datetime) -> Any:
    end = simple(
        carrier="ZZ",
        origin="JFK",
        dest="LAX",
        tailnum=None,
        scheduled_departure=START + 400 * HOUR,
        scheduled_arrival=START + 402 * HOUR,
    )
    table = as_of(compute(view, [*flights, end]), OF_FLIGHTS[view], [at])
    found = [
        row
        for row in table.to_dicts()
        if "ZZ" not in row.values() and "JFK" not in row.values() and "LAX" not in row.values()
    ]
    return found[0][name] if found else None


def test_a_delay_counts_from_the_landing_on_and_not_a_minute_before() -> None:
    late = [simple(dep_delay=50, arr_delay=40)]
    landing = START + 12 * HOUR + 40 * MINUTE
    assert value("carrier_delays", late, "carrier_arrival_delay_24h", landing - MINUTE) is None
    assert value("carrier_delays", late, "carrier_arrival_delay_24h", landing) == 40
    assert value("carrier_delays", late, "carrier_arrivals_1h", landing + 59 * MINUTE) == 1
    assert value("carrier_delays", late, "carrier_arrivals_1h", landing + HOUR) == 0
    assert value("carrier_delays", late, "carrier_late_share_7d", landing + 167 * HOUR) == 1.0
    assert value("carrier_delays", late, "carrier_arrivals_7d", landing + 168 * HOUR) == 0


def test_a_cancelled_and_a_very_late_flight_look_alike_until_one_leaves() -> None:
    scheduled = START + 10 * HOUR
    never, very_late = [simple(dep_delay=None, arr_delay=None)], [simple(dep_delay=300, arr_delay=300)]
    for flights in (never, very_late):
        overdue = [
            value("origin_congestion", flights, "origin_overdue", scheduled + at * MINUTE)
            for at in (14, 15, 179, 180)
        ]
        assert overdue == [0, 1, 1, 0]
        cancelled = [
            value("origin_congestion", flights, "origin_cancelled_24h", scheduled + at * MINUTE)
            for at in (179, 180, 299)
        ]
        assert cancelled == [0, 1, 1]
    at = scheduled + 300 * MINUTE
    assert value("origin_congestion", never, "origin_cancelled_24h", at) == 1
    assert value("origin_congestion", very_late, "origin_cancelled_24h", at) == 0
    assert value("origin_congestion", never, "origin_cancelled_24h", scheduled + 27 * HOUR) == 0


def test_a_diverted_flight_departs_and_never_lands() -> None:
    diverted = [simple(arr_delay=None)]
    later = START + 30 * HOUR
    assert value("carrier_delays", diverted, "carrier_arrivals_7d", later) is None
    assert value("carrier_at_origin", diverted, "carrier_origin_departures_24h", later) == 1
    assert value("last_leg", diverted, "leg_arrival_delay", later) is None
    assert value("last_leg", diverted, "leg_departure_delay", later) == 0


def test_nothing_is_claimed_past_the_last_schedule() -> None:
    end = simple(scheduled_departure=START + 20 * HOUR, scheduled_arrival=START + 21 * HOUR)
    for view in WINDOWED:
        table = compute(view, [simple(), end])
        assert table["event_timestamp"].max() <= START + 20 * HOUR
    assert last_leg(to_frame([end]))["event_timestamp"].max() == START + 21 * HOUR


def test_a_landing_of_an_older_leg_does_not_hide_the_newer_departure() -> None:
    slow = simple(scheduled_arrival=START + 20 * HOUR, dep_delay=1, distance=1)
    newer = simple(
        scheduled_departure=START + 15 * HOUR, scheduled_arrival=START + 30 * HOUR, dep_delay=2, distance=2
    )
    table = last_leg(to_frame([slow, newer]))
    assert as_of(table, ("tailnum",), [START + 21 * HOUR])["leg_distance"].to_list() == [2]


def hourly(hours: list[int], **columns: list[float | None]) -> pl.DataFrame:
    names = ("temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib")
    nothing: list[float | None] = [None] * len(hours)
    data = {name: columns.get(name, nothing) for name in names}
    times = pl.Series("time_hour", [START + hour * HOUR for hour in hours], pl.Datetime("us", "UTC"))
    return pl.DataFrame(
        {"origin": ["EWR"] * len(hours), "time_hour": times, **data},
        schema_overrides=dict.fromkeys(names, pl.Float64),
    )


def test_weather_is_known_when_its_hour_is_over() -> None:
    found = weather(hourly([0, 1], temp=[50.0, 60.0]))
    assert found["event_timestamp"].to_list() == [START + HOUR, START + 2 * HOUR]
    assert as_of(found, ("origin",), [START + 2 * HOUR - MINUTE])["temp"].to_list() == [50.0]


def test_weather_over_three_hours_minds_the_gaps() -> None:
    found = weather(
        hourly(
            [0, 1, 2, 3, 5],
            precip=[1.0, 2.0, 4.0, 8.0, 16.0],
            pressure=[1000.0, 1001.0, 1002.0, 1005.0, 1009.0],
        )
    )
    assert found["precip_3h"].to_list() == [1.0, 3.0, 7.0, 14.0, 24.0]
    assert found["pressure_change_3h"].to_list() == [None, None, None, 5.0, 7.0]


def test_the_wind_is_the_gust_where_none_is_told() -> None:
    found = weather(hourly([0, 1, 2], wind_speed=[10.0, 10.0, None], wind_gust=[None, 25.0, None]))
    assert found["wind_gust"].to_list() == [10.0, 25.0, None]


def test_what_never_changes_was_always_known() -> None:
    register = pl.DataFrame({"tailnum": ["N2", "N1"], "seats": [100, 50]})
    assert plane(register).rows() == [("N1", ALWAYS, 50), ("N2", ALWAYS, 100)]
    same = [simple(), simple(flight=2, scheduled_departure=START + 30 * HOUR)]
    assert route(to_frame(same)).rows() == [("EWR", "ORD", ALWAYS, 1000.0)]


def test_a_route_that_changes_its_length_has_both_each_in_its_time() -> None:
    changed = [simple(distance=100), simple(flight=2, distance=200, scheduled_departure=START + 50 * HOUR)]
    assert route(to_frame(changed)).select("event_timestamp", "distance").rows() == [
        (ALWAYS, 100.0),
        (START + 26 * HOUR, 200.0),
    ]
    assert datetime(1970, 1, 1, tzinfo=UTC) == ALWAYS
