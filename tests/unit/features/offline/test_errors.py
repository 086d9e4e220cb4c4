"""Each thing that can be wrong with a source or with entity rows: what is said, where, and what to do."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pytest
from feast.data_format import DeltaFormat
from feast.types import Float64, Int64, String

from slipway.errors import FeatureSourceError, SettingsError
from slipway.features.offline import PolarsOfflineStore
from tests.offline_store import OURS, historical, repo_config, view

NOON = datetime(2013, 3, 10, 12, tzinfo=UTC)
ROWS = pd.DataFrame({"key": [1], "event_timestamp": [NOON]})


def written(folder: Path, **columns: Any) -> Path:
    path = folder / "h.parquet"
    pl.DataFrame({"key": [1], "ts": [NOON], "value": [1.0], **columns}).write_parquet(path)
    return path


def complaint(folder: Path, path: str | Path, rows: Any = ROWS, **about: Any) -> FeatureSourceError:
    with pytest.raises(FeatureSourceError) as caught:
        historical(repo_config(folder), [view("v", path, **about)], rows, ["v:value"]).to_df()
    assert caught.value.where, "an error says where"
    assert caught.value.fix, "an error says what to do"
    return caught.value


def damaged(folder: Path) -> Path:
    path = written(folder)
    path.write_bytes(b"PAR1" + b"\0" * 100 + b"PAR1")
    return path


def cut(folder: Path) -> Path:
    path = written(folder)
    path.write_bytes(path.read_bytes()[:-20])
    return path


def empty(folder: Path) -> Path:
    (folder / "empty").mkdir()
    (folder / "empty" / "_SUCCESS").touch()
    return folder / "empty"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (lambda folder: folder / "none.parquet", "there is no such file"),
        (empty, "there is no Parquet file here"),
        (lambda folder: folder / "nowhere", "there is no Parquet file here"),
        (damaged, "it cannot be read: parquet"),
        (cut, "it cannot be read: parquet"),
    ],
    ids=["missing", "empty folder", "missing folder", "damaged", "cut off"],
)
def test_what_cannot_be_read(tmp_path: Path, source: Callable[[Path], Path], message: str) -> None:
    path = source(tmp_path)
    error = complaint(tmp_path, path)
    assert error.what.startswith(message)
    assert error.where == str(path)


def test_a_missing_column_is_named_with_its_use_and_those_that_are_there(tmp_path: Path) -> None:
    path = written(tmp_path)
    error = complaint(tmp_path, path, features={"value": Float64}, timestamp="when", created="made")
    assert error.what == (
        "no column when (the event timestamp of view v), made (the created timestamp of view v)"
    )
    assert "key, ts, value" in str(error.fix)
    assert (
        "no column origin (a join key of view v)"
        in complaint(
            tmp_path,
            path,
            pd.DataFrame({"origin": ["JFK"], "event_timestamp": [NOON]}),
            keys={"origin": String},
        ).what
    )


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"ts": ["2013-03-10"]}, "column ts is to hold timestamps, but holds String"),
        ({"ts": [1362916800]}, "column ts is to hold timestamps, but holds Int64"),
        ({"value": ["high"]}, "column value holds String, but view 'v' declares numbers"),
        ({"key": ["one"]}, "join key key of view 'v' is String here, but Int64 in the entity rows"),
    ],
)
def test_a_wrong_type_is_named_with_the_right_one(
    tmp_path: Path, columns: dict[str, Any], message: str
) -> None:
    path = written(tmp_path, **columns)
    error = complaint(tmp_path, path)
    assert error.what == message
    assert error.where == str(path)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("SELECT * FROM flights", "an SQL query"),
        ([{"key": 1}], "a builtins.list"),
        (pd.DataFrame({"event_timestamp": [NOON]}), "no column key, which is a join key of feature view 'v'"),
        (pd.DataFrame({"key": [1]}), "no column of times, and none is named event_timestamp"),
        (
            pd.DataFrame({"key": [1], "a": [NOON], "b": [NOON]}),
            "2 columns of times (a, b), and none is named",
        ),
        (pd.DataFrame({"key": [1], "event_timestamp": ["noon"]}), "event_timestamp says as of when"),
        (pd.DataFrame({"key": [1], "event_timestamp": [5]}), "event_timestamp says as of when"),
        (pl.DataFrame({"key": [1], "event_timestamp": [True]}), "event_timestamp says as of when"),
        (
            pd.DataFrame([[1, 2, NOON]], columns=["key", "key", "event_timestamp"]),
            "two columns are named key",
        ),
        (
            pd.DataFrame({"key": [1, 2], "event_timestamp": [NOON, NOON], "odd": [1, "x"]}),
            "a column holds values of several types",
        ),
    ],
)
def test_entity_rows_that_cannot_be_answered(tmp_path: Path, rows: Any, message: str) -> None:
    error = complaint(tmp_path, written(tmp_path), rows)
    assert error.what.startswith(message)
    assert error.where == "the entity rows"


def test_files_that_do_not_agree(tmp_path: Path) -> None:
    folder = tmp_path / "h"
    folder.mkdir()
    pl.DataFrame({"key": [1], "ts": [NOON], "value": [1.0]}).write_parquet(folder / "0.parquet")
    pl.DataFrame({"key": [1], "ts": [NOON], "value": ["x"]}).write_parquet(folder / "1.parquet")
    assert complaint(tmp_path, folder).what.startswith("its files do not agree on their columns")


def test_other_formats_are_refused(tmp_path: Path) -> None:
    source = view("v", tmp_path / "h").batch_source
    source.file_options.file_format = DeltaFormat()
    with pytest.raises(FeatureSourceError, match="files in the format delta"):
        PolarsOfflineStore.pull_all_from_table_or_query(
            repo_config(tmp_path), source, ["key"], ["value"], "ts"
        )


def test_a_misspelt_s3_setting_is_told(tmp_path: Path) -> None:
    config = repo_config(tmp_path, {**OURS, "s3": {"endpint": "http://127.0.0.1:1"}})
    with pytest.raises(SettingsError, match="endpint"):
        historical(config, [view("v", "s3://b/h.parquet", {"value": Int64})], ROWS, ["v:value"])


def test_validating_a_source_says_what_it_lacks(tmp_path: Path) -> None:
    store = PolarsOfflineStore()
    source = view("v", written(tmp_path), timestamp="when").batch_source
    with pytest.raises(FeatureSourceError, match=r"no column when \(its timestamp_field\)"):
        store.validate_data_source(repo_config(tmp_path), source)
    store.validate_data_source(repo_config(tmp_path), view("v", written(tmp_path)).batch_source)
