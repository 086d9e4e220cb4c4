"""The store against a slow obvious reference, and against Feast's duckdb store where that is right."""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from random import Random
from typing import Any

import pandas as pd
import polars as pl
import pytest
from feast.infra.offline_stores.duckdb import DuckDBOfflineStore
from feast.types import Float64, Int64, String
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slipway.features.offline import PolarsOfflineStore
from slipway.features.offline import history as history_module
from slipway.features.offline import latest as latest_module
from tests.offline_store import OURS, empty_registry, historical, reference, repo_config, values, view

START = datetime(2013, 1, 1, tzinfo=UTC)
ZONES = [UTC, timezone(timedelta(hours=-5)), timezone(timedelta(hours=5, minutes=45))]

# Few keys and few moments, so that ties, duplicates and edges are common.
keys = st.one_of(st.none(), st.integers(0, 3))
moments = st.one_of(st.none(), st.integers(0, 12).map(lambda hour: START + timedelta(hours=hour)))
zoned = st.tuples(moments, st.sampled_from(ZONES)).map(lambda pair: pair[0] and pair[0].astimezone(pair[1]))
entity_rows = st.lists(st.fixed_dictionaries({"key": keys, "event_timestamp": zoned}), max_size=12)
history_rows = st.lists(
    st.fixed_dictionaries(
        {"key": keys, "ts": moments, "created": moments, "value": st.one_of(st.none(), st.floats(-9, 9))}
    ),
    max_size=25,
)
ttls = st.one_of(st.none(), st.integers(0, 6).map(lambda hours: timedelta(hours=hours)))

FRAME = {
    "key": pl.Int64,
    "ts": pl.Datetime("us", "UTC"),
    "created": pl.Datetime("us", "UTC"),
    "value": pl.Float64,
}
quick = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp())
    yield path
    shutil.rmtree(path)


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    # A history of twenty rows is then read in several pieces, as a large one is.
    monkeypatch.setattr(history_module, "BATCH_ROWS", 4)
    monkeypatch.setattr(latest_module, "BATCH_ROWS", 4)


@pytest.fixture(scope="module")
def config(folder: Path) -> Any:
    return repo_config(folder)


@pytest.fixture(scope="module")
def registry(config: Any) -> Any:
    return empty_registry(config)


def write(folder: Path, rows: list[dict[str, Any]], files: int = 1) -> Path:
    """The rows in order over some files, in small row groups."""
    place = folder / "history"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    frame = pl.DataFrame(rows, FRAME, orient="row") if rows else pl.DataFrame(schema=FRAME)
    size = max(1, -(-len(frame) // files))
    for number in range(files):
        frame.slice(number * size, size).write_parquet(place / f"{number}.parquet", row_group_size=3)
    return place


def fresh(name: str) -> str:
    """Of a file that duckdb has never read: it keeps what it read, and knows another of its name by
    size and time of change only, which two examples may share.
    """
    return f"{name}-{uuid.uuid4().hex}.parquet"


def pandas_rows(rows: list[dict[str, Any]]) -> pd.DataFrame:
    frame = pd.DataFrame({"key": pd.array([row["key"] for row in rows], "Int64")})
    # Of mixed zones: pandas can hold these as objects only.
    frame["event_timestamp"] = pd.Series([row["event_timestamp"] for row in rows], dtype=object)
    return frame


@quick
@given(asked=entity_rows, rows=history_rows, ttl=ttls, known=st.booleans(), files=st.integers(1, 3))
def test_every_row_gets_what_the_reference_says(
    folder: Path,
    config: Any,
    registry: Any,
    asked: list[dict[str, Any]],
    rows: list[dict[str, Any]],
    ttl: timedelta | None,
    known: bool,
    files: int,
) -> None:
    place = write(folder, rows, files)
    job = historical(
        config,
        [view("v", place, ttl=ttl, created="created")],
        pandas_rows(asked),
        ["v:value"],
        registry=registry,
        filter_by_created_timestamp=known,
    )
    frame = job.to_df()
    expected = reference(asked, rows, {"key": "key"}, ttl=ttl, known_by_then=known)
    assert values(frame, "value") == expected
    assert values(frame, "key") == [row["key"] for row in asked]
    assert values(frame, "event_timestamp") == [row["event_timestamp"] for row in asked]


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("hours", [None, 3])
def test_many_rows_on_few_moments(
    folder: Path, config: Any, registry: Any, hours: int | None, known: bool
) -> None:
    """Dense in ties and edges, where small examples seldom meet one."""
    random = Random(f"{hours}{known}")

    def moment() -> datetime | None:
        return None if random.random() < 0.1 else START + timedelta(hours=random.randrange(24))

    def key() -> int | None:
        return None if random.random() < 0.1 else random.randrange(4)

    asked = [{"key": key(), "event_timestamp": moment()} for _ in range(200)]
    rows = [
        {"key": key(), "ts": moment(), "created": moment(), "value": float(number)} for number in range(150)
    ]
    ttl = None if hours is None else timedelta(hours=hours)
    frame = historical(
        config,
        [view("v", write(folder, rows, 3), ttl=ttl, created="created")],
        pandas_rows(asked),
        ["v:value"],
        registry=registry,
        filter_by_created_timestamp=known,
    ).to_df()
    expected = reference(asked, rows, {"key": "key"}, ttl=ttl, known_by_then=known)
    assert values(frame, "value") == expected


@quick
@given(
    asked=st.lists(
        st.fixed_dictionaries({"origin": keys, "dest": keys, "event_timestamp": moments}), max_size=10
    ),
    rows=history_rows,
    ttl=ttls,
)
def test_one_view_under_two_names(
    folder: Path, config: Any, registry: Any, asked: list[Any], rows: list[Any], ttl: timedelta | None
) -> None:
    place = write(folder, rows)
    first = view("v", place, ttl=ttl).with_name("a").with_join_key_map({"key": "origin"})
    second = view("v", place, ttl=ttl).with_name("b").with_join_key_map({"key": "dest"})
    frame = historical(
        config,
        [first, second],
        pl.DataFrame(
            asked,
            {"origin": pl.Int32, "dest": pl.Int64, "event_timestamp": pl.Datetime("ns", "UTC")},
            orient="row",
        ),
        ["a:value", "b:value"],
        registry=registry,
        full_feature_names=True,
    ).to_df()
    plain = [{**row, "created": None} for row in rows]
    assert values(frame, "a__value") == reference(asked, plain, {"key": "origin"}, ttl=ttl)
    assert values(frame, "b__value") == reference(asked, plain, {"key": "dest"}, ttl=ttl)


texts = st.one_of(st.none(), st.sampled_from(["", "JFK", "LGA", "jfk"]))


@quick
@given(
    asked=st.lists(
        st.fixed_dictionaries({"key": keys, "place": texts, "event_timestamp": moments}), max_size=10
    ),
    rows=st.lists(
        st.fixed_dictionaries({"key": keys, "place": texts, "ts": moments, "value": st.floats(-9, 9)}),
        max_size=20,
    ),
)
def test_keys_of_two_columns(
    folder: Path, config: Any, registry: Any, asked: list[Any], rows: list[Any]
) -> None:
    schema = {"key": pl.Int64, "place": pl.String, "ts": pl.Datetime("us"), "value": pl.Float64}
    path = folder / "pairs.parquet"
    pl.DataFrame(
        [{**row, "ts": row["ts"] and row["ts"].replace(tzinfo=None)} for row in rows], schema, orient="row"
    ).write_parquet(path)
    frame = historical(
        config,
        [view("v", path, keys={"key": Int64, "place": String})],
        pl.DataFrame(
            asked,
            {"key": pl.Int64, "place": pl.String, "event_timestamp": pl.Datetime("us", "UTC")},
            orient="row",
        ),
        ["v:value"],
        registry=registry,
    ).to_df()
    assert values(frame, "value") == reference(asked, rows, {"key": "key", "place": "place"})


@settings(quick, max_examples=25)
@given(
    rows=history_rows,
    files=st.integers(1, 3),
    keyed=st.booleans(),
    window=st.tuples(st.integers(0, 12), st.integers(0, 12)),
)
def test_the_newest_of_each_key_is_what_a_scan_finds(
    folder: Path, config: Any, rows: list[Any], files: int, keyed: bool, window: tuple[int, int]
) -> None:
    start, end = (START + timedelta(hours=hour) for hour in sorted(window))
    names = ["key"] if keyed else []
    source = view("v", write(folder, rows, files), keys={"key": Int64} if keyed else {}).batch_source
    found = PolarsOfflineStore.pull_latest_from_table_or_query(
        config, source, names, ["value"], "ts", "created", start, end
    ).to_polars()
    newest: dict[Any, Any] = {}
    for place, row in enumerate(rows):
        key = row["key"] if keyed else "all"
        if key is None or row["ts"] is None or not start <= row["ts"] <= end:
            continue
        order = (row["ts"], row["created"] or START - timedelta(days=1), place)
        if key not in newest or newest[key][0] < order:
            newest[key] = (order, row["value"])
    assert len(found) == len(newest)
    answers = zip(found["key"] if keyed else ["all"] * len(found), found["value"], strict=True)
    assert dict(answers) == {key: value for key, (_, value) in newest.items()}


present = st.integers(0, 12).map(lambda hour: START + timedelta(hours=hour))


@settings(quick, max_examples=15)
@given(
    # duckdb fails on an empty side, and breaks a tie that created does not break as it likes.
    asked=st.lists(st.fixed_dictionaries({"key": keys, "event_timestamp": present}), min_size=1, max_size=12),
    rows=st.lists(
        st.fixed_dictionaries({"key": keys, "ts": present, "created": present, "value": st.floats(-9, 9)}),
        min_size=1,
        max_size=25,
        unique_by=lambda row: (row["key"], row["ts"], row["created"]),
    ),
    ttl=st.integers(1, 6).map(lambda hours: timedelta(hours=hours)),
    known=st.booleans(),
)
def test_feasts_duckdb_store_says_the_same(
    folder: Path, config: Any, registry: Any, asked: list[Any], rows: list[Any], ttl: timedelta, known: bool
) -> None:
    path = folder / fresh("same")
    pl.DataFrame(rows, FRAME, orient="row").write_parquet(path)
    views = [view("v", path, {"value": Float64}, ttl=ttl, created="created")]
    frame = pd.DataFrame({"row": range(len(asked)), "key": pd.array([row["key"] for row in asked], "Int64")})
    frame["event_timestamp"] = pd.to_datetime([row["event_timestamp"] for row in asked])

    def ask(store_config: Any, **how: Any) -> list[Any]:
        answer = historical(
            store_config,
            views,
            frame.copy(),
            ["v:value"],
            registry=registry,
            filter_by_created_timestamp=known,
            **how,
        ).to_df()
        # duckdb does not keep the order of the rows.
        return values(answer.sort_values("row"), "value")

    theirs = ask(repo_config(folder, {"type": "duckdb"}), store=DuckDBOfflineStore)
    assert ask(repo_config(folder, OURS)) == theirs


@settings(quick, max_examples=15)
@given(
    asked=st.lists(
        st.fixed_dictionaries(
            {"key": keys, "place": st.sampled_from(["a", "b"]), "event_timestamp": present}
        ),
        min_size=1,
        max_size=10,
    ),
    by_key=st.lists(
        st.fixed_dictionaries(
            {"key": st.integers(0, 3), "ts": present, "value": st.none() | st.floats(-9, 9)}
        ),
        min_size=1,
        max_size=15,
        unique_by=lambda row: (row["key"], row["ts"]),
    ),
    by_place=st.lists(
        st.fixed_dictionaries(
            {
                "place": st.sampled_from(["a", "c"]),
                "ts": present,
                "count": st.integers(0, 9),
                "name": st.text("xy"),
            }
        ),
        min_size=1,
        max_size=15,
        unique_by=lambda row: (row["place"], row["ts"]),
    ),
    zone=st.sampled_from(["UTC", "Asia/Kathmandu", None]),
)
def test_feasts_duckdb_store_says_the_same_of_several_views(
    folder: Path,
    config: Any,
    registry: Any,
    asked: list[Any],
    by_key: list[Any],
    by_place: list[Any],
    zone: str | None,
) -> None:
    times = pl.col("ts").dt.convert_time_zone(zone) if zone else pl.col("ts").dt.replace_time_zone(None)
    kinds = {"key": pl.Int64, "value": pl.Float64, "ts": pl.Datetime("us", "UTC")}
    key_path, place_path = folder / fresh("by_key"), folder / fresh("by_place")
    pl.DataFrame(by_key, kinds, orient="row").with_columns(times).write_parquet(key_path)
    pl.DataFrame(by_place).write_parquet(place_path)
    views = [
        view("v", key_path, {"value": Float64}, ttl=timedelta(hours=3)),
        view(
            "w",
            place_path,
            {"count": Int64, "name": String},
            keys={"place": String},
            ttl=timedelta(hours=9),
        ),
    ]
    frame = pd.DataFrame(
        {
            "row": range(len(asked)),
            "key": pd.array([row["key"] for row in asked], "Int64"),
            "place": [row["place"] for row in asked],
            "event_timestamp": pd.to_datetime([row["event_timestamp"] for row in asked]),
        }
    )

    def ask(store_config: Any, **how: Any) -> list[list[Any]]:
        features = ["v:value", "w:count", "w:name"]
        answer = historical(store_config, views, frame.copy(), features, registry=registry, **how).to_df()
        answer = answer.sort_values("row")
        return [values(answer, name) for name in ("value", "count", "name")]

    theirs = ask(repo_config(folder, {"type": "duckdb"}), store=DuckDBOfflineStore)
    assert ask(repo_config(folder, OURS)) == theirs
