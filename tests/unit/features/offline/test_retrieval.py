"""What an answer looks like: rows, order, types, names; and Feast's own machinery on top of it."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from feast import (
    Entity,
    FeatureService,
    FeatureStore,
    FeatureView,
    Field,
    FileSource,
    RequestSource,
    ValueType,
)
from feast.infra.offline_stores.dask import DaskOfflineStore
from feast.infra.offline_stores.file_source import SavedDatasetFileStorage
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Bool, Float64, Int64, String

from slipway.errors import FeatureSourceError
from slipway.features.offline import PolarsOfflineStore, latest
from tests.offline_store import AGE_TIMES, AGES, files_of_ages, historical, repo_config, values, view

NOON = datetime(2013, 3, 10, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def write(path: Path, columns: dict[str, Any], **types: Any) -> Path:
    pl.DataFrame(columns, schema_overrides=types).write_parquet(path)
    return path


def ask(folder: Path, views: list[FeatureView], rows: Any, features: list[str], **how: Any) -> pd.DataFrame:
    return historical(repo_config(folder), views, rows, features, **how).to_df()


def test_rows_stay_as_many_and_in_order(tmp_path: Path) -> None:
    path = write(tmp_path / "h.parquet", {"key": [1, 2], "ts": [NOON, NOON], "value": [1.0, 2.0]})
    rows = pd.DataFrame(
        {
            "key": [2, 1, 2, 3],
            "event_timestamp": [NOON + HOUR, NOON, NOON + HOUR, NOON],
            "note": list("abcd"),
        },
        index=[7, 7, 1, 0],
    )
    frame = ask(tmp_path, [view("v", path)], rows, ["v:value"])
    assert list(frame.columns) == ["key", "event_timestamp", "note", "value"]
    assert list(frame.index) == [0, 1, 2, 3]
    assert list(frame["note"]) == list("abcd")
    assert values(frame, "value") == [2.0, 1.0, 2.0, None]
    assert list(rows.index) == [7, 7, 1, 0], "the caller's frame is left alone"


def test_a_row_whose_values_are_all_past_the_ttl_is_kept(tmp_path: Path) -> None:
    path = write(tmp_path / "h.parquet", {"key": [1, 2], "ts": [NOON, NOON], "value": [1.0, 2.0]})
    rows = pd.DataFrame({"key": [1, 2], "event_timestamp": [NOON + HOUR, NOON + 3 * HOUR]})
    views = [view("v", path, ttl=2 * HOUR)]
    assert values(ask(tmp_path, views, rows, ["v:value"]), "value") == [1.0, None]
    config = repo_config(tmp_path, {"type": "dask"})
    theirs = historical(config, views, rows, ["v:value"], store=DaskOfflineStore).to_df()
    assert len(theirs) == 1, "Feast's dask store has learnt to keep it: say so in docs/offline-store.md"


def test_the_end_of_a_ttl_belongs_to_it_to_the_nanosecond(tmp_path: Path) -> None:
    path = write(tmp_path / "h.parquet", {"key": [1], "ts": [NOON], "value": [1.0]})
    moments = [NOON - timedelta(microseconds=1), NOON, NOON + HOUR, NOON + HOUR + timedelta(microseconds=1)]
    rows = pd.DataFrame({"key": 1, "event_timestamp": pd.to_datetime(moments).astype("datetime64[ns, UTC]")})
    rows.loc[4] = [1, pd.Timestamp(NOON + HOUR) + pd.Timedelta(1, "ns")]
    assert values(ask(tmp_path, [view("v", path, ttl=HOUR)], rows, ["v:value"]), "value") == [
        *(None, 1.0, 1.0, None),
        None,
    ]


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pl.Series([date(2013, 3, 10), date(2013, 3, 11)]), [1.0, 1.0, 2.0]),
        (pl.Series([datetime(2013, 3, 10), datetime(2013, 3, 11)]).cast(pl.Datetime("ms")), [1.0, 1.0, 2.0]),
        (
            pl.Series([datetime(2013, 3, 10), datetime(2013, 3, 11)])
            .dt.replace_time_zone("America/New_York")
            .cast(pl.Datetime("ns", "America/New_York")),
            [None, 1.0, 1.0],
        ),
    ],
    ids=["dates", "milliseconds without a zone", "nanoseconds of New York"],
)
def test_history_times_of_every_kind(tmp_path: Path, column: pl.Series, expected: list[Any]) -> None:
    path = write(tmp_path / "h.parquet", {"key": [1, 1], "ts": column, "value": [1.0, 2.0]})
    # Far dates stand for "the newest there is": nanoseconds cannot hold them, and must not wrap.
    moments = [
        datetime(2013, 3, 10, tzinfo=UTC),
        NOON,
        datetime(2013, 3, 11, tzinfo=UTC),
        datetime(9999, 1, 1),
    ]
    rows = pl.DataFrame({"key": [1] * 4, "event_timestamp": [m.replace(tzinfo=None) for m in moments]})
    assert values(ask(tmp_path, [view("v", path)], rows, ["v:value"]), "value") == [*expected, 2.0]


def test_types_are_kept(tmp_path: Path) -> None:
    path = write(
        tmp_path / "h.parquet",
        {
            "key": ["a", "b"],
            "ts": [NOON, NOON],
            "count": [2**62 + 1, 5],
            "small": [1, 2],
            "late": [True, False],
            "name": ["x", "y"],
            "codes": [[1, 2], []],
            "seen": [NOON, NOON],
            "ratio": [0.5, 0.25],
        },
        small=pl.Int16,
        ratio=pl.Float32,
        name=pl.Categorical,
    )
    features = ["count", "small", "late", "name", "codes", "seen", "ratio"]
    views = [view("v", path, dict.fromkeys(features, Int64), keys={"key": String})]
    views[0].features = []  # the declared types do not matter here
    rows = pd.DataFrame(
        {
            "key": pd.Categorical(["a", "b"]),
            "event_timestamp": [NOON, NOON],
            "seats": pd.array([1, None], "Int32"),
            "index": [1, 2],
        }
    )
    full = ask(tmp_path, views, rows, [f"v:{name}" for name in features])
    assert {name: str(kind) for name, kind in full.dtypes.items()} == {
        "key": "category",
        "event_timestamp": "datetime64[ns, UTC]",
        "seats": "Int32",
        "index": "int64",
        "count": "int64",
        "small": "int16",
        "late": "bool",
        "name": "object",
        "codes": "object",
        "seen": "datetime64[us, UTC]",
        "ratio": "float32",
    }
    rows["event_timestamp"] = [NOON, NOON - HOUR]
    gaps = ask(tmp_path, views, rows, [f"v:{name}" for name in features])
    assert gaps["count"].dtype == "Int64"
    assert values(gaps, "count") == [2**62 + 1, None]
    assert gaps["small"].dtype == "Int16"
    assert gaps["late"].dtype == "boolean"
    assert gaps["ratio"].dtype == "float32"
    arrow = historical(repo_config(tmp_path), views, rows, [f"v:{name}" for name in features]).to_arrow()
    assert arrow.schema.field("codes").type == pa.list_(pa.int64())
    assert arrow.schema.field("name").type == pa.string()
    assert max(column.num_chunks for column in arrow.columns) == 1


@pytest.mark.parametrize("kind", ["pandas", "polars", "lazy", "arrow", "texts", "arrow-backed", "unnamed"])
def test_entity_rows_of_every_kind(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path / "h.parquet", {"key": [1, 1], "ts": [NOON, NOON + HOUR], "value": [1.0, 2.0]})
    frame = pl.DataFrame({"key": [1, 1], "event_timestamp": [NOON + HOUR, NOON]})
    pandas = frame.to_pandas()
    rows = {
        "pandas": pandas,
        "polars": frame,
        "lazy": frame.lazy(),
        "arrow": frame.to_arrow(),
        "texts": pandas.assign(event_timestamp=["2013-03-10T14:00:00+01:00", "2013-03-10 12:00"]),
        "arrow-backed": pandas.convert_dtypes(dtype_backend="pyarrow"),
        "unnamed": pandas.rename(columns={"event_timestamp": "asked_at"}),
    }[kind]
    assert values(ask(tmp_path, [view("v", path)], rows, ["v:value"]), "value") == [2.0, 1.0]


@pytest.mark.parametrize(
    "keys", [[1.0, None, 1.5, 2.0], pd.array([1, None, 300, 2], "Int64"), ["1", None, "x", "2"]]
)
def test_keys_of_other_types_meet_when_their_values_do(tmp_path: Path, keys: Any) -> None:
    texts = isinstance(keys, list) and isinstance(keys[0], str)
    own = pl.Series(["1", "2"], dtype=pl.Categorical) if texts else pl.Series([1, 2], dtype=pl.Int8)
    path = write(tmp_path / "h.parquet", {"key": own, "ts": [NOON, NOON], "value": [1.0, 2.0]})
    rows = pd.DataFrame({"key": keys, "event_timestamp": NOON})
    views = [view("v", path, keys={"key": String if texts else Int64})]
    assert values(ask(tmp_path, views, rows, ["v:value"]), "value") == [1.0, None, None, 2.0]


def test_field_mapping_and_full_names(tmp_path: Path) -> None:
    path = write(
        tmp_path / "h.parquet", {"k": [1, 1], "t": [NOON, NOON], "c": [NOON, NOON + HOUR], "v": [1, 2]}
    )
    mapped = view(
        "v",
        path,
        {"value": Int64},
        timestamp="ts",
        created="made",
        mapping={"k": "key", "t": "ts", "c": "made", "v": "value"},
    )
    rows = pd.DataFrame({"key": [1], "event_timestamp": [NOON], "value": ["mine"]})
    frame = ask(tmp_path, [mapped], rows, ["v:value"], full_feature_names=True)
    assert list(frame["v__value"]) == [2]
    known = ask(
        tmp_path, [mapped], rows, ["v:value"], full_feature_names=True, filter_by_created_timestamp=True
    )
    assert list(known["v__value"]) == [1]
    with pytest.raises(FeatureSourceError, match="value is a column here and a feature of view 'v'"):
        ask(tmp_path, [mapped], rows, ["v:value"])


def test_a_view_without_an_entity(tmp_path: Path) -> None:
    path = write(tmp_path / "h.parquet", {"ts": [NOON, NOON + HOUR], "value": [1.0, 2.0]})
    rows = pd.DataFrame({"event_timestamp": [NOON + HOUR, NOON, NOON - HOUR]})
    assert values(ask(tmp_path, [view("v", path, keys={})], rows, ["v:value"]), "value") == [2.0, 1.0, None]


@pytest.mark.parametrize("times", [[], [None, None]])
def test_no_rows_or_no_times(tmp_path: Path, times: list[Any]) -> None:
    path = write(tmp_path / "h.parquet", {"key": [1], "ts": [NOON], "value": [1]})
    schema = {"key": pl.Int64, "event_timestamp": pl.Datetime("us", "UTC")}
    rows = pl.DataFrame({"key": [1] * len(times), "event_timestamp": times}, schema)
    views = [view("v", path, {"value": Int64})]
    table = historical(repo_config(tmp_path), views, rows, ["v:value"]).to_arrow()
    assert table["value"].to_pylist() == times
    assert table.schema.field("value").type == pa.int64()


def test_nothing_is_read_before_it_is_asked_for(tmp_path: Path) -> None:
    rows = pd.DataFrame({"key": [1], "event_timestamp": [NOON]})
    job = historical(repo_config(tmp_path), [view("v", "later.parquet")], rows, ["v:value"])
    assert job.metadata is not None
    assert job.metadata.keys == ["key"]
    assert job.metadata.max_event_timestamp == NOON
    write(tmp_path / "later.parquet", {"key": [1], "ts": [NOON], "value": [1.0]})
    assert values(job.to_df(), "value") == [1.0]
    write(tmp_path / "later.parquet", {"key": [1], "ts": [NOON], "value": [2.0]})
    assert job.to_polars()["value"].to_list() == [2.0]


def test_without_entity_rows_everybody_answers_as_of_the_end(tmp_path: Path) -> None:
    path = write(
        tmp_path / "h.parquet",
        {
            "key": [3, 1, 1, 2, None, 4],
            "ts": [NOON, NOON - HOUR, NOON + HOUR, NOON + 3 * HOUR, NOON, NOON - 9 * HOUR],
            "value": [3.0, 1.0, 1.5, 2.0, 9.0, 4.0],
        },
    )
    frame = ask(
        tmp_path, [view("v", path)], None, ["v:value"], start_date=NOON - HOUR, end_date=NOON + 2 * HOUR
    )
    assert frame.to_dict("list") == {
        "key": [1, 3],
        "event_timestamp": [pd.Timestamp(NOON + 2 * HOUR)] * 2,
        "value": [1.5, 3.0],
    }


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    """An applied repository: a view by key, a view without an entity, an on-demand view over both."""
    write(
        tmp_path / "h.parquet",
        {"key": [1, 1, 2], "ts": [NOON, NOON + HOUR, NOON], "made": [NOON] * 3, "value": [1, 2, None]},
    )
    write(tmp_path / "all.parquet", {"ts": [NOON, NOON + HOUR], "mood": [0.5, 0.75]})
    by_key = view("v", "h.parquet", {"value": Int64}, created="made")
    by_key.online = True
    overall = FeatureView(
        name="overall",
        entities=[],
        schema=[Field(name="mood", dtype=Float64)],
        source=FileSource(name="all", path="all.parquet", timestamp_field="ts"),
    )
    request = RequestSource(name="request", schema=[Field(name="limit", dtype=Int64)])

    @on_demand_feature_view(sources=[by_key, request], schema=[Field(name="over", dtype=Bool)])
    def compared(inputs: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"over": inputs["value"].fillna(0) > inputs["limit"]})

    feature_store = FeatureStore(config=repo_config(tmp_path))
    key = Entity(name="key", join_keys=["key"], value_type=ValueType.INT64)
    service = FeatureService(name="service", features=[by_key, overall, compared])
    feature_store.apply([key, by_key, overall, compared, service])
    return feature_store


def test_on_demand_views_and_services(store: FeatureStore) -> None:
    rows = pd.DataFrame({"key": [2, 1], "event_timestamp": [NOON + HOUR, NOON + HOUR], "limit": [1, 1]})
    frame = store.get_historical_features(rows, store.get_feature_service("service")).to_df()
    assert list(frame.columns) == ["key", "event_timestamp", "limit", "value", "mood", "over"]
    assert list(frame["key"]) == [2, 1]
    assert values(frame, "value") == [None, 2]
    assert list(frame["mood"]) == [0.75, 0.75]
    assert list(frame["over"]) == [False, True]
    assert frame["value"].dtype == "Int64"


def test_a_saved_dataset_comes_back(store: FeatureStore, tmp_path: Path) -> None:
    rows = pd.DataFrame({"key": [2, 1, 1], "event_timestamp": [NOON + HOUR, NOON + HOUR, NOON]})
    job = store.get_historical_features(rows, ["v:value"])
    place = SavedDatasetFileStorage(str(tmp_path / "saved"))
    store.create_saved_dataset(from_=job, name="saved", storage=place)
    back = store.get_saved_dataset("saved").to_df().sort_values(["key", "event_timestamp"])
    assert values(back, "value") == [1, 2, None]


def test_materializing_goes_through_feast(store: FeatureStore) -> None:
    store.materialize(NOON - HOUR, NOON + 2 * HOUR)
    answer = store.get_online_features(["v:value", "overall:mood"], [{"key": 1}, {"key": 2}]).to_dict()
    assert answer == {"key": [1, 2], "value": [2, None], "mood": [0.75, 0.75]}


def test_pulls_by_time(store: FeatureStore, tmp_path: Path) -> None:
    config, provider = store.config, store._get_provider()
    source = store.get_feature_view("v").batch_source
    pull = provider.offline_store
    columns = (["key"], ["value"], "ts")
    everything = pull.pull_all_from_table_or_query(config, source, *columns, "made").to_arrow()
    assert everything.column_names == ["key", "value", "ts", "made"]
    assert everything["value"].to_pylist() == [1, 2, None]
    edge = pull.pull_all_from_table_or_query(config, source, *columns, None, NOON + HOUR, NOON + HOUR).to_df()
    assert list(edge["value"]) == [2]
    latest = pull.pull_latest_from_table_or_query(
        config, source, *columns, "made", NOON, NOON + HOUR - timedelta(microseconds=1)
    ).to_df()
    assert dict(zip(latest["key"], values(latest, "value"), strict=True)) == {1: 1, 2: None}
    names = dict(provider.get_table_column_names_and_types_from_data_source(config, source))
    assert names == {
        "key": "int64",
        "ts": "timestamp[us, tz=UTC]",
        "made": "timestamp[us, tz=UTC]",
        "value": "int64",
    }


def test_the_newest_of_a_key_by_time_then_creation_then_place(tmp_path: Path) -> None:
    path = write(
        tmp_path / "h.parquet",
        {
            "key": [1, 1, 1, 2, 2, 3, 3, None],
            "ts": [NOON, NOON, NOON - HOUR, NOON, NOON, NOON, NOON, NOON],
            "made": [NOON, NOON + HOUR, NOON + 9 * HOUR, None, NOON, NOON, NOON, NOON],
            "value": [1, 2, 3, 4, 5, 6, 7, 8],
        },
    )
    config = repo_config(tmp_path)

    source = view("v", path, created="made").batch_source
    latest = PolarsOfflineStore.pull_latest_from_table_or_query(
        config, source, ["key"], ["value"], "ts", "made", NOON - HOUR, NOON
    ).to_polars()
    assert sorted(latest["value"].to_list()) == [2, 5, 7]


def test_the_newest_of_few_keys_are_found_with_few_rows_in_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, keys, batch = 2_000, 7, 50
    path = tmp_path / "h.parquet"
    pl.DataFrame(
        {
            "key": [number % keys for number in range(rows)],
            "ts": [NOON + timedelta(seconds=number) for number in range(rows)],
            "value": [float(number) for number in range(rows)],
        }
    ).write_parquet(path, row_group_size=batch)
    held: list[int] = []
    newest = latest._newest

    def watched(parts: list[pl.DataFrame], *how: Any) -> pl.DataFrame:
        held.append(sum(len(part) for part in parts))
        return newest(parts, *how)

    monkeypatch.setattr(latest, "BATCH_ROWS", batch)
    monkeypatch.setattr(latest, "_newest", watched)
    found = PolarsOfflineStore.pull_latest_from_table_or_query(
        repo_config(tmp_path), view("v", path).batch_source, ["key"], ["value"], "ts", None
    ).to_polars()
    assert sorted(found["value"].to_list()) == [float(number) for number in range(rows - keys, rows)]
    assert max(held) <= keys + 2 * batch


@pytest.mark.parametrize(("first", "last", "values"), AGES)
@pytest.mark.parametrize("zone", ["UTC", "America/New_York", None])
@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
def test_files_of_one_place_that_were_written_at_different_times(
    tmp_path: Path,
    first: dict[str, Any],
    last: dict[str, Any],
    values: list[Any],
    zone: str | None,
    unit: Any,
) -> None:
    place = tmp_path / "h"
    for name, frame in files_of_ages(first, last, zone, unit).items():
        (place / name).parent.mkdir(parents=True)
        frame.write_parquet(place / name)
    asked = pl.DataFrame({"key": [1, 1], "event_timestamp": AGE_TIMES})
    table = historical(repo_config(tmp_path), [view("v", place)], asked, ["v:value"]).to_arrow()
    assert table["value"].to_pylist() == values


def test_columns_may_have_any_name(tmp_path: Path) -> None:
    names = ["__time", "__row", "__created", "__code", "__key", "__key0", "time", "row"]
    start = datetime(2013, 1, 1, tzinfo=UTC)
    pl.DataFrame(
        {"key": [1], "ts": [start], **{name: [float(at)] for at, name in enumerate(names)}}
    ).write_parquet(tmp_path / "h.parquet")
    named = view("v", tmp_path / "h.parquet", dict.fromkeys(names, Float64))
    asked = pl.DataFrame({"key": [1], "event_timestamp": [start]})
    table = historical(repo_config(tmp_path), [named], asked, [f"v:{name}" for name in names]).to_arrow()
    assert [table[name].to_pylist() for name in names] == [[float(at)] for at in range(len(names))]
