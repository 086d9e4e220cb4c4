"""Running windows against a scan of the events at every moment."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_repo.windows import Windows
from tests.support.flights import as_of

START = datetime(2013, 1, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
WINDOWS = {"short": 5 * MINUTE, "long": 17 * MINUTE}
Event = tuple[str, int | None, int, int]
"""Key, minute or never, amount, length of its span."""

events = st.lists(
    st.tuples(
        st.sampled_from("ab"), st.none() | st.integers(0, 60), st.integers(-99, 99), st.integers(-3, 20)
    ),
    max_size=25,
)


def frame(rows: list[Event]) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "key": [row[0] for row in rows],
            "at": [None if row[1] is None else START + row[1] * MINUTE for row in rows],
            "amount": [row[2] for row in rows],
            "length": [row[3] for row in rows],
        },
        schema={"key": pl.String, "at": pl.Datetime("us", "UTC"), "amount": pl.Int32, "length": pl.Int32},
    )


def totals(rows: list[Event]) -> pl.DataFrame:
    windows = Windows(frame(rows), ["key"])
    windows.add_windows({"n": pl.lit(1), "sum": pl.col("amount")}, WINDOWS, at="at")
    end = pl.col("at") + pl.duration(minutes="length")
    windows.add_spans({"inside": (pl.col("at"), end)})
    return windows.totals(at="event_timestamp")


@settings(max_examples=60, deadline=None)
@given(events)
def test_every_moment_equals_a_scan(rows: list[Event]) -> None:
    table = totals(rows)
    assert not table.select("key", "event_timestamp").is_duplicated().any()
    moments = [START + minute * MINUTE for minute in range(85)]
    found = {(row["key"], row["at"]): row for row in as_of(table, ("key",), moments).to_dicts()}
    for minute, moment in enumerate(moments):
        for key in "ab":
            mine = [
                (at, amount, length) for name, at, amount, length in rows if name == key and at is not None
            ]
            row = found.get((key, moment))
            if row is None:
                assert not [at for at, _, _ in mine if at <= minute], "an event before the first row"
                continue
            for window, length in WINDOWS.items():
                inside = [amount for at, amount, _ in mine if minute - length // MINUTE < at <= minute]
                assert row[f"n_{window}"] == len(inside)
                assert row[f"sum_{window}"] == sum(inside)
            assert row["inside"] == sum(at <= minute < at + length for at, _, length in mine)


def test_an_event_enters_at_its_time_and_leaves_a_window_later() -> None:
    found = totals([("a", 10, 7, 0)]).sort("event_timestamp")
    minutes = [(moment - START) // MINUTE for moment in found["event_timestamp"]]
    assert minutes == [10, 15, 27]
    assert found["sum_short"].to_list() == [7, 0, 0]
    assert found["sum_long"].to_list() == [7, 7, 0]


def test_two_keys_make_one_and_none_is_confused_with_another() -> None:
    rows = pl.DataFrame(
        {"x": ["a", "a", "b"], "y": ["c", "d", "c"], "at": [START] * 3},
        schema_overrides={"at": pl.Datetime("us", "UTC")},
    )
    windows = Windows(rows, ["x", "y"])
    windows.add_windows({"n": pl.lit(1)}, {"w": MINUTE}, at="at")
    found = windows.totals(at="t").sort("x", "y", "t")
    assert found.select("x", "y", "n_w").rows() == [
        ("a", "c", 1), ("a", "c", 0), ("a", "d", 1), ("a", "d", 0), ("b", "c", 1), ("b", "c", 0),
    ]  # fmt: skip
    assert found["t"].dtype == pl.Datetime("us", "UTC")


def test_no_events_make_no_rows_of_the_same_columns() -> None:
    assert totals([]).is_empty()
    assert totals([]).columns == totals([("a", 1, 1, 1)]).columns
