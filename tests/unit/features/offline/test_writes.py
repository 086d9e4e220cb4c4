"""Rows that are added and answers that are kept: all of them or none, also with several writers at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import Entity, FeatureStore, FeatureView, Field, PushSource, ValueType
from feast.data_source import PushMode
from feast.errors import SavedDatasetLocationAlreadyExists
from feast.feature_logging import LoggingConfig
from feast.infra.offline_stores.file_source import FileLoggingDestination, SavedDatasetFileStorage
from feast.types import Float64, Int64

from slipway.errors import FeatureSourceError
from slipway.features.offline import PolarsOfflineStore
from tests.offline_store import OURS, historical, repo_config, values, view

NOON = datetime(2013, 3, 10, 12, tzinfo=UTC)


def rows(*keys: int) -> pa.Table:
    return pa.table(
        {
            "key": pa.array(keys, pa.int64()),
            "ts": pa.array([NOON] * len(keys), pa.timestamp("us", "UTC")),
            "value": pa.array([key / 2 for key in keys], pa.float64()),
        }
    )


def add(folder: Path, place: str, table: pa.Table) -> None:
    PolarsOfflineStore.offline_write_batch(repo_config(folder), view("v", place), table, None)


def test_a_place_gets_one_file_a_batch(tmp_path: Path) -> None:
    told: list[int] = []
    feature_view = view("v", "history")
    PolarsOfflineStore.offline_write_batch(repo_config(tmp_path), feature_view, rows(1, 2), told.append)
    add(tmp_path, "history", rows(3).select(["value", "key", "ts"]))
    assert told == [2]
    files = sorted((tmp_path / "history").iterdir())
    assert [path.suffix for path in files] == [".parquet", ".parquet"]
    assert sorted(pq.read_table(tmp_path / "history")["key"].to_pylist()) == [1, 2, 3]
    asked = pl.DataFrame({"key": [3], "event_timestamp": [NOON]})
    answer = historical(repo_config(tmp_path), [feature_view], asked, ["v:value"]).to_polars()
    assert answer["value"].to_list() == [1.5]


def test_rows_that_come_through_feast_are_there_at_once(tmp_path: Path) -> None:
    add(tmp_path, "history", rows(1))
    push = PushSource(name="stream", batch_source=view("v", "history").batch_source)
    key = Entity(name="key", join_keys=["key"], value_type=ValueType.INT64)
    schema = [Field(name="value", dtype=Float64), Field(name="key", dtype=Int64)]
    feature_view = FeatureView(name="v", entities=[key], source=push, schema=schema)
    store = FeatureStore(config=repo_config(tmp_path))
    store.apply([key, feature_view])
    store.write_to_offline_store("v", rows(2).to_pandas())
    store.push("stream", rows(3).to_pandas(), to=PushMode.OFFLINE)
    store.push("stream", rows(4).to_pandas(), to=PushMode.ONLINE_AND_OFFLINE)
    asked = pd.DataFrame({"key": [1, 2, 3, 4, 5], "event_timestamp": NOON})
    answer = store.get_historical_features(asked, ["v:value"]).to_df()
    assert values(answer, "value") == [0.5, 1.0, 1.5, 2.0, None]
    online = store.get_online_features(["v:value"], [{"key": key} for key in (3, 4)]).to_dict()
    assert online["value"] == [None, 2.0]


def test_a_single_file_is_written_anew_with_the_rows(tmp_path: Path) -> None:
    add(tmp_path, "one.parquet", rows(1))
    add(tmp_path, "one.parquet", rows(2))
    assert pq.read_table(tmp_path / "one.parquet")["key"].to_pylist() == [1, 2]
    assert not list(tmp_path.glob(".one.parquet.*[!k]")), "no half-written file is left"


def test_a_partitioned_place_gets_the_rows_into_their_folders(tmp_path: Path) -> None:
    # A partition above the place is none of the place's own.
    place = tmp_path / "source=faa" / "history"
    old = pl.DataFrame({"day": ["d1"], "part": [1], "key": [0], "ts": [NOON], "value": [0.5]})
    old.write_parquet(pl.PartitionBy(place, key=["day", "part"], include_key=False), mkdir=True)
    more = rows(1, 2, 3).append_column("day", pa.array(["d1", "d 2/x", "d1"]))
    add(tmp_path, str(place), more.append_column("part", pa.array([1, 1, 2])))
    files = {str(path.parent.relative_to(place)) for path in place.rglob("*.parquet")}
    assert files == {"day=d1/part=1", "day=d 2%2Fx/part=1", "day=d1/part=2"}
    found = pl.scan_parquet(f"{place}/**/*.parquet", hive_partitioning=True).collect().sort("key")
    assert found["day"].to_list() == ["d1", "d1", "d 2/x", "d1"]
    assert found["part"].to_list() == [1, 1, 1, 2]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (rows(1).drop_columns(["value"]), "the table lacks value"),
        (rows(1).append_column("more", pa.array([1])), "the table has more"),
        (rows(1).set_column(2, "value", pa.array(["x"])), "value is string, not double"),
    ],
)
def test_rows_that_do_not_fit_change_nothing(tmp_path: Path, table: pa.Table, message: str) -> None:
    add(tmp_path, "history", rows(1))
    with pytest.raises(FeatureSourceError, match=message):
        add(tmp_path, "history", table)
    assert pq.read_table(tmp_path / "history")["key"].to_pylist() == [1]


@pytest.mark.parametrize("place", ["one.parquet", "history"])
def test_writers_at_once_lose_nothing(tmp_path: Path, place: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda key: add(tmp_path, place, rows(key)), range(20)))
    assert sorted(pq.read_table(tmp_path / place)["key"].to_pylist()) == list(range(20))


def answer(folder: Path, **how: Any) -> Any:
    add(folder, "history.parquet", rows(1))
    asked = pl.DataFrame({"key": [1], "event_timestamp": [NOON + timedelta(hours=1)]})
    config = repo_config(folder, {**OURS, **how})
    return historical(config, [view("v", "history.parquet")], asked, ["v:value"])


@pytest.mark.parametrize("place", ["saved.parquet", "saved"])
def test_an_answer_is_kept_once_or_again_on_demand(tmp_path: Path, place: str) -> None:
    storage = SavedDatasetFileStorage(place)
    job = answer(tmp_path)
    job.persist(storage)
    assert pq.read_table(tmp_path / place)["value"].to_pylist() == [0.5]
    with pytest.raises(SavedDatasetLocationAlreadyExists):
        job.persist(storage)
    add(
        tmp_path,
        "history.parquet",
        pa.table({**dict(zip(rows(1).column_names, rows(1).columns, strict=True)), "value": [9.0]}),
    )
    job.persist(storage, allow_overwrite=True)
    assert pq.read_table(tmp_path / place)["value"].to_pylist() == [9.0]


def test_overwriting_a_place_leaves_none_of_its_old_files(tmp_path: Path) -> None:
    add(tmp_path, "saved", rows(1, 2, 3))
    answer(tmp_path).persist(SavedDatasetFileStorage("saved"), allow_overwrite=True)
    assert [path.name for path in (tmp_path / "saved").iterdir()] == ["data.parquet"]


def test_of_many_that_keep_at_once_one_wins(tmp_path: Path) -> None:
    job = answer(tmp_path)

    def keep(_: int) -> bool:
        try:
            job.persist(SavedDatasetFileStorage("saved.parquet"))
        except SavedDatasetLocationAlreadyExists:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(keep, range(8))) == 1


def test_export_to_the_staging_location(tmp_path: Path) -> None:
    assert not answer(tmp_path).supports_remote_storage_export()
    with pytest.raises(FeatureSourceError, match="no staging location"):
        answer(tmp_path).to_remote_storage()
    (file,) = answer(tmp_path, staging_location="staged").to_remote_storage()
    assert Path(file).is_relative_to(tmp_path / "staged")
    assert pq.read_table(file)["value"].to_pylist() == [0.5]


def test_logs_are_appended_by_partition(tmp_path: Path) -> None:
    logs = pa.table({"day": ["a", "b", "a"], "score": [0.1, 0.2, 0.3]})
    config = LoggingConfig(destination=FileLoggingDestination(path="logs", partition_by=["day"]))
    plain = LoggingConfig(destination=FileLoggingDestination(path="plain"))
    kept = tmp_path / "kept.parquet"
    pq.write_table(logs, kept)
    for data, logging in ((logs, config), (kept, config), (kept, plain)):
        PolarsOfflineStore.write_logged_features(repo_config(tmp_path), data, None, logging, None)
    assert sorted(pl.scan_parquet(tmp_path / "logs" / "day=a" / "*.parquet").collect()["score"]) == [
        *(0.1, 0.1),
        *(0.3, 0.3),
    ]
    assert len(pq.read_table(tmp_path / "plain")) == 3
