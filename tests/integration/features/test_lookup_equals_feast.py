"""The lookup answers as store.get_online_features does, whatever lies in the store."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pytest
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus
from feast.types import Array, Bool, Bytes, Float32, Float64, Int32, Int64, Json, Set, String, UnixTimestamp
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from slipway.contract import Column, TensorInput
from slipway.features.answer import Status
from slipway.features.lookup import FeatureLookup
from slipway.features.protos import value_type
from slipway.features.service import describe_service
from slipway.settings import Features, Online, Settings
from tests.integration.features.conftest import NOW, make_store
from tests.valkey import ValkeyServer

TYPES = {
    "f64": Float64,
    "f32": Float32,
    "i64": Int64,
    "i32": Int32,
    "flag": Bool,
    "time": UnixTimestamp,
    "text": String,
    "raw": Bytes,
    "json": Json,
    "floats": Array(Float32),
    "longs": Array(Int64),
    "texts": Array(String),
    "bools": Array(Bool),
    "set": Set(Int64),
}
_text = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=8)
VALUES: Mapping[str, st.SearchStrategy[Any]] = {
    "f64": st.floats(allow_nan=False),
    "f32": st.floats(width=32, allow_nan=False),
    "i64": st.integers(-(2**63), 2**63 - 1),
    "i32": st.integers(-(2**31), 2**31 - 1),
    "flag": st.booleans(),
    "time": st.integers(0, 2**33),
    "text": _text,
    "raw": st.binary(max_size=8),
    "json": st.just('{"a": [1, 2]}'),
    "floats": st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=4),
    "longs": st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=4),
    "texts": st.lists(_text, min_size=1, max_size=4),
    "bools": st.lists(st.booleans(), min_size=1, max_size=4),
    "set": st.sets(st.integers(-100, 100), min_size=1, max_size=4),
}
TTL = timedelta(hours=2)
STATUS = {
    Status.PRESENT: FieldStatus.PRESENT,
    Status.NULL: FieldStatus.NULL_VALUE,
    Status.NOT_FOUND: FieldStatus.NOT_FOUND,
    Status.STALE: FieldStatus.OUTSIDE_MAX_AGE,
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, valkey: ValkeyServer) -> FeatureStore:
    store = make_store(tmp_path_factory.mktemp("lookup"), valkey.url, project="lookup")
    airport = Entity(name="airport", join_keys=["airport"], value_type=ValueType.STRING)
    plane = Entity(name="plane", join_keys=["plane"], value_type=ValueType.INT64)

    def source(name: str) -> FileSource:
        return FileSource(name=name, path="unused.parquet", timestamp_field="ts")

    features = [Field(name=name, dtype=dtype) for name, dtype in TYPES.items()]
    every = FeatureView(
        name="every type",
        entities=[airport],
        ttl=TTL,
        schema=[*features, Field(name="airport", dtype=String)],
        source=source("every"),
    )
    pair = FeatureView(
        name="pair",
        entities=[plane, airport],
        schema=[
            Field(name="legs", dtype=Int64),
            Field(name="airport", dtype=String),
            Field(name="plane", dtype=Int64),
        ],
        source=source("pair"),
    )
    service = FeatureService(
        name="all",
        features=[
            # Feast cannot compare a service that takes one view with and without an alias.
            every.with_name("here"),
            every[["f64", "text", "i64"]].with_name("there").with_join_key_map({"airport": "destination"}),
            pair,
        ],
    )
    store.apply([airport, plane, every, pair, service])
    return store


def write(
    store: FeatureStore, view: str, keys: Mapping[str, Any], values: Mapping[str, Any], at: datetime
) -> None:
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.type_map import python_values_to_proto_values

    table = store.get_feature_view(view)
    key = EntityKey(
        join_keys=list(keys),
        entity_values=[python_values_to_proto_values([value])[0] for value in keys.values()],
    )
    protos = {
        field.name: python_values_to_proto_values([values[field.name]], value_type(str(field.dtype)))[0]
        for field in table.features
    }
    provider = store._get_provider()
    provider.online_write_batch(store.config, table, [(key, protos, at, None)], None)


def settings_of(store: FeatureStore) -> Settings:
    online = store.config.online_store
    return Settings(
        online=Online(url=online.url, timeout=20.0, cluster=online.cluster),
        features=Features(clock=online.clock),
    )


def same(ours: Any, theirs: Any) -> bool:
    if isinstance(theirs, list | tuple | set | frozenset):
        assert isinstance(ours, list | np.ndarray)
        return sorted(map(repr, np.asarray(ours).tolist())) == sorted(map(repr, theirs))
    if isinstance(theirs, dict):
        return bool(json.loads(ours) == theirs)
    if isinstance(theirs, datetime):
        return bool(int(ours) == int(theirs.timestamp()))
    return bool(ours == theirs)


row = st.fixed_dictionaries({name: st.none() | values for name, values in VALUES.items()})
# On the TTL's edge, one microsecond to each side, and far from it.
age = st.sampled_from([0, 1, 7_199_999_999, 7_200_000_000, 7_200_000_001, 40_000_000_000])
airports = st.sampled_from(["EWR", "JFK", "ünï", "a b", "{x}", "*", "s=1"])


@settings(
    max_examples=40,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    written=st.dictionaries(airports, st.tuples(row, age), max_size=5),
    pairs=st.dictionaries(st.tuples(st.integers(-5, 5), airports), st.none() | st.integers(0, 9), max_size=4),
    asked=st.lists(st.tuples(airports, airports, st.integers(-5, 5)), min_size=1, max_size=6),
    order=st.permutations(["airport", "destination", "plane"]),
)
def test_answers_are_equal(
    store: FeatureStore, written: Any, pairs: Any, asked: Any, order: list[str]
) -> None:
    store._get_provider().online_store.teardown(store.config, store.list_feature_views(), [])
    for airport, (values, micros) in written.items():
        write(store, "every type", {"airport": airport}, values, NOW - timedelta(microseconds=micros))
    for (plane, airport), legs in pairs.items():
        write(store, "pair", {"plane": plane, "airport": airport}, {"legs": legs}, NOW)
    columns = {
        "airport": [item[0] for item in asked],
        "destination": [item[1] for item in asked],
        "plane": [item[2] for item in asked],
    }
    # Feast's own stores give a view under an alias the values of whichever column comes last.
    columns = {name: columns[name] for name in order}

    response = store.get_online_features(store.get_feature_service("all"), columns, full_feature_names=True)
    lookup = FeatureLookup.of_service(describe_service(store, "all"), settings_of(store))
    answer = lookup.read_now(columns)
    lookup.close_now()

    theirs = response.to_dict()
    names = list(response.proto.metadata.feature_names.val)
    assert set(lookup.columns) == set(names) - set(columns)
    for number, name in enumerate(lookup.columns):
        vector = response.proto.results[names.index(name)]
        assert [STATUS[Status(code)] for code in answer.status[:, number]] == list(vector.statuses), name
        for at, expected in enumerate(theirs[name]):
            if answer.status[at, number] == Status.PRESENT:
                assert same(answer.tensors[name][at], expected), (name, answer.tensors[name][at], expected)
            else:
                assert expected is None
        ages = answer.age[:, lookup.views.index(name.rpartition("__")[0])]
        for at, stamp in enumerate(vector.event_timestamps):
            if np.isnan(ages[at]):
                assert stamp.seconds == 0
            else:
                assert ages[at] == pytest.approx(NOW.timestamp() - stamp.ToMicroseconds() / 1e6, abs=1e-5)


def test_fills_a_matrix_with_defaults_and_request_columns(store: FeatureStore) -> None:
    values = dict.fromkeys(TYPES) | {"f64": 1.5, "i32": 7, "text": "ab"}
    write(store, "every type", {"airport": "MAT"}, values, NOW - timedelta(minutes=10))
    inputs = (
        TensorInput(
            "numbers",
            "FP32",
            (-1, 4),
            (
                Column("f64", view="here"),
                Column("distance"),
                Column("half", view="here", feature="f32", default=0.5),
                Column("i32", view="here"),
            ),
        ),
        TensorInput(
            "texts",
            "BYTES",
            (-1, 2),
            (Column("text", view="here", default="none"), Column("airport")),
        ),
    )
    lookup = FeatureLookup(describe_service(store, "all"), inputs, settings_of(store))
    answer = lookup.read_now(
        {"airport": ["MAT", "???"], "destination": ["-", "-"], "plane": [1, 1], "distance": [7.0, None]}
    )
    lookup.close_now()

    assert answer.tensors["numbers"].dtype == np.float32
    np.testing.assert_array_equal(
        answer.tensors["numbers"], np.array([[1.5, 7, 0.5, 7], [np.nan, np.nan, 0.5, np.nan]], np.float32)
    )
    assert answer.tensors["texts"].tolist() == [["ab", "MAT"], ["none", "???"]]
    present, null, missing = Status.PRESENT, Status.NULL, Status.NOT_FOUND
    assert answer.status.tolist() == [
        [present, present, null, present, present, present],
        [missing, null, missing, missing, missing, present],
    ]
    assert answer.age[:, 0].tolist() == [600.0, pytest.approx(np.nan, nan_ok=True)]
