"""A small project with everything that the components must cope with, made from one seed.

Numbers with gaps, strings with rare values, times in double precision, two views, a label with signal.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl

from components.snapshot.manifest import SourceFile, ViewSource
from slipway.contract import FeatureService, View, ViewField
from slipway.objects import ObjectStore
from slipway.project import Costs, Elapsed, Floors, Label, Project, RequestField, Slice

START = datetime(2013, 1, 1, tzinfo=UTC)
HOURS = 24 * 60

PROJECT = Project(
    name="late",
    title="Will it be late?",
    feature_service="lateness",
    rows="late/rows",
    key=("number",),
    entities=("carrier", "plane"),
    entity_inputs=("carrier",),
    label=Label(column="delay", at_least=15.0, meaning="late"),
    request_fields=(RequestField(name="hour"), RequestField(name="departs", kind="time")),
    elapsed=(Elapsed(name="since_landing", of="departs", since="last_leg__landed"),),
    slices=(Slice(column="carrier"), Slice(column="hour", bins=(6.0, 12.0, 18.0))),
    costs=Costs(false_alarm=1.0, miss=2.0),
    floors=Floors(roc_auc=0.6, rows=500),
)

SERVICE = FeatureService(
    name="lateness",
    project="slipway",
    digest="0" * 64,
    views=(
        View(
            "carrier_delays",
            {"carrier": "carrier"},
            {"carrier": "String"},
            (ViewField("mean", "Float64"), ViewField("flights", "Int64"), ViewField("trend", "Float32")),
            ttl_seconds=7200.0,
        ),
        View(
            "last_leg",
            {"plane": "plane"},
            {"plane": "String"},
            (ViewField("delay", "Float64"), ViewField("landed", "Float64"), ViewField("from", "String")),
            ttl_seconds=86400.0,
        ),
    ),
)


class Tables:
    """The rows and the views they join to; `source` plays Feast's part with a plain as-of join."""

    def __init__(self, rows: int = 4000, *, seed: int = 7) -> None:
        draw = np.random.default_rng(seed)
        hours = [START + timedelta(hours=hour) for hour in range(-24, HOURS)]
        carriers = ["UA", "B6", "AA", "DL"]
        self.carrier_delays = (
            pl.DataFrame(
                {
                    "carrier": [carrier for carrier in carriers for _ in hours],
                    "event_timestamp": hours * len(carriers),
                    "mean": draw.gamma(2.0, 5.0, len(hours) * len(carriers)),
                    "flights": draw.integers(0, 40, len(hours) * len(carriers)),
                    "trend": draw.normal(size=len(hours) * len(carriers)).astype(np.float32),
                }
            )
            .with_columns(
                pl.when(pl.col("flights") < 3).then(None).otherwise(pl.col("mean")).alias("mean"),
                # Hours in which nothing was measured: the join must then find nothing within the TTL.
            )
            .filter(~pl.col("event_timestamp").dt.hour().is_in([4, 5, 6]))
            .sort("event_timestamp", "carrier")
        )
        planes = [f"N{number:03d}" for number in range(40)]
        legs = rows * 2
        landed = np.sort(draw.uniform(-24, HOURS, legs))
        self.last_leg = pl.DataFrame(
            {
                "plane": draw.choice(planes, legs),
                "event_timestamp": [START + timedelta(hours=float(hour)) for hour in landed],
                "delay": np.round(draw.normal(5, 25, legs), 0),
                "landed": START.timestamp() + landed * 3600,
                "from": draw.choice(["BOS", "ORD", "LAX", "MIA"], legs),
            }
        ).sort("event_timestamp")
        when = np.sort(draw.uniform(0, HOURS, rows))
        asked = [START + timedelta(hours=float(hour)) for hour in when]
        self.rows = pl.DataFrame(
            {
                "event_timestamp": asked,
                "number": np.arange(rows),
                "carrier": draw.choice(carriers, rows, p=[0.4, 0.3, 0.2, 0.1]),
                "plane": draw.choice([*planes, "N-new"], rows),
                "hour": np.floor(when % 24),
                "departs": START.timestamp() + when * 3600 + 3600,
            }
        )
        joined = self.join(self.rows)
        signal = (
            joined["carrier_delays__mean"].fill_null(10.0).to_numpy() / 10
            + joined["last_leg__delay"].fill_null(0.0).to_numpy() / 20
            + (joined["hour"].to_numpy() > 16)
            + (joined["carrier"] == "B6").to_numpy()
        )
        delay = np.round(10 * (signal - 1.8 + draw.normal(size=rows)), 0)
        # One row in fifty never arrived: it has no label.
        self.rows = self.rows.with_columns(pl.Series("delay", delay).alias("delay")).with_columns(
            pl.when(pl.col("number") % 50 == 7).then(None).otherwise(pl.col("delay")).alias("delay")
        )

    def upload(self, objects: ObjectStore, bucket: str = "slipway") -> None:
        from components.snapshot import to_parquet

        for name, table in (
            ("late/rows/part-0.parquet", self.rows[: len(self.rows) // 2]),
            ("late/rows/part-1.parquet", self.rows[len(self.rows) // 2 :]),
            ("late/carrier_delays/part-0.parquet", self.carrier_delays),
            ("late/last_leg/part-0.parquet", self.last_leg),
        ):
            objects.put(f"s3://{bucket}/{name}", to_parquet(table))

    def service(self) -> FeatureService:
        return SERVICE

    def sources(self, objects: ObjectStore) -> tuple[ViewSource, ...]:
        found = []
        for view in SERVICE.views:
            path = f"s3://slipway/late/{view.name}"
            files = tuple(SourceFile(info.uri, info.size, info.etag) for info in objects.list(path))
            found.append(
                ViewSource(
                    view.name,
                    path,
                    files,
                    dict(view.join_keys),
                    {field.name: f"{view.name}__{field.name}" for field in view.fields},
                    "event_timestamp",
                    None,
                    view.ttl_seconds,
                )
            )
        return tuple(found)

    def join(self, rows: pl.DataFrame) -> pl.DataFrame:
        answer = rows
        for view in SERVICE.views:
            table: pl.DataFrame = getattr(self, view.name)
            (key,) = view.join_keys
            names = {field.name: f"{view.name}__{field.name}" for field in view.fields}
            ordered = rows.select("event_timestamp", key).with_row_index("position").sort("event_timestamp")
            found = ordered.join_asof(
                table.rename(names).sort("event_timestamp"),
                on="event_timestamp",
                by=key,
                strategy="backward",
                tolerance=timedelta(seconds=view.ttl_seconds),
                check_sortedness=False,
            ).sort("position")
            answer = answer.hstack(found.select(names.values()))
        return answer


__all__ = ["HOURS", "PROJECT", "SERVICE", "START", "Tables"]
