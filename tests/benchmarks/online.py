"""Online reads and materialization against Feast's Redis store and a bare MGET, on one Valkey."""

from __future__ import annotations

import contextlib
import io
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import redis
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.types import Float64, String

from slipway.contract import Column, TensorInput
from slipway.features.lookup import FeatureLookup
from slipway.features.service import describe_service
from slipway.settings import Online, Settings
from tests.valkey import ValkeyServer

KEYS = 100_000
FEATURES = [f"f{number}" for number in range(10)]
ROUNDS = {1: 300, 10: 200, 100: 80}
MATERIALIZE_ROUNDS = 2
PACKED = {"type": "slipway.features.online.PackedOnlineStore", "timeout": 5}
OURS = {
    "offline_store": {"type": "slipway.features.offline.PolarsOfflineStore"},
    "batch_engine": {"type": "slipway.features.engine.ArrowComputeEngine"},
}
PEER = {"offline_store": {"type": "duckdb"}, "batch_engine": {"type": "local"}}


def run() -> None:
    warnings.filterwarnings("ignore")
    with tempfile.TemporaryDirectory() as folder, ValkeyServer(Path(folder) / "valkey") as valkey:
        now = datetime.now(UTC)
        write_source(Path(folder), now)
        ours = open_store(
            Path(folder),
            "ours",
            online_store={**PACKED, "url": valkey.url},
            **OURS,
        )
        peer = open_store(
            Path(folder),
            "peer",
            online_store={"type": "redis", "connection_string": f"127.0.0.1:{valkey.port},db=1"},
            **PEER,
        )
        compare_materialization(ours, peer, now, valkey.url)
        compare_reads(ours, peer, valkey.url)


def write_source(folder: Path, now: datetime) -> None:
    rng = np.random.default_rng(0)
    columns: dict[str, Any] = {"driver": [f"driver-{n}" for n in range(KEYS)]}
    columns["ts"] = pa.array([now - timedelta(minutes=5)] * KEYS, pa.timestamp("us", "UTC"))
    columns |= {name: rng.random(KEYS) for name in FEATURES}
    pq.write_table(pa.table(columns), folder / "drivers.parquet")


def open_store(folder: Path, name: str, **parts: Any) -> FeatureStore:
    config = RepoConfig(
        project=name,
        provider="local",
        registry={"registry_type": "sql", "path": f"sqlite:///{folder}/{name}.db", "cache_ttl_seconds": 600},
        entity_key_serialization_version=3,
        **parts,
    )
    store = FeatureStore(config=config)
    driver = Entity(name="driver", join_keys=["driver"], value_type=ValueType.STRING)
    view = FeatureView(
        name="drivers",
        entities=[driver],
        ttl=timedelta(days=1),
        schema=[*(Field(name=name, dtype=Float64) for name in FEATURES), Field(name="driver", dtype=String)],
        source=FileSource(path=str(folder / "drivers.parquet"), timestamp_field="ts"),
    )
    with quiet():
        store.apply([driver, view, FeatureService(name="all", features=[view])])
    return store


def compare_materialization(ours: FeatureStore, peer: FeatureStore, now: datetime, url: str) -> None:
    client = redis.from_url(url)
    seconds: dict[str, list[float]] = {"ours": [], "duckdb -> redis": []}
    for _ in range(MATERIALIZE_ROUNDS):
        for name, store in (("ours", ours), ("duckdb -> redis", peer)):
            client.flushall()
            began = time.perf_counter()
            with quiet():
                store.materialize(now - timedelta(hours=1), now)
            seconds[name].append(time.perf_counter() - began)
    assert client.info("keyspace")["db1"]["keys"] == KEYS
    with quiet():
        ours.materialize(now - timedelta(hours=1), now)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    print(f"materialize {KEYS:,} keys x {len(FEATURES)} features, median of {MATERIALIZE_ROUNDS}")
    for name, median in medians.items():
        print(f"  {name:18} {median:7.2f} s   {median / medians['ours']:5.1f} x ours")


def compare_reads(ours: FeatureStore, peer: FeatureStore, url: str) -> None:
    client = redis.from_url(url)
    columns = tuple(Column(name, view="drivers") for name in FEATURES)
    described = describe_service(ours, "all")
    lookup = FeatureLookup(
        described,
        (TensorInput("x", "FP32", (-1, len(FEATURES)), columns),),
        Settings(online=Online(url=url, timeout=5)),
    )
    services = {name: store.get_feature_service("all") for name, store in (("o", ours), ("p", peer))}
    print(f"read {len(FEATURES)} features of 1 view, p50 in ms; ratios to the lookup, and to Feast on Redis")
    for count, rounds in ROUNDS.items():
        names = [f"driver-{n * 7}" for n in range(count)]
        keys = [f"slipway:ours:drivers:{{s={name}}}".encode() for name in names]
        assert all(client.mget(keys))
        entities = {"driver": names}
        rows = [{"driver": name} for name in names]

        def lookup_now(entities: dict[str, list[str]] = entities) -> Any:
            return lookup.read_now(entities)

        def bare(keys: list[bytes] = keys) -> Any:
            return client.mget(keys)

        def feast_ours(rows: list[dict[str, str]] = rows) -> Any:
            return ours.get_online_features(services["o"], rows)

        def feast_redis(rows: list[dict[str, str]] = rows) -> Any:
            return peer.get_online_features(services["p"], rows)

        p50 = interleave(
            {"bare MGET": bare, "lookup": lookup_now, "Feast, ours": feast_ours, "Feast, Redis": feast_redis},
            rounds,
        )
        np.testing.assert_allclose(lookup_now().tensors["x"][:, 0], feast_redis().to_dict()["f0"], rtol=1e-6)
        print(f"  {count:3} entities")
        for name, value in p50.items():
            print(
                f"    {name:14} {value * 1e3:8.3f}   {value / p50['lookup']:6.2f} x lookup"
                f"   {p50['Feast, Redis'] / value:6.1f} x faster than Feast on Redis"
            )
        print(f"    lookup / bare MGET = {p50['lookup'] / p50['bare MGET']:.2f}")
    lookup.close_now()


def interleave(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(rounds):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in times.items()}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
