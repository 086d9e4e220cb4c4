"""The feature views: which features each table has, of which type, and how long a value may serve.

The time to live is how old a row may be before it says nothing any more: for a window, when everything that
was in it has left; for weather, when it may have changed; 0 where nothing ever gets stale.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from feast import FeatureView, Field, FileSource
from feast.types import Float32, Float64, Int64, PrimitiveFeastType, String

from feature_repo.entities import ENTITIES
from feature_repo.tables import BOARD, HISTORY, TABLES, TIME

Fields = list[tuple[str, PrimitiveFeastType, str]]


def _arrivals(prefix: str, of: str) -> Fields:
    fields: Fields = []
    for window in HISTORY:
        fields += [
            (f"{prefix}_arrivals_{window}", Int64, f"flights {of} that landed within {window}"),
            (f"{prefix}_arrival_delay_{window}", Float32, "their mean arrival delay in minutes"),
            (f"{prefix}_late_share_{window}", Float32, "the share that landed 15 minutes late or more"),
        ]
    return fields


def _board(prefix: str, of: str) -> Fields:
    fields: Fields = []
    for window in BOARD:
        fields += [
            (f"{prefix}_departures_{window}", Int64, f"flights {of} that left within {window}"),
            (f"{prefix}_departure_delay_{window}", Float32, "their mean departure delay in minutes"),
            (
                f"{prefix}_departure_late_share_{window}",
                Float32,
                "the share that left 15 minutes late or more",
            ),
        ]
    return [
        *fields,
        (f"{prefix}_overdue", Int64, f"flights {of} 15 minutes to 3 hours late that have not left"),
        (
            f"{prefix}_cancelled_24h",
            Int64,
            f"flights {of} that got 3 hours late within 24h and have not left",
        ),
    ]


_VIEWS: Mapping[str, tuple[timedelta, str, Fields]] = {
    "carrier_delays": (
        timedelta(days=8),
        "How late the carrier's flights landed lately.",
        _arrivals("carrier", "of the carrier"),
    ),
    "destination_delays": (
        timedelta(days=8),
        "How late flights to the destination landed lately.",
        _arrivals("dest", "to the destination"),
    ),
    "destination_departures": (
        timedelta(days=2),
        "How flights to the destination get away.",
        _board("dest", "to the destination"),
    ),
    "origin_congestion": (
        timedelta(days=2),
        "How the airport of departure copes: who left, who should have, who is to come.",
        [
            *_board("origin", "from the airport"),
            *(
                (f"origin_scheduled_next_{hours}h", Int64, f"departures scheduled within the next {hours}h")
                for hours in (1, 2)
            ),
        ],
    ),
    "carrier_at_origin": (
        timedelta(days=2),
        "How the carrier's own flights get away from this airport.",
        _board("carrier_origin", "of the carrier from the airport"),
    ),
    "last_leg": (
        timedelta(days=7),
        "The plane's latest flight out of New York, in the air or landed.",
        [
            ("leg_departure_delay", Float32, "minutes that it left late"),
            ("leg_arrival_delay", Float32, "minutes that it landed late; null while it is in the air"),
            ("leg_due_at", Float64, "when it landed, or is to land by its departure; seconds since 1970"),
            ("leg_back_at", Float64, "when it can be back, as long after as the way out was to take"),
            ("leg_distance", Float32, "how far it went, in miles"),
        ],
    ),
    "weather": (
        timedelta(hours=3),
        "The last full hour's weather at the airport of departure.",
        [
            ("temp", Float32, "temperature in degrees Fahrenheit"),
            ("dewp", Float32, "dew point in degrees Fahrenheit"),
            ("humid", Float32, "relative humidity in percent"),
            ("wind_dir", Float32, "direction of the wind in degrees"),
            ("wind_speed", Float32, "miles per hour"),
            ("wind_gust", Float32, "strongest gust, or the wind where there was none, in miles per hour"),
            ("precip", Float32, "inches in the hour"),
            ("precip_3h", Float32, "inches in three hours"),
            ("pressure", Float32, "at sea level, in millibars"),
            ("pressure_change_3h", Float32, "against three hours before"),
            ("visib", Float32, "visibility in miles"),
        ],
    ),
    "plane": (timedelta(0), "What the register says of the plane.", [("seats", Int64, "seats")]),
    "route": (timedelta(0), "The way.", [("distance", Float32, "miles")]),
}
VIEW_NAMES = tuple(_VIEWS)


def feature_views(location: str) -> list[FeatureView]:
    """The views over the tables below `location`, a features dataset's prefix."""
    return [_view(location, name) for name in _VIEWS]


def _view(location: str, name: str) -> FeatureView:
    ttl, description, fields = _VIEWS[name]
    _, keys, _ = TABLES[name]
    return FeatureView(
        name=name,
        entities=[ENTITIES[key] for key in keys],
        ttl=ttl,
        # The keys stand in the schema too: otherwise Feast reads the files to find their types.
        schema=[
            *(Field(name=key, dtype=String) for key in keys),
            *(Field(name=field, dtype=kind, description=text) for field, kind, text in fields),
        ],
        source=FileSource(
            name=f"{name}_table",
            path=f"{location.rstrip('/')}/{name}",
            timestamp_field=TIME,
            description="Parquet by month. No created timestamp: a key has one row a moment by construction.",
        ),
        description=description,
    )
