"""What a row must satisfy, as pandera schemas; a check's message is the reason a rejected row gets."""

from __future__ import annotations

import zoneinfo

import pandera.polars as pa
import polars as pl

from components.ingest.clock import is_clock
from components.ingest.columns import AIRPORTS, FLIGHTS, PLANES, UTC_TIME, WEATHER, Layout

EARLIEST, LATEST = -120, 4320
"""Minutes of delay that are believed: two hours early to three days late (2013 has -43 to 1301)."""

_CODE = pa.Check.str_matches(r"^[A-Z0-9]{2,3}$", error="is no carrier code")
_AIRPORT = pa.Check.str_matches(r"^[A-Z0-9]{3,4}$", error="is no airport code")
_DELAY = pa.Check.in_range(EARLIEST, LATEST, error=f"is outside of {EARLIEST} to {LATEST} minutes")
_POSITIVE = pa.Check.gt(0, error="is not above 0")


def _rows(expression: pl.Expr, message: str) -> pa.Check:
    """A check over several columns; a row in which it cannot be decided passes (its parts have checks)."""
    return pa.Check(
        lambda data: data.lazyframe.select(expression.fill_null(True)), error=message, name=message
    )


def _clock(name: str) -> pa.Check:
    return pa.Check(
        lambda data: data.lazyframe.select(is_clock(pl.col(data.key)).fill_null(True)),
        error="is no clock reading",
        name=f"{name} is a clock reading",
    )


def _schema(
    layout: Layout,
    needed: set[str],
    checks: dict[str, list[pa.Check]],
    wide: list[pa.Check],
    derived: dict[str, pl.DataType] | None = None,
) -> pa.DataFrameSchema:
    types = {**layout.columns, **(derived or {})}
    columns = {
        name: pa.Column(kind, checks.get(name, []), nullable=name not in needed)
        for name, kind in types.items()
    }
    return pa.DataFrameSchema(columns, checks=wide, strict=False, name=layout.name)


_col = pl.col
_both = _col("dep_time").is_null() == _col("dep_delay").is_null()
flights = _schema(
    FLIGHTS,
    {
        "year", "month", "day", "sched_dep_time", "sched_arr_time", "carrier", "flight", "origin", "dest",
        "distance",
    },
    {
        "year": [pa.Check.in_range(1987, 2100, error="is outside of 1987 to 2100")],
        "carrier": [_CODE],
        "origin": [_AIRPORT],
        "dest": [_AIRPORT],
        "flight": [_POSITIVE],
        "distance": [_POSITIVE],
        "air_time": [_POSITIVE],
        "dep_delay": [_DELAY],
        "arr_delay": [_DELAY],
        "sched_dep_time": [_clock("sched_dep_time")],
        "sched_arr_time": [_clock("sched_arr_time")],
        "dep_time": [_clock("dep_time")],
        "arr_time": [_clock("arr_time")],
    },
    [
        _rows(_col("midnight").is_not_null(), "year, month and day are no date of the calendar"),
        _rows(_col("origin") != _col("dest"), "origin and dest are the same"),
        _rows(_col("origin_zone").is_not_null(), "the time zone of origin is not known (give --airports)"),
        _rows(_col("dest_zone").is_not_null(), "the time zone of dest is not known (give --airports)"),
        _rows(_both, "dep_time and dep_delay: one without the other"),
        _rows(
            _col("dep_time").is_not_null() | (_col("arr_time").is_null() & _col("arr_delay").is_null()),
            "it arrived and never departed",
        ),
        _rows(
            _col("arr_delay").is_null() | _col("arr_time").is_not_null(), "arr_delay without an arr_time"
        ),
        _rows(_col("departure_clock_apart") == 0, "dep_time is not sched_dep_time + dep_delay"),
        _rows(_col("arrival_clock_apart") == 0, "arr_time is not sched_arr_time + arr_delay"),
        _rows(
            _col("time_hour").dt.truncate("1h") == _col("scheduled_departure").dt.truncate("1h"),
            "time_hour is not the hour of the scheduled departure",
        ),
        _rows(
            _col("hour") * 100 + _col("minute") == _col("sched_dep_time"),
            "hour and minute disagree with sched_dep_time",
        ),
        _rows(
            _col("minutes_gate_to_gate") > _col("air_time"),
            "less time from gate to gate than in the air",
        ),
        _rows(
            _col("minutes_gate_to_gate").is_between(1, 24 * 60),
            "from gate to gate in no time, or in more than a day",
        ),
    ],
    {
        "scheduled_departure": UTC_TIME,
        "actual_departure": UTC_TIME,
        "scheduled_arrival": UTC_TIME,
        "actual_arrival": UTC_TIME,
    },
)  # fmt: skip


def _between(low: float, high: float, unit: str) -> list[pa.Check]:
    return [pa.Check.in_range(low, high, error=f"is outside of {low:g} to {high:g} {unit}")]


weather = _schema(
    WEATHER,
    {"origin", "time_hour"},
    {
        "origin": [_AIRPORT],
        "temp": _between(-80, 135, "degrees Fahrenheit"),
        "dewp": _between(-80, 135, "degrees Fahrenheit"),
        "humid": _between(0, 100, "percent"),
        "wind_dir": _between(0, 360, "degrees"),
        # 2013 has one reading of 1048 mph (EWR, 12 February): an instrument's slip.
        "wind_speed": _between(0, 250, "mph"),
        "wind_gust": _between(0, 250, "mph"),
        "precip": _between(0, 12, "inches in an hour"),
        "pressure": _between(870, 1090, "millibars"),
        "visib": _between(0, 10, "miles"),
    },
    [_rows(_col("time_hour") == _col("time_hour").dt.truncate("1h"), "time_hour is not a full hour")],
)
planes = _schema(
    PLANES,
    {"tailnum", "seats"},
    {"seats": [pa.Check.in_range(1, 1000, error="is outside of 1 to 1000")]},
    [],
)
airports = _schema(
    AIRPORTS,
    {"faa", "tzone"},
    {"tzone": [pa.Check.isin(sorted(zoneinfo.available_timezones()), error="is no time zone")]},
    [],
)


SCHEMAS = {"flights": flights, "weather": weather, "planes": planes, "airports": airports}


def reasons(frame: pl.DataFrame, schema: pa.DataFrameSchema) -> pl.DataFrame:
    """Rows that break the schema: `index` (position in the frame) and `reason`, all of a row's in one."""
    try:
        schema.validate(frame, lazy=True)
    except pa.errors.SchemaErrors as error:
        cases = error.failure_cases
    else:
        return pl.DataFrame(schema={"index": pl.UInt32, "reason": pl.String})
    column, check = pl.col("column"), pl.col("check")
    reason = (
        pl.when(check == "not_nullable")
        .then(pl.format("{} is missing", column))
        .when(column.is_null() | (pl.col("schema_context") == "DataFrameSchema"))
        .then(check)
        .otherwise(pl.format("{} is {}: {}", column, pl.col("failure_case"), check))
    )
    return (
        cases.select(pl.col("index").cast(pl.UInt32), reason.alias("reason"))
        .group_by("index", maintain_order=True)
        .agg(pl.col("reason").unique(maintain_order=True).str.join("; "))
        .sort("index")
    )
