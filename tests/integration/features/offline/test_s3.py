"""The offline store on a real S3 server: what it reads, how much of it, and what it says when it cannot."""

from __future__ import annotations

import io
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import polars as pl
import pyarrow as pa
import pytest
from feast import FeatureView
from feast.errors import SavedDatasetLocationAlreadyExists
from feast.infra.offline_stores.file_source import SavedDatasetFileStorage
from feast.types import Float64, Int64

from slipway.errors import FeatureSourceError
from slipway.features.offline import PolarsOfflineStore
from slipway.objects import ObjectStore
from slipway.settings import S3, Settings
from tests.offline_store import AGE_TIMES, AGES, OURS, files_of_ages, historical, repo_config, view

START = datetime(2013, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture
def store(platform: Settings) -> ObjectStore:
    return ObjectStore.from_settings(platform)


@pytest.fixture
def place(platform: Settings, request: pytest.FixtureRequest) -> str:
    return platform.uri("offline", request.node.name.replace("[", "-").strip("]"))


def config(tmp_path: Any, s3: S3) -> Any:
    return repo_config(tmp_path, {**OURS, "s3": msgspec.to_builtins(s3)})


def parquet(frame: pl.DataFrame, **how: Any) -> bytes:
    buffer = io.BytesIO()
    frame.write_parquet(buffer, **how)
    return buffer.getvalue()


def days(*numbers: int) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "key": [1] * len(numbers),
            "ts": [START + n * DAY for n in numbers],
            "value": [float(n) for n in numbers],
        }
    )


def asked(*numbers: int) -> pl.DataFrame:
    return pl.DataFrame({"key": [1] * len(numbers), "event_timestamp": [START + n * DAY for n in numbers]})


def ask(
    where: Any, views: list[FeatureView], rows: pl.DataFrame, features: list[str] | None = None
) -> list[Any]:
    table = historical(where, views, rows, features or ["v:value"]).to_arrow()
    return list(table[table.column_names[-1]].to_pylist())


def test_a_prefix_ends_at_its_border_and_may_hold_other_things(
    tmp_path: Any, platform: Settings, store: ObjectStore, place: str
) -> None:
    store.put(f"{place}/v1/month=1/a.parquet", parquet(days(0, 1)))
    store.put(f"{place}/v1/month=2/b.parquet", parquet(days(31)))
    store.put(f"{place}/v1/_SUCCESS", b"")
    store.put(f"{place}/v1/manifest.json", b"{}")
    store.put(f"{place}/v10/c.parquet", parquet(days(40)))
    for path in (f"{place}/v1", f"{place}/v1/", f"{place}/v1/*/*.parquet"):
        assert ask(config(tmp_path, platform.s3), [view("v", path)], asked(50, 1)) == [31.0, 1.0]
    by_month = view("v", f"{place}/v1", {"value": Float64}, keys={"month": Int64})
    rows = asked(50, 50).select("event_timestamp", month=pl.Series([1, 2]))
    assert ask(config(tmp_path, platform.s3), [by_month], rows) == [1.0, 31.0]


@pytest.mark.parametrize(("first", "last", "values"), AGES)
@pytest.mark.parametrize(("zone", "unit"), [("America/New_York", "ms"), (None, "ns")])
def test_files_of_one_prefix_that_were_written_at_different_times(
    tmp_path: Any,
    platform: Settings,
    store: ObjectStore,
    place: str,
    first: dict[str, Any],
    last: dict[str, Any],
    values: list[Any],
    zone: str | None,
    unit: Any,
) -> None:
    place = place.replace(" ", "-").replace(",", "")
    for name, frame in files_of_ages(first, last, zone, unit).items():
        store.put(f"{place}/{name}", parquet(frame))
    where, at = config(tmp_path, platform.s3), view("v", place)
    entity_rows = pl.DataFrame({"key": [1, 1], "event_timestamp": AGE_TIMES})
    assert ask(where, [at], entity_rows) == values
    source = at.batch_source
    pulled = PolarsOfflineStore.pull_all_from_table_or_query(where, source, ["key"], ["value"], "ts")
    rows = pulled.to_polars().sort("ts")
    assert rows["value"].to_list() == values
    assert rows["ts"].dt.convert_time_zone("UTC").to_list() == AGE_TIMES
    # What materialization takes, from the whole of it and from the older file alone.
    for end, value in zip(reversed(AGE_TIMES), reversed(values), strict=True):
        newest = PolarsOfflineStore.pull_latest_from_table_or_query(
            where, source, ["key"], ["value"], "ts", None, AGE_TIMES[0], end
        )
        assert newest.to_polars()["value"].to_list() == [value]


def test_rows_are_added_to_a_prefix_whose_files_differ_in_age(
    tmp_path: Any, platform: Settings, store: ObjectStore, place: str
) -> None:
    ages = files_of_ages({"value": [1]}, {"value": [2.5], "more": ["x"]}, "UTC", "ns")
    for name, frame in ages.items():
        store.put(f"{place}/{name}", parquet(frame))
    added = {"key": [1], "ts": [AGE_TIMES[1] + DAY], "value": [3.5], "more": ["y"], "month": [2]}
    where, at = config(tmp_path, platform.s3), view("v", place)
    PolarsOfflineStore.offline_write_batch(where, at, pl.DataFrame(added).to_arrow(), None)
    moments = [*AGE_TIMES, AGE_TIMES[1] + DAY]
    entity_rows = pl.DataFrame({"key": [1, 1, 1], "event_timestamp": moments})
    assert ask(where, [at], entity_rows) == [1.0, 2.5, 3.5]


def test_the_endpoint_is_that_of_the_source_then_of_the_settings(
    tmp_path: Any, platform: Settings, store: ObjectStore, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put(f"{place}/h.parquet", parquet(days(0)))
    path = f"{place}/h.parquet"
    nowhere = msgspec.structs.replace(platform.s3, endpoint="http://127.0.0.1:9")
    overriding = [view("v", path, endpoint=platform.s3.endpoint)]
    assert ask(config(tmp_path, nowhere), overriding, asked(1)) == [0.0]
    # With nothing in feature_store.yaml it is the settings of this process that count.
    monkeypatch.setenv("SLIPWAY_HOME", platform.home)
    assert ask(repo_config(tmp_path), [view("v", path)], asked(1)) == [0.0]


@pytest.mark.parametrize(
    ("changed", "name", "message"),
    [
        ({}, "none.parquet", "there is no such file"),
        ({}, "none", "there is no Parquet file here"),
        ({}, "damaged.parquet", "it cannot be read"),
        ({"access_key": "nobody"}, "h.parquet", "S3 does not know the access key"),
        ({"access_key": "nobody"}, "prefix", "S3 does not know the access key"),
        ({"secret_key": "wrong"}, "h.parquet", "the secret key is wrong"),
        ({"endpoint": "http://127.0.0.1:9", "attempts": 2}, "h.parquet", "S3 does not answer"),
    ],
)
def test_what_goes_wrong_is_told_with_the_remedy(
    tmp_path: Any,
    platform: Settings,
    store: ObjectStore,
    place: str,
    changed: dict[str, Any],
    name: str,
    message: str,
) -> None:
    store.put(f"{place}/h.parquet", parquet(days(0)))
    store.put(f"{place}/damaged.parquet", parquet(days(0))[:-10])
    s3 = msgspec.structs.replace(platform.s3, **changed)
    began = time.monotonic()
    with pytest.raises(FeatureSourceError) as caught:
        ask(config(tmp_path, s3), [view("v", f"{place}/{name}")], asked(1))
    assert caught.value.what.startswith(message)
    assert caught.value.where == f"{place}/{name}"
    assert caught.value.fix
    assert time.monotonic() - began < 20


def test_no_such_bucket(tmp_path: Any, platform: Settings) -> None:
    with pytest.raises(FeatureSourceError, match="there is no such bucket"):
        ask(config(tmp_path, platform.s3), [view("v", "s3://slipway-nowhere/h.parquet")], asked(1))


class Counter:
    """A relay in front of the S3 server that counts what the server sends."""

    def __init__(self, endpoint: str) -> None:
        host, port = endpoint.removeprefix("http://").rsplit(":", 1)
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.received = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(self._target, timeout=30)
            threading.Thread(target=self._relay, args=(client, server, False), daemon=True).start()
            threading.Thread(target=self._relay, args=(server, client, True), daemon=True).start()

    def _relay(self, source: socket.socket, target: socket.socket, count: bool) -> None:
        try:
            while data := source.recv(1 << 16):
                self.received += len(data) if count else 0
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            return

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def counter(platform: Settings) -> Iterator[Counter]:
    relay = Counter(str(platform.s3.endpoint))
    yield relay
    relay.close()


def test_a_narrow_window_of_a_long_history_reads_its_part_only(
    tmp_path: Any, platform: Settings, store: ObjectStore, place: str, counter: Counter
) -> None:
    rows = 1_200_000
    # Noise, so that it does not compress away.
    long = pl.DataFrame({"key": pl.int_range(rows, eager=True) % 1000}).with_columns(
        ts=pl.lit(START) + pl.duration(seconds=20 * pl.int_range(rows)),
        **{f"f{i}": pl.int_range(rows).hash(seed=i).cast(pl.Float64) for i in range(8)},
    )
    month = pl.col("ts").dt.month()
    size = 0
    for number in range(1, 11):
        part = parquet(long.filter(month == number), row_group_size=20_000)
        store.put(f"{place}/month={number}/part.parquet", part)
        size += len(part)
    one = parquet(long, row_group_size=20_000)
    store.put(f"{place}.parquet", one)
    features = {f"f{i}": Float64 for i in range(8)}
    s3 = msgspec.structs.replace(platform.s3, endpoint=counter.endpoint)

    def read(path: str, day: int, names: list[str]) -> int:
        before = counter.received
        moment = START + day * DAY
        entity_rows = pl.DataFrame({"key": list(range(1000)), "event_timestamp": [moment] * 1000})
        found = historical(
            config(tmp_path, s3),
            [view("v", path, features, ttl=2 * DAY)],
            entity_rows,
            [f"v:{name}" for name in names],
        ).to_polars()
        assert found[names[0]].null_count() == 0
        return counter.received - before

    everything = list(features)
    # Two of 277 days; of each file Polars fetches 256 KiB, in which it expects the footer.
    for path, whole, files in ((place, size, 10), (f"{place}.parquet", len(one), 1)):
        assert read(path, 100, everything) < whole / 20 + (files + 2) * 270_000
        # One of ten columns.
        assert read(path, 100, everything) - read(path, 100, ["f0"]) > whole / 200


def test_keys_that_are_folders_prune_the_others(
    tmp_path: Any, platform: Settings, store: ObjectStore, place: str, counter: Counter
) -> None:
    size = 0
    for number in range(10):
        noise = pl.int_range(200_000, eager=True).hash(seed=number).cast(pl.Float64)
        frame = pl.DataFrame({"ts": [START]}).join(pl.DataFrame({"value": noise}), how="cross")
        part = parquet(frame)
        store.put(f"{place}/key={number}/part.parquet", part)
        size += len(part)
    s3 = msgspec.structs.replace(platform.s3, endpoint=counter.endpoint)
    ask(config(tmp_path, s3), [view("v", place)], asked(1))
    assert counter.received < size / 2


def test_writers_at_once_lose_nothing(
    tmp_path: Any, platform: Settings, store: ObjectStore, place: str
) -> None:
    where = config(tmp_path, platform.s3)

    def add(task: tuple[str, int]) -> None:
        path, number = task
        PolarsOfflineStore.offline_write_batch(where, view("v", path), days(number).to_arrow(), None)

    paths = (f"{place}/one.parquet", f"{place}/many")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(add, [(path, number) for path in paths for number in range(6)]))
    for path in paths:
        rows = PolarsOfflineStore.pull_all_from_table_or_query(
            where, view("v", path).batch_source, ["key"], ["value"], "ts"
        ).to_polars()
        assert sorted(rows["value"].to_list()) == [float(number) for number in range(6)]


def test_of_many_that_keep_an_answer_at_once_one_wins(
    tmp_path: Any, platform: Settings, store: ObjectStore, place: str
) -> None:
    store.put(f"{place}/h.parquet", parquet(days(0)))
    job = historical(config(tmp_path, platform.s3), [view("v", f"{place}/h.parquet")], asked(1), ["v:value"])
    storage = SavedDatasetFileStorage(f"{place}/saved.parquet")

    def keep(_: int) -> bool:
        try:
            job.persist(storage)
        except SavedDatasetLocationAlreadyExists:
            return False
        return True

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(keep, range(6))) == 1
    saved = pl.read_parquet(io.BytesIO(store.get(f"{place}/saved.parquet")))
    assert saved["value"].to_list() == [0.0]
    job.persist(storage, allow_overwrite=True)


def test_an_answer_is_one_chunk_however_many_files_there_are(
    tmp_path: Any, platform: Settings, store: ObjectStore, place: str
) -> None:
    # Feast's materialization looks at the first chunk only: a second one would be lost without a word.
    for number in range(3):
        store.put(f"{place}/{number}.parquet", parquet(days(number)))
    table: pa.Table = PolarsOfflineStore.pull_all_from_table_or_query(
        config(tmp_path, platform.s3), view("v", place).batch_source, ["key"], ["value"], "ts"
    ).to_arrow()
    assert len(table) == 3
    assert len(table.to_batches()) == 1
