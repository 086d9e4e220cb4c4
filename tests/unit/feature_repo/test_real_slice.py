"""The real flights of ten days in which everything happened, with other futures."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from components.ingest.check import check_tables
from components.ingest.columns import LAYOUTS
from components.ingest.sources import package_file, parse, read_bytes
from feature_repo.tables import TABLES
from tests.support.flights import as_of

# The blizzard of 8 February, in New York: over a thousand flights were cancelled.
START, END = datetime(2013, 2, 3, tzinfo=UTC), datetime(2013, 2, 13, tzinfo=UTC)


@pytest.fixture(scope="module")
def flights() -> pl.DataFrame:
    tables = {}
    for name, layout in LAYOUTS.items():
        path = package_file(name)
        tables[name] = parse(read_bytes(path), layout, where=str(path))
    tables["flights"] = tables["flights"].filter(pl.col("month") == 2, pl.col("day").is_between(3, 12))
    found = check_tables(tables).flights
    census = dict(found["status"].value_counts().iter_rows())
    assert census == {"arrived": 7685, "cancelled": 1027, "diverted": 28}
    return found


def otherwise(flights: pl.DataFrame, moment: datetime, draw: random.Random) -> pl.DataFrame:
    """Everything that had not happened by then happens otherwise; what was scheduled stays."""

    def shuffled(name: str) -> pl.Series:
        values = flights[name].to_list()
        draw.shuffle(values)
        return pl.Series(name, values, flights.schema[name])

    scheduled, landing = pl.col("scheduled_departure"), pl.col("scheduled_arrival")
    left, landed = pl.col("actual_departure"), pl.col("actual_arrival")
    soonest = pl.lit(moment) + timedelta(minutes=1)
    to_leave = left.is_null() | (left > moment)
    to_land = to_leave | landed.is_null() | (landed > moment)
    other = flights.with_columns(shuffled("dep_delay").alias("other"), shuffled("arr_delay").alias("another"))
    leaves = pl.max_horizontal(scheduled + pl.duration(minutes="other"), soonest)
    leaves = pl.when(pl.col("other").is_not_null()).then(leaves)
    changed = other.with_columns(actual_departure=pl.when(to_leave).then(leaves).otherwise(left))
    lands = pl.max_horizontal(landing + pl.duration(minutes="another"), soonest, left + timedelta(minutes=1))
    lands = pl.when(pl.col("another").is_not_null() & left.is_not_null()).then(lands)
    landed = pl.when(to_land).then(lands).otherwise(landed)
    return changed.with_columns(actual_arrival=landed).with_columns(
        dep_delay=(pl.col("actual_departure") - scheduled).dt.total_minutes().cast(pl.Int32),
        arr_delay=(pl.col("actual_arrival") - landing).dt.total_minutes().cast(pl.Int32),
    )


@pytest.mark.parametrize("hours", [30, 5 * 24 + 16, 6 * 24 + 1])
def test_another_future_of_the_blizzard_changes_no_past_feature(flights: pl.DataFrame, hours: int) -> None:
    moment = START + timedelta(hours=hours, minutes=7)
    others = otherwise(flights, moment, random.Random(hours))
    assert (others["dep_delay"] != flights["dep_delay"]).sum() > 1000, "the future is another one"
    asked = flights.filter(pl.col("scheduled_departure") <= moment)["scheduled_departure"].unique()
    moments = [*asked.sample(60, seed=hours), moment - timedelta(minutes=1), moment]
    for view, (table, keys, compute) in TABLES.items():
        if table == "flights":
            before, after = (as_of(compute(frame), tuple(keys), moments) for frame in (flights, others))
            assert_frame_equal(before, after, check_exact=True)
            assert len(before) > 0, view
