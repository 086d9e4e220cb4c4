"""PackedOnlineStore through Feast, on a real Valkey: what Feast's Redis store gets wrong, and all types."""

from __future__ import annotations

import datetime as dt
import decimal
import uuid
from collections.abc import Iterator, Mapping
from datetime import UTC, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis
from feast import (
    Entity,
    FeatureService,
    FeatureStore,
    FeatureView,
    Field,
    FileSource,
    PushSource,
    RequestSource,
    StreamFeatureView,
    ValueType,
)
from feast.data_format import JsonFormat
from feast.data_source import KafkaSource
from feast.on_demand_feature_view import on_demand_feature_view
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.type_map import python_values_to_proto_values
from feast.types import (
    Array,
    Bool,
    Bytes,
    Decimal,
    Float32,
    Float64,
    Int32,
    Int64,
    Invalid,
    Json,
    Map,
    ScalarMap,
    Set,
    String,
    Struct,
    TimeUuid,
    UnixTimestamp,
    Uuid,
    ZonedTimestamp,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slipway.errors import FeatureError, FeatureSchemaError, FeatureSourceError
from slipway.features import online as online_module
from slipway.features.protos import value_type
from tests.integration.features.conftest import NOW, make_store
from tests.valkey import ValkeyServer

_text = st.text(max_size=8)
_floats = st.floats(allow_nan=False)
_floats32 = st.floats(width=32, allow_nan=False)
_longs = st.integers(-(2**63), 2**63 - 1)
_ints = st.integers(-(2**31), 2**31 - 1)
_times = st.datetimes(dt.datetime(1971, 1, 1), dt.datetime(2100, 1, 1)).map(
    lambda moment: moment.replace(microsecond=0, tzinfo=UTC)
)


def _lists(items: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(items, min_size=1, max_size=4)


def _sets(items: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.sets(items, min_size=1, max_size=4)


_uuids = st.uuids(version=4)
_decimals = st.decimals(allow_nan=False, allow_infinity=False, places=4, min_value=-1000, max_value=1000)
_maps = st.dictionaries(_text, _text, min_size=1, max_size=3)
EVERY: Mapping[Any, st.SearchStrategy[Any]] = {
    Float64: _floats,
    Float32: _floats32,
    Int64: _longs,
    Int32: _ints,
    Bool: st.booleans(),
    UnixTimestamp: _times,
    String: _text,
    Bytes: st.binary(max_size=9),
    Json: st.dictionaries(_text, _ints, max_size=3),
    Uuid: _uuids,
    TimeUuid: st.just(uuid.UUID("c232ab00-9414-11ec-b3c8-9f68deced846")),
    Decimal: _decimals,
    Map: _maps,
    ScalarMap: st.dictionaries(_ints, _text, min_size=1, max_size=3),
    ZonedTimestamp: _times,
    Struct({"a": String}): st.fixed_dictionaries({"a": _text}),
    Array(Float64): _lists(_floats),
    Array(Float32): _lists(_floats32),
    Array(Int64): _lists(_longs),
    Array(Int32): _lists(_ints),
    Array(Bool): _lists(st.booleans()),
    Array(UnixTimestamp): _lists(_times),
    Array(String): _lists(_text),
    Array(Bytes): _lists(st.binary(max_size=5)),
    Array(Json): _lists(st.dictionaries(_text, _ints, max_size=2)),
    Array(Uuid): _lists(_uuids),
    Array(Decimal): _lists(_decimals),
    Array(Map): _lists(_maps),
    Array(Struct({"a": String})): _lists(st.fixed_dictionaries({"a": _text})),
    Array(Array(Int64)): _lists(_lists(_ints)),
    Set(Float64): _sets(_floats),
    Set(Int64): _sets(_longs),
    Set(Int32): _sets(_ints),
    Set(Bool): _sets(st.booleans()),
    Set(String): _sets(_text),
    Set(Bytes): _sets(st.binary(max_size=5)),
    Set(UnixTimestamp): _sets(_times),
    Set(Uuid): _sets(_uuids),
    Set(Decimal): _sets(_decimals),
}
DRIVER = Entity(name="driver", join_keys=["driver"], value_type=ValueType.INT64)


def view(name: str, source: Any, /, *, ttl: timedelta | None = None, **fields: Any) -> FeatureView:
    schema = [Field(name=field, dtype=dtype) for field, dtype in fields.items()]
    return FeatureView(
        name=name,
        entities=[DRIVER],
        ttl=ttl,
        schema=[*schema, Field(name="driver", dtype=Int64)],
        source=source,
    )


def unused() -> FileSource:
    return FileSource(path="unused.parquet", timestamp_field="ts", name="unused")


@pytest.fixture
def store(tmp_path: Path, valkey: ValkeyServer, request: pytest.FixtureRequest) -> Iterator[FeatureStore]:
    store = make_store(tmp_path, valkey.url, project=request.node.name.split("[")[0].lower()[:40])
    yield store
    store.teardown()


def key(driver: int) -> EntityKey:
    return EntityKey(join_keys=["driver"], entity_values=[Value(int64_val=driver)])


def write(store: FeatureStore, name: str, driver: int, at: dt.datetime, /, **values: Any) -> None:
    table = store.get_feature_view(name)
    protos = {
        field.name: python_values_to_proto_values([values[field.name]], value_type(str(field.dtype)))[0]
        for field in table.features
    }
    store._get_provider().online_write_batch(store.config, table, [(key(driver), protos, at, None)], None)


def statuses(response: Any, feature: str) -> list[str]:
    at = list(response.proto.metadata.feature_names.val).index(feature)
    return [FieldStatus.Name(code) for code in response.proto.results[at].statuses]


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_every_value_type_comes_back_as_it_went_in(every: FeatureStore, data: st.DataObject) -> None:
    table = every.get_feature_view("every")
    protos = {}
    for number, (dtype, values) in enumerate(EVERY.items()):
        value = data.draw(st.none() | values, label=str(dtype))
        protos[f"f{number}"] = python_values_to_proto_values([value], value_type(str(dtype)))[0]
    provider = every._get_provider()
    provider.online_write_batch(every.config, table, [(key(1), protos, NOW, None)], None)

    ((moment, read),) = provider.online_read(every.config, table, [key(1)])

    assert moment == NOW
    assert read.keys() == protos.keys()
    for name, proto in protos.items():
        # As bytes: protobuf compares NaN and -0.0 by value, and the order of a map's items is no matter.
        same = read[name].SerializeToString(deterministic=True) == proto.SerializeToString(deterministic=True)
        assert same, (table.features, name)


@pytest.fixture(scope="module")
def every(tmp_path_factory: pytest.TempPathFactory, valkey: ValkeyServer) -> FeatureStore:
    store = make_store(tmp_path_factory.mktemp("every"), valkey.url, project="every")
    fields = {f"f{number}": dtype for number, dtype in enumerate(EVERY)}
    store.apply([DRIVER, view("every", unused(), **fields)])
    return store


def test_unknown_stale_and_null_are_told_apart(store: FeatureStore) -> None:
    store.apply([DRIVER, view("trips", unused(), ttl=timedelta(hours=1), count=Int64)])
    write(store, "trips", 1, NOW - timedelta(hours=1), count=7)
    write(store, "trips", 2, NOW - timedelta(hours=1, microseconds=1), count=8)
    write(store, "trips", 3, NOW, count=None)

    response = store.get_online_features(["trips:count"], [{"driver": driver} for driver in (1, 2, 3, 4, 1)])

    assert response.to_dict()["count"] == [7, None, None, None, 7]
    assert statuses(response, "count") == [
        "PRESENT",
        "OUTSIDE_MAX_AGE",
        "NULL_VALUE",
        "NOT_FOUND",
        "PRESENT",
    ]
    times = response.proto.results[1].event_timestamps
    assert times[1].ToMicroseconds() == int((NOW - timedelta(hours=1)).timestamp()) * 10**6 - 1
    assert times[3].ToMicroseconds() == 0


def test_plain_reads_call_a_stale_row_not_found_but_say_when_it_was(store: FeatureStore) -> None:
    store.apply([DRIVER, view("trips", unused(), ttl=timedelta(hours=1), count=Int64)])
    write(store, "trips", 2, NOW - timedelta(hours=2), count=8)
    table = store.get_feature_view("trips")
    provider = store._get_provider()

    assert provider.online_read(store.config, table, [key(2), key(9)]) == [
        (NOW - timedelta(hours=2), None),
        (None, None),
    ]


async def test_async_reads_answer_as_the_others_do(store: FeatureStore) -> None:
    store.apply(
        [
            DRIVER,
            view("trips", unused(), ttl=timedelta(hours=1), count=Int64),
            view("names", unused(), name=String),
        ]
    )
    write(store, "trips", 1, NOW, count=7)
    write(store, "names", 1, NOW, name="Ada")
    rows = [{"driver": 1}, {"driver": 2}]
    features = ["trips:count", "names:name"]

    response = await store.get_online_features_async(features, rows)

    assert response.to_dict() == store.get_online_features(features, rows).to_dict()
    assert response.to_dict()["name"] == ["Ada", None]
    table = store.get_feature_view("trips")
    read = await store._get_provider().online_read_async(store.config, table, [key(1)])
    assert read == [(NOW, {"count": Value(int64_val=7)})]
    await store._get_provider().close()


def test_an_older_event_never_overwrites_a_later_one(store: FeatureStore) -> None:
    store.apply([DRIVER, view("trips", unused(), count=Int64)])

    def now() -> Any:
        return store.get_online_features(["trips:count"], [{"driver": 1}]).to_dict()["count"]

    write(store, "trips", 1, NOW, count=1)
    write(store, "trips", 1, NOW - timedelta(microseconds=1), count=2)
    assert now() == [1]
    write(store, "trips", 1, NOW, count=3)
    assert now() == [3], "on the same time the later write corrects the earlier"
    write(store, "trips", 1, NOW + timedelta(microseconds=1), count=4)
    assert now() == [4]


def test_created_time_decides_between_equal_event_times(store: FeatureStore) -> None:
    store.apply([DRIVER, view("trips", unused(), count=Int64)])
    table = store.get_feature_view("trips")
    provider = store._get_provider()
    for count, created in ((1, NOW), (2, NOW - timedelta(seconds=1)), (3, NOW + timedelta(seconds=1))):
        row = (key(1), {"count": Value(int64_val=count)}, NOW - timedelta(days=1), created)
        provider.online_write_batch(store.config, table, [row], None)
        assert store.get_online_features(["trips:count"], [{"driver": 1}]).to_dict()["count"] == [
            {1: 1, 2: 1, 3: 3}[count]
        ]


def test_a_batch_keeps_the_latest_of_each_entity_whatever_its_order(store: FeatureStore) -> None:
    store.apply([DRIVER, view("trips", unused(), count=Int64)])
    table = store.get_feature_view("trips")
    rows = [
        (key(driver), {"count": Value(int64_val=age)}, NOW - timedelta(minutes=age), None)
        for age in (5, 1, 9)
        for driver in range(1500)
    ]
    done: list[int] = []
    store._get_provider().online_write_batch(store.config, table, rows, done.append)

    counts = store.get_online_features(["trips:count"], [{"driver": n} for n in range(1500)]).to_dict()
    assert counts["count"] == [1] * 1500
    assert sum(done) == 4500


def test_materializes_from_parquet_and_goes_on_where_it_stopped(store: FeatureStore, tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "driver": [1, 1, 2, 3],
            "ts": pd.to_datetime([NOW - timedelta(minutes=m) for m in (90, 30, 45, 600)]),
            "trips": pd.array([1, 2, None, 4], "Int64"),
            "rating": [0.1, float("nan"), 0.3, 0.4],
            "name": ["a", None, "c", "d"],
            "seen": pd.to_datetime([NOW, None, NOW, NOW]),
            "codes": [[1, 2], None, [], [4]],
        }
    )
    path = tmp_path / "drivers.parquet"
    pq.write_table(pa.Table.from_pandas(frame), path)
    source = FileSource(path=str(path), timestamp_field="ts", field_mapping={"trips": "count"})
    fields = {"count": Int64, "rating": Float64, "name": String, "seen": UnixTimestamp, "codes": Array(Int64)}
    store.apply([DRIVER, view("trips", source, ttl=timedelta(hours=3), **fields)])

    store.materialize(NOW - timedelta(hours=2), NOW)
    features = [f"trips:{name}" for name in fields]
    response = store.get_online_features(features, [{"driver": driver} for driver in (1, 2, 3)])

    found = response.to_dict()
    assert found["count"] == [2, None, None]
    assert found["rating"] == [None, 0.3, None], "NaN is null, as in Feast"
    assert found["name"] == [None, "c", None]
    assert found["seen"] == [None, NOW, None]
    assert found["codes"][0] is None
    assert statuses(response, "count") == ["PRESENT", "NULL_VALUE", "NOT_FOUND"]

    later = pd.concat([frame, frame.tail(1).assign(ts=NOW + timedelta(minutes=5), trips=5)])
    pq.write_table(pa.Table.from_pandas(later), path)
    store.materialize_incremental(NOW + timedelta(minutes=10))
    assert store.get_online_features(features, [{"driver": 3}]).to_dict()["count"] == [5]


def test_pushed_and_directly_written_rows_are_served(store: FeatureStore) -> None:
    push = PushSource(name="stream", batch_source=unused())
    store.apply([DRIVER, push, view("trips", push, count=Int64, rate=Float32)])
    frame = pd.DataFrame({"driver": [1, 2], "ts": [NOW, NOW], "count": [5, 6], "rate": [0.5, 0.25]})

    store.push("stream", frame)
    store.write_to_online_store("trips", frame.tail(1).assign(count=7))

    found = store.get_online_features(["trips:count", "trips:rate"], [{"driver": 1}, {"driver": 2}]).to_dict()
    assert found["count"] == [5, 7]
    assert found["rate"] == [0.5, 0.25]


def test_on_demand_views_join_in(store: FeatureStore) -> None:
    trips = view("trips", unused(), count=Int64)

    @on_demand_feature_view(
        sources=[trips, RequestSource(name="now", schema=[Field(name="hours", dtype=Int64)])],
        schema=[Field(name="rate", dtype=Float64)],
        mode="python",
    )
    def rates(inputs: dict[str, Any]) -> dict[str, Any]:
        return {"rate": [c / h for c, h in zip(inputs["count"], inputs["hours"], strict=True)]}

    store.apply([DRIVER, trips, rates])
    write(store, "trips", 1, NOW, count=6)

    found = store.get_online_features(["rates:rate"], [{"driver": 1, "hours": 3}]).to_dict()
    assert found["rate"] == [2.0]


async def test_on_demand_views_that_are_stored_come_from_the_store(
    store: FeatureStore, valkey: ValkeyServer
) -> None:
    @on_demand_feature_view(
        sources=[RequestSource(name="now", schema=[Field(name="hours", dtype=Int64)])],
        entities=[DRIVER],
        schema=[Field(name="twice", dtype=Int64)],
        mode="python",
        write_to_online_store=True,
    )
    def stored(inputs: dict[str, Any]) -> dict[str, Any]:
        return {"twice": [2 * hours for hours in inputs["hours"]]}

    batch = FileSource(path="unused.parquet", timestamp_field="ts")
    kafka = KafkaSource(
        name="kafka",
        kafka_bootstrap_servers="127.0.0.1:1",
        topic="trips",
        timestamp_field="ts",
        message_format=JsonFormat("driver long"),
        batch_source=batch,
    )
    schema = [Field(name="driver", dtype=Int64), Field(name="load", dtype=Float64)]
    stream = StreamFeatureView(name="stream", entities=[DRIVER], schema=schema, source=kafka)
    store.apply([DRIVER, stored, stream])
    rows = pd.DataFrame({"driver": [1], "hours": [21], "event_timestamp": [NOW]})
    store.write_to_online_store("stored", rows)
    store.write_to_online_store("stream", pd.DataFrame({"driver": [1], "load": [0.5], "ts": [NOW]}))

    asked = [{"driver": 1}, {"driver": 2}]
    wanted = {"driver": [1, 2], "twice": [42, None], "load": [0.5, None]}
    features = ["stored:twice", "stream:load"]
    assert store.get_online_features(features, asked).to_dict() == wanted
    assert (await store.get_online_features_async(features, asked)).to_dict() == wanted
    assert store.get_online_features(features, asked[:1]).to_dict()["twice"] == [42]
    await store._get_provider().online_store.close()
    store.teardown()
    assert not list(redis.Redis(port=valkey.port).scan_iter(match=f"slipway:{store.project}:*"))


def test_views_without_entities_have_one_value(store: FeatureStore, tmp_path: Path) -> None:
    path = tmp_path / "world.parquet"
    pq.write_table(pa.table({"ts": pa.array([NOW], pa.timestamp("us", "UTC")), "mood": [0.5]}), path)
    source = FileSource(path=str(path), timestamp_field="ts")
    world = FeatureView(name="world", entities=[], schema=[Field(name="mood", dtype=Float64)], source=source)
    store.apply([world, FeatureService(name="all", features=[world])])
    store.materialize(NOW - timedelta(hours=1), NOW + timedelta(hours=1))

    found = store.get_online_features(["world:mood"], {"driver": [1, 2]}).to_dict()
    assert found["mood"] == [0.5, 0.5]


def test_another_schema_is_named_not_misread(store: FeatureStore) -> None:
    store.apply([DRIVER, view("trips", unused(), count=Int64, old=String)])
    write(store, "trips", 1, NOW, count=7, old="x")
    changed = {"count": Float64, "fresh": Int64}
    store.apply([DRIVER, view("trips", unused(), **changed)])

    with pytest.raises(FeatureSchemaError) as caught:
        store.get_online_features(["trips:count"], [{"driver": 1}, {"driver": 2}])

    text = str(caught.value)
    assert "1 of 2" in text
    assert "without fresh" in text
    assert "with old" in text
    assert "count as Int64, not Float64" in text
    assert "materialize" in text
    write(store, "trips", 1, NOW, count=1.5, fresh=2)
    assert store.get_online_features(["trips:count"], [{"driver": 1}]).to_dict()["count"] == [1.5]


def test_fields_in_another_order_are_the_same_schema(store: FeatureStore) -> None:
    store.apply([DRIVER, view("trips", unused(), a=Int64, b=Float64, c=String)])
    write(store, "trips", 1, NOW, a=1, b=2.0, c="3")
    store.apply([DRIVER, view("trips", unused(), c=String, b=Float64, a=Int64)])

    found = store.get_online_features(["trips:a", "trips:b", "trips:c"], [{"driver": 1}]).to_dict()
    assert (found["a"], found["b"], found["c"]) == ([1], [2.0], ["3"])


def test_types_that_cannot_be_kept_are_refused_when_applied(store: FeatureStore) -> None:
    with pytest.raises(FeatureError, match=r"'bad' has type Invalid.*"):
        store.apply([DRIVER, view("trips", unused(), bad=Invalid)])
    rated = Entity(name="rating", join_keys=["rating"], value_type=ValueType.DOUBLE)
    schema = [Field(name="rating", dtype=Float64), Field(name="n", dtype=Int64)]
    with pytest.raises(FeatureError, match="no identity"):
        store.apply([rated, FeatureView(name="rated", entities=[rated], schema=schema, source=unused())])


def test_a_value_of_another_type_is_refused(store: FeatureStore) -> None:
    store.apply([DRIVER, view("trips", unused(), count=Int64)])
    row = (key(1), {"count": Value(string_val="7")}, NOW, None)
    with pytest.raises(FeatureError, match="expected Int64, got string_val"):
        store._get_provider().online_write_batch(store.config, store.get_feature_view("trips"), [row], None)


def test_removed_views_and_teardown_leave_what_is_not_theirs(
    store: FeatureStore, tmp_path: Path, valkey: ValkeyServer
) -> None:
    client = redis.Redis(port=valkey.port)
    foreign = {
        "slipway:other:trips:{i=1}",
        f"{store.project}:trips",
        "slipway:" + store.project + "x:trips:{i=1}",
    }
    for name in foreign:
        client.set(name, "mine")
    trips, names = view("trips", unused(), count=Int64), view("names", unused(), name=String)
    store.apply([DRIVER, trips, names])
    write(store, "trips", 1, NOW, count=1)
    write(store, "names", 1, NOW, name="Ada")

    store.apply([DRIVER, trips], objects_to_delete=[names], partial=False)
    mine = {k.decode() for k in client.scan_iter(match=f"slipway:{store.project}:*")}
    assert mine == {f"slipway:{store.project}:trips:{{i=1}}", f"slipway:{store.project}:@schemas"}
    store.teardown()
    assert not list(client.scan_iter(match=f"slipway:{store.project}:*"))
    assert {name for name in foreign if client.get(name) == b"mine"} == foreign
    client.delete(*foreign)


@pytest.mark.parametrize("block", [1, 2, 100])
def test_feasts_own_engine_writes_the_same_blobs(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    """The Arrow path and the protobuf path are two ways to one blob, in blocks of whatever size."""
    from feast.utils import _convert_arrow_to_proto

    monkeypatch.setattr(online_module, "BLOCK_ROWS", block)
    table = pa.table(
        {
            "driver": [1, 2, 3],
            "ts": pa.array([NOW, NOW - timedelta(seconds=1), NOW], pa.timestamp("ns", "UTC")),
            "i": pa.array([1, None, -3], pa.int64()),
            "f": pa.array([1.5, float("nan"), None], pa.float32()),
            "b": [True, None, False],
            "s": ["ä", None, ""],
            "raw": pa.array([b"\x00", None, b""], pa.binary()),
            "t": pa.array([NOW, None, NOW], pa.timestamp("ms", "UTC")),
            "list": pa.array([[1.0, 2.0], None, [3.0]], pa.list_(pa.float64())),
            "texts": [["a", ""], None, ["ß"]],
        }
    )
    fields = {
        "i": Int64,
        "f": Float32,
        "b": Bool,
        "s": String,
        "raw": Bytes,
        "t": UnixTimestamp,
        "list": Array(Float64),
        "texts": Array(String),
    }
    store.apply([DRIVER, view("trips", unused(), **fields)])
    applied = store.get_feature_view("trips")
    client = redis.from_url(store.config.online_store.url)
    online = store._get_provider().online_store

    def blobs() -> dict[bytes, Any]:
        keys = sorted(client.scan_iter(match=f"slipway:{store.project}:trips:*"))
        return dict(zip(keys, client.mget(keys), strict=True))

    online.write_arrow(store.config, applied, table, None)
    by_arrow = blobs()
    client.delete(*by_arrow)
    rows = _convert_arrow_to_proto(table, applied, {"driver": ValueType.INT64})
    online.online_write_batch(store.config, applied, rows, None)

    assert len(by_arrow) == 3
    assert blobs() == by_arrow


def test_a_row_that_does_not_fit_is_told_when_its_block_comes_and_the_others_are_mended_by_the_next(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(online_module, "BLOCK_ROWS", 2)
    store.apply([DRIVER, view("trips", unused(), count=Int32)])
    applied = store.get_feature_view("trips")
    online = store._get_provider().online_store
    table = pa.table(
        {
            "driver": [1, 2, 3, 4, 1],
            "ts": pa.array([NOW] * 4 + [NOW + timedelta(minutes=1)], pa.timestamp("us", "UTC")),
            "count": [10, 20, 30, 2**40, 11],
        }
    )
    with pytest.raises(FeatureSourceError, match="field count"):
        online.write_arrow(store.config, applied, table, None)
    mended = table.set_column(2, "count", pa.array([10, 20, 30, 40, 11]))
    told: list[int] = []
    assert online.write_arrow(store.config, applied, mended, told.append) == 5
    assert told == [2, 2, 1]
    asked = [{"driver": number} for number in (1, 2, 3, 4)]
    found = store.get_online_features(["trips:count"], asked).to_dict()
    assert found["count"] == [11, 20, 30, 40], "of one driver in two blocks the later event stays"


def test_missing_entities_are_not_found_and_not_written(store: FeatureStore) -> None:
    store.apply([DRIVER, view("trips", unused(), count=Int64, tags=Map)])
    applied = store.get_feature_view("trips")
    table = pa.table(
        {
            "driver": pa.array([1, None], pa.int64()),
            "ts": pa.array([NOW, NOW], pa.timestamp("us", "UTC")),
            "count": [1, 2],
            # Feast's own conversion fails on Arrow's maps.
            "tags": pa.array([{"a": "b"}, None], pa.map_(pa.string(), pa.string())),
        }
    )
    online = store._get_provider().online_store

    assert online.write_arrow(store.config, applied, table, None) == 1
    response = store.get_online_features(["trips:count", "trips:tags"], {"driver": [1, None]})
    assert response.to_dict()["tags"] == [{"a": "b"}, None]
    assert response.to_dict()["count"] == [1, None]
    assert statuses(response, "count") == ["PRESENT", "NOT_FOUND"]


def test_decimals_keep_their_digits(store: FeatureStore) -> None:
    store.apply([DRIVER, view("money", unused(), price=Decimal)])
    write(store, "money", 1, NOW, price=decimal.Decimal("0.10"))
    found = store.get_online_features(["money:price"], [{"driver": 1}]).to_dict()
    assert found["price"] == [decimal.Decimal("0.10")]
