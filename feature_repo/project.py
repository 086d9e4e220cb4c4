"""What is predicted here: will this flight arrive late, asked an hour before its scheduled departure?"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import msgspec
import polars as pl

from feature_repo.labels import LEAD, label_frame
from slipway.datasets import RAW
from slipway.project import (
    Costs,
    Elapsed,
    Floors,
    Label,
    Project,
    Published,
    RequestField,
    Slice,
)


def labelled_flights(
    flights: pl.DataFrame, start: datetime, end: datetime
) -> tuple[pl.DataFrame, Mapping[str, int]]:
    """The flights that are asked about in the window, and how many of them can have no answer, by reason."""
    found = label_frame(flights, start=start + LEAD, end=end + LEAD)
    return found.frame, found.excluded


PROJECT = Project(
    name="flight-delay",
    title="Will this flight arrive 15 minutes late or more?",
    feature_service="flight_delay",
    rows=f"{RAW}/flights",
    prepare="feature_repo.project:labelled_flights",
    key=("scheduled_departure", "carrier", "flight", "origin"),
    entities=("carrier", "origin", "dest", "tailnum"),
    entity_inputs=("carrier", "origin", "dest"),
    label=Label(column="arr_delay", at_least=15.0, meaning="late", known_after_hours=36.0),
    request_fields=(
        RequestField(name="hour"),
        RequestField(name="weekday"),
        RequestField(name="scheduled_departure", kind="time"),
    ),
    elapsed=(
        Elapsed(name="since_plane_was_due", of="scheduled_departure", since="last_leg__leg_due_at"),
        Elapsed(name="plane_has_spare", of="scheduled_departure", since="last_leg__leg_back_at"),
    ),
    slices=(
        Slice(column="carrier"),
        Slice(column="origin"),
        Slice(column="hour", title="hour of departure", bins=(9.0, 12.0, 15.0, 18.0)),
    ),
    # A passenger who is warned for nothing loses an hour's sleep; one who is not warned loses the evening.
    costs=Costs(false_alarm=1.0, miss=3.0),
    floors=Floors(roc_auc=0.745, slice_roc_auc=0.60, calibration_error=0.10, rows=5000),
)
"""The DOT's definition of late."""

LATE_30 = msgspec.structs.replace(
    PROJECT,
    name="flight-delay-30",
    title="Will this flight arrive 30 minutes late or more?",
    label=msgspec.structs.replace(PROJECT.label, at_least=30.0),
    floors=msgspec.structs.replace(PROJECT.floors, roc_auc=0.775),
    published=(Published(title="tidymodels, at random, with the actual departure time", roc_auc=0.764),),
)
"""The definition of the tidymodels tutorial. Its figure is that of a model which knows the actual departure
time and the time in the air; ours knows neither."""
