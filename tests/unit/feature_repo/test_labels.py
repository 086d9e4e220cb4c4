"""Questions and answers: who is asked about, with what, and who is left out."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from feature_repo import LEAD, label_frame, request_fields
from tests.support.flights import Flight, to_frame

NOON = datetime(2013, 7, 1, 16, 30, tzinfo=UTC)  # 12:30 in New York, a Monday


def flight(number: int, dep_delay: int | None, arr_delay: int | None, at: datetime = NOON) -> Flight:
    return Flight("AA", number, "EWR", "ORD", "N1", at, at + timedelta(hours=2), dep_delay, arr_delay)


def test_only_flights_that_arrived_are_asked_about_and_the_others_counted() -> None:
    flights = [
        flight(1, 0, 14),
        flight(2, 0, 15),
        flight(3, None, None),
        flight(4, 0, None),
        flight(5, -60, 20),
    ]
    labels = label_frame(to_frame(flights))
    assert labels.frame.select("flight", "late").rows() == [(1, 0), (2, 1)]
    assert labels.excluded == {"cancelled": 1, "diverted": 1, "departed before the question": 1}
    assert label_frame(to_frame(flights), minutes=14).frame["late"].to_list() == [1, 1]


def test_the_window_is_that_of_the_scheduled_departures_with_its_start_and_without_its_end() -> None:
    hours = [flight(number, 0, 0, NOON + timedelta(hours=number)) for number in range(4)]
    labels = label_frame(to_frame(hours), start=NOON + timedelta(hours=1), end=NOON + timedelta(hours=3))
    assert labels.frame["flight"].to_list() == [1, 2]


@pytest.mark.parametrize(
    "at", [NOON, datetime(2013, 1, 1, 4, 59, tzinfo=UTC), datetime(2013, 11, 3, 6, 1, tzinfo=UTC)]
)
def test_a_request_brings_what_the_training_set_has(at: datetime) -> None:
    row = label_frame(to_frame([flight(1, 0, 0, at)])).frame.row(0, named=True)
    assert row["event_timestamp"] == at - LEAD
    assert {name: row[name] for name in request_fields(at)} == pytest.approx(request_fields(at), rel=1e-7)


def test_request_fields_are_local_and_need_a_zone() -> None:
    assert request_fields(NOON) == {
        "scheduled_departure": NOON.timestamp(),
        "hour": 12.5,
        "weekday": 1.0,
        "month": 7.0,
    }
    with pytest.raises(ValueError, match="no time zone"):
        request_fields(datetime(2013, 7, 1, 12))
