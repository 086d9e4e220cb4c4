"""What the tests of the offline store share: views over Parquet files, and a slow obvious reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pytest
from feast import Entity, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.infra.offline_stores.offline_store import RetrievalJob
from feast.infra.registry.registry import Registry
from feast.types import FeastType, Float64, Int64, PrimitiveFeastType

from slipway.features.offline import PolarsOfflineStore

OURS = {"type": "slipway.features.offline.PolarsOfflineStore"}
VALUE_TYPES = {Int64: ValueType.INT64, PrimitiveFeastType.STRING: ValueType.STRING}

AGES = [
    pytest.param({}, {"value": [2.0]}, [None, 2.0], id="a column that came later"),
    pytest.param({"value": [1.0]}, {}, [1.0, None], id="a column that is gone"),
    pytest.param({"value": [1]}, {"value": [2.5]}, [1.0, 2.5], id="integers, then with gaps, as floats"),
    pytest.param({"value": [1.5]}, {"value": [2]}, [1.5, 2.0], id="floats, then integers"),
    pytest.param(
        {"value": pl.Series([1], dtype=pl.Int32)},
        {"value": [2**40]},
        [1, 2**40],
        id="integers that grew wider",
    ),
    pytest.param({"value": [None]}, {"value": [2.5]}, [None, 2.5], id="nothing but nulls at first"),
    pytest.param({"value": [1.0], "more": ["x"]}, {"value": [2.0]}, [1.0, 2.0], id="a column of no use"),
]
"""What the first file of a place has and the last, and the values of both."""
AGE_TIMES = [datetime(2013, 1, 1, tzinfo=UTC), datetime(2013, 2, 10, tzinfo=UTC)]


def files_of_ages(
    first: dict[str, Any], last: dict[str, Any], zone: str | None, unit: Any
) -> dict[str, pl.DataFrame]:
    """By their place below the source's: one row of key 1 at each of AGE_TIMES, the last in this zone and
    unit and with its columns in another order.
    """
    before, after = (pl.Series([moment], dtype=pl.Datetime("us", "UTC")) for moment in AGE_TIMES)
    after = after.dt.cast_time_unit(unit)
    after = after.dt.convert_time_zone(zone) if zone else after.dt.replace_time_zone(None)
    return {
        "month=1/a.parquet": pl.DataFrame(first | {"key": [1], "ts": before}),
        "month=2/a.parquet": pl.DataFrame(last | {"ts": after, "key": [1]}),
    }


def repo_config(folder: Path, offline: Mapping[str, Any] = OURS) -> RepoConfig:
    return RepoConfig(
        project="tests",
        registry=str(folder / "registry.db"),
        provider="local",
        offline_store=dict(offline),
        online_store={"type": "sqlite", "path": str(folder / "online.db")},
        entity_key_serialization_version=3,
        repo_path=folder,
    )


def empty_registry(config: RepoConfig) -> Registry:
    return Registry("tests", config.registry, config.repo_path)


def view(
    name: str,
    path: str | Path,
    features: Mapping[str, FeastType] | None = None,
    *,
    keys: Mapping[str, FeastType] | None = None,
    ttl: timedelta | None = None,
    created: str | None = None,
    timestamp: str = "ts",
    mapping: dict[str, str] | None = None,
    endpoint: str | None = None,
) -> FeatureView:
    """A feature view over Parquet, by default of `key` with the feature `value`."""
    keys = {"key": Int64} if keys is None else keys
    features = {"value": Float64} if features is None else features
    return FeatureView(
        name=name,
        entities=[
            Entity(name=key, join_keys=[key], value_type=VALUE_TYPES[kind]) for key, kind in keys.items()
        ],
        ttl=ttl,
        schema=[Field(name=column, dtype=kind) for column, kind in {**keys, **features}.items()],
        source=FileSource(
            name=f"{name}_source",
            path=str(path),
            timestamp_field=timestamp,
            created_timestamp_column=created,
            field_mapping=mapping,
            s3_endpoint_override=endpoint,
        ),
        online=False,
    )


def historical(
    config: RepoConfig,
    views: Sequence[FeatureView],
    entity_rows: Any,
    features: Sequence[str],
    *,
    store: Any = PolarsOfflineStore,
    registry: Any = None,
    **how: Any,
) -> RetrievalJob:
    return store.get_historical_features(
        config,
        list(views),
        list(features),
        entity_rows,
        registry if registry is not None else empty_registry(config),
        "tests",
        **how,
    )


def reference(
    entity_rows: Sequence[Mapping[str, Any]],
    history: Sequence[Mapping[str, Any]],
    keys: Mapping[str, str],
    *,
    ttl: timedelta | None = None,
    known_by_then: bool = False,
    feature: str = "value",
    event_timestamp: str = "event_timestamp",
) -> list[Any]:
    """The feature as of each row, by looking at every row of the history. `keys`: theirs → the rows' own."""

    def fits(asked: Mapping[str, Any], row: Mapping[str, Any]) -> bool:
        then: datetime | None = asked[event_timestamp]
        if then is None or row["ts"] is None or row["ts"] > then:
            return False
        if any(row[key] is None or row[key] != asked[own] for key, own in keys.items()):
            return False
        if known_by_then and (row["created"] is None or row["created"] > then):
            return False
        return not ttl or then - row["ts"] <= ttl

    def newer(place: int) -> tuple[Any, ...]:
        created = history[place].get("created")
        return (history[place]["ts"], created is not None, created or datetime.min, place)

    answer = []
    for asked in entity_rows:
        places = [place for place, row in enumerate(history) if fits(asked, row)]
        answer.append(history[max(places, key=newer)][feature] if places else None)
    return answer


def values(frame: pd.DataFrame, column: str) -> list[Any]:
    """As Python values, gaps as None."""
    return [None if pd.isna(value) else value for value in frame[column]]
