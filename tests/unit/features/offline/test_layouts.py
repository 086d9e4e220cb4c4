"""Parquet as others write it: zones that are offsets, the leavings of a Spark job, files of any name."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast.types import Float64, UnixTimestamp

from slipway.errors import FeatureSourceError
from slipway.features.offline import PolarsOfflineStore
from tests.offline_store import historical, repo_config, values, view

START = datetime(2024, 2, 29, 12, tzinfo=UTC)
ASKED = pl.DataFrame({"key": [1, 2], "event_timestamp": [START + timedelta(hours=5)] * 2})


def put(place: Path, value: float, key: int = 1) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    pl.DataFrame({"key": [key], "ts": [START], "value": [value]}).write_parquet(place)


def ask(folder: Path, place: Path | str) -> list[Any]:
    frame = historical(repo_config(folder), [view("v", place)], ASKED, ["v:value"]).to_df()
    return values(frame, "value")


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
@pytest.mark.parametrize("offset", ["+05:30", "-08:00"])
@pytest.mark.parametrize("files", [1, 2])
def test_times_of_an_offset_are_moments(tmp_path: Path, unit: Any, offset: str, files: int) -> None:
    later = START + timedelta(hours=1)
    times = pa.array([START, later], pa.timestamp(unit, offset))
    table = pa.table({"key": [1, 1], "ts": times, "value": [1.0, 2.0], "seen": times})
    place = tmp_path / "offset.parquet" if files == 1 else tmp_path / "place"
    if files == 1:
        pq.write_table(table, place)
    else:
        place.mkdir()
        for number in range(files):
            pq.write_table(table.slice(number, 1), place / f"{number}.parquet")
    defined = view("v", place, {"value": Float64, "seen": UnixTimestamp}, ttl=timedelta(hours=2))
    asked = pd.DataFrame({"key": [1, 1, 1, 1]})
    moments = pd.to_datetime([START + timedelta(hours=hour) for hour in (0, 0.5, 3, 3.1)])
    asked["event_timestamp"] = moments.tz_convert(offset)
    config = repo_config(tmp_path)
    frame = historical(config, [defined], asked, ["v:value", "v:seen"]).to_df()
    assert values(frame, "value") == [1.0, 1.0, 2.0, None]
    assert values(frame, "seen") == [START, START, later, None]
    newest = PolarsOfflineStore.pull_latest_from_table_or_query(
        config, defined.batch_source, ["key"], ["value"], "ts", None, START, START + timedelta(minutes=30)
    )
    assert newest.to_df()["value"].tolist() == [1.0]


def test_what_its_writer_has_not_finished_is_not_read(tmp_path: Path) -> None:
    """As Spark leaves it: an attempt that failed, one under way, a file of checksums."""
    place = tmp_path / "out"
    put(place / "_day=1/part-0.parquet", 1.0)
    put(place / "_day=2/part-0.parquet", 2.0, key=2)
    put(place / "_temporary/0/attempt_1/part-0.parquet", 99.0)
    put(place / "_day=1/.part-1.parquet", 99.0)
    (place / "_day=2/_broken.parquet").write_bytes(b"PAR1, and no more")
    (place / "_SUCCESS").touch()
    (place / "_day=1/.part-0.parquet.crc").write_bytes(b"crc")
    assert ask(tmp_path, place) == [1.0, 2.0]
    # A place may itself lie below such a name.
    put(tmp_path / "_hidden/.here/a.parquet", 3.0)
    assert ask(tmp_path, tmp_path / "_hidden/.here") == [3.0, None]


def test_a_place_with_nothing_finished_has_nothing(tmp_path: Path) -> None:
    put(tmp_path / "out/_temporary/0/part-0.parquet", 99.0)
    with pytest.raises(FeatureSourceError, match=r"no such file"):
        ask(tmp_path, tmp_path / "out")


@pytest.mark.parametrize("name", ["history", "history.dat", "a [1] 100%20*.parquet", "[x]/y?.parquet"])
def test_a_file_that_is_there_is_taken_by_its_name(tmp_path: Path, name: str) -> None:
    put(tmp_path / name, 1.5)
    put(tmp_path / "a 1 100%20.parquet", 99.0)
    assert ask(tmp_path, tmp_path / name) == [1.5, None]
