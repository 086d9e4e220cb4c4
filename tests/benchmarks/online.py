"""Online reads and materialization against Feast's Redis store and a bare MGET, on one Valkey.

`BENCH_GROWTH=1` measures growth with rows and keys instead and draws docs/images/online-growth.svg;
`BENCH_SIZES=100000,1000000` narrows it down, `BENCH_TIMEOUT=120` bounds one materialization.
"""

from __future__ import annotations

import contextlib
import io
import os
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
    if os.environ.get("BENCH_GROWTH"):
        from tests.benchmarks import _online_growth

        _online_growth.run()
        return
    with tempfile.TemporaryDirectory() as folder, ValkeyServer(Path(folder) / "valkey") as valkey:
        now = datetime.now(UTC)
        write_source(Path(folder), now)
        ours, peer = (store_of(Path(folder), name, valkey.port) for name in ("ours", "peer"))
        compare_materialization(ours, peer, now, valkey.url)
        compare_reads(ours, peer, valkey.url)


def write_source(folder: Path, now: datetime) -> None:
    rng = np.random.default_rng(0)
    columns: dict[str, Any] = {"driver": [f"driver-{n}" for n in range(KEYS)]}
    columns["ts"] = pa.array([now - timedelta(minutes=5)] * KEYS, pa.timestamp("us", "UTC"))
    columns |= {name: rng.random(KEYS) for name in FEATURES}
    pq.write_table(pa.table(columns), folder / "drivers.parquet")


def store_of(folder: Path, name: str, port: int) -> FeatureStore:
    """`ours` or `peer`, over the Parquet file of the folder and the Valkey on this port."""
    if name == "ours":
        return open_store(folder, name, online_store={**PACKED, "url": f"redis://127.0.0.1:{port}/0"}, **OURS)
    redis_store = {"type": "redis", "connection_string": f"127.0.0.1:{port},db=1"}
    return open_store(folder, name, online_store=redis_store, **PEER)


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
        ttl=timedelta(days=60),
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
    print(f"read {len(FEATURES)} features of 1 view, p50 in ms; ratios to the lookup, and to Feast on Redis")
    for count, rounds in ROUNDS.items():
        names = [f"driver-{n * 7}" for n in range(count)]
        p50 = read_p50(ours, peer, url, [names] * rounds)
        print(f"  {count:3} entities")
        for name, value in p50.items():
            print(
                f"    {name:14} {value * 1e3:8.3f}   {value / p50['lookup']:6.2f} x lookup"
                f"   {p50['Feast, Redis'] / value:6.1f} x faster than Feast on Redis"
            )
        print(f"    lookup / bare MGET = {p50['lookup'] / p50['bare MGET']:.2f}")


def read_p50(ours: FeatureStore, peer: FeatureStore, url: str, asked: list[list[str]]) -> dict[str, float]:
    """Seconds of each way to read; `asked` are the entities of each round."""
    client = redis.from_url(url)
    columns = tuple(Column(name, view="drivers") for name in FEATURES)
    lookup = FeatureLookup(
        describe_service(ours, "all"),
        (TensorInput("x", "FP32", (-1, len(FEATURES)), columns),),
        Settings(online=Online(url=url, timeout=5)),
    )
    service, their_service = (store.get_feature_service("all") for store in (ours, peer))
    # What each of them takes, made beforehand.
    keys = [[f"slipway:ours:drivers:{{s={name}}}".encode() for name in names] for names in asked]
    entities = [{"driver": names} for names in asked]
    rows = [[{"driver": name} for name in names] for names in asked]
    assert all(client.mget(keys[0]))
    calls: dict[str, Callable[[int], Any]] = {
        "bare MGET": lambda at: client.mget(keys[at]),
        "lookup": lambda at: lookup.read_now(entities[at]),
        "Feast, ours": lambda at: ours.get_online_features(service, rows[at]),
        "Feast, Redis": lambda at: peer.get_online_features(their_service, rows[at]),
    }
    p50 = interleave(calls, len(asked))
    theirs = np.array(calls["Feast, Redis"](0).to_dict()["f0"], float)
    assert np.isfinite(theirs).all()
    np.testing.assert_allclose(
        lookup.read_now(entities[0]).tensors["x"][:, 0],
        calls["Feast, ours"](0).to_dict()["f0"],
        rtol=1e-6,
    )
    lookup.close_now()
    return p50


def interleave(calls: dict[str, Callable[[int], Any]], rounds: int) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call(0)
    for round_ in range(rounds):
        for name, call in calls.items():
            began = time.perf_counter()
            call(round_)
            times[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in times.items()}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
