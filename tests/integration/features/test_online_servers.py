"""What a server of somebody else's may be: one that permits little, is full, a replica, or has no room."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pandas as pd
import pytest
import redis
from feast import Entity, FeatureView, Field, FileSource, PushSource, ValueType
from feast.types import Float64, Int64

from slipway.errors import OnlineStoreUnavailable
from slipway.features.lookup import FeatureLookup
from tests.integration.features.conftest import NOW, make_store
from tests.integration.features.test_online_reliability import (
    INPUTS,
    SERVICE,
    blobs_of,
    keys_of,
    server_for,
    settings_for,
)
from tests.valkey import ValkeyServer, valkey_cluster

DOCS = Path(__file__).parents[3] / "docs/online-store.md"


@pytest.fixture
def own(tmp_path: Path) -> Iterator[ValkeyServer]:
    """For a test that changes it."""
    with ValkeyServer(tmp_path / "own") as server:
        yield server


def rules() -> tuple[list[str], list[str]]:
    """What the page says that model servers need, and Feast."""
    lines = re.findall(r"^ +(~slipway:\* .*)$", DOCS.read_text(), re.MULTILINE)
    server, feast = (line.split() for line in lines)
    return server, feast


@pytest.mark.parametrize("kind", ["single", "cluster"])
async def test_users_need_the_documented_commands_and_no_others(tmp_path: Path, kind: str) -> None:
    in_cluster = kind == "cluster"
    with contextlib.ExitStack() as stack:
        if in_cluster:
            servers = stack.enter_context(valkey_cluster(tmp_path / "cluster"))
        else:
            servers = [stack.enter_context(ValkeyServer(tmp_path / "own"))]
        reader, feast = rules()
        for server in servers:
            admin = redis.Redis(port=server.port)
            admin.execute_command("ACL", "SETUSER", "reader", "on", ">pw", *reader)
            admin.execute_command("ACL", "SETUSER", "feast", "on", ">pw", *feast)
        as_reader, as_feast = (
            servers[0].url.replace("redis://", f"redis://{user}:pw@") for user in ("reader", "feast")
        )
        store = make_store(tmp_path, as_feast, project="reliable", cluster=in_cluster)
        drivers = list(range(30))
        pd.DataFrame({"driver": drivers, "ts": NOW, "count": [n + 0.5 for n in drivers]}).to_parquet(
            tmp_path / "trips.parquet"
        )
        batch = FileSource(path=str(tmp_path / "trips.parquet"), timestamp_field="ts")
        driver = Entity(name="driver", join_keys=["driver"], value_type=ValueType.INT64)
        schema = [Field(name="count", dtype=Float64), Field(name="driver", dtype=Int64)]
        push = PushSource(name="stream", batch_source=batch)
        store.apply([driver, FeatureView(name="trips", entities=[driver], source=push, schema=schema)])
        store.materialize(NOW - timedelta(hours=1), NOW + timedelta(hours=1))
        store.push("stream", pd.DataFrame({"driver": [0], "ts": NOW + timedelta(minutes=1), "count": [7.0]}))
        asked = [{"driver": number} for number in drivers]
        wanted = [7.0, *(n + 0.5 for n in drivers[1:])]
        assert store.get_online_features(["trips:count"], asked).to_dict()["count"] == wanted
        assert (await store.get_online_features_async(["trips:count"], asked)).to_dict()["count"] == wanted

        lookup = FeatureLookup(SERVICE, INPUTS, settings_for(as_reader, timeout=3, cluster=in_cluster))
        assert lookup.read_now({"driver": drivers}).tensors["x"][:, 0].tolist() == wanted
        assert (await lookup.read({"driver": drivers})).tensors["x"][:, 0].tolist() == wanted
        await lookup.close()
        with pytest.raises(OnlineStoreUnavailable, match=r"(?s)refused us.*docs/online-store\.md"):
            server_for(as_reader, cluster=in_cluster).write(keys_of([1]), blobs_of([1.0]))
        store.teardown()
        assert store._get_provider().online_store._server(store.config).read(keys_of(drivers)) == [None] * 30
        await store.close()
        for server in servers:
            redis.Redis(port=server.port).execute_command("ACL", "SETUSER", "reader", "resetkeys", "~other:*")
        stranger = FeatureLookup(SERVICE, INPUTS, settings_for(as_reader, timeout=3, cluster=in_cluster))
        for read in (stranger.read_now, stranger.read):
            with pytest.raises(OnlineStoreUnavailable, match=r"(?s)NOPERM.*docs/online-store\.md"):
                await read({"driver": drivers})  # type: ignore[misc]
        await stranger.close()


def test_a_full_server_says_so_to_writers_and_serves_readers(own: ValkeyServer) -> None:
    server = server_for(own.url)
    assert server.write(keys_of([1]), blobs_of([1.5])) == 1
    admin = redis.Redis(port=own.port)
    admin.config_set("maxmemory", "1")
    with pytest.raises(OnlineStoreUnavailable, match=r"(?s)maxmemory.*noeviction"):
        server.write(keys_of([2]), blobs_of([2.5]))
    lookup = FeatureLookup(SERVICE, INPUTS, settings_for(own.url))
    assert lookup.read_now({"driver": [1, 2]}).tensors["x"][:, 0].tolist() == [1.5, -1.0]
    admin.config_set("maxmemory", "0")
    assert server.write(keys_of([2]), blobs_of([2.5])) == 1


async def test_a_replica_serves_readers_and_sends_writers_to_its_primary(
    own: ValkeyServer, tmp_path: Path
) -> None:
    server_for(own.url).write(keys_of([1]), blobs_of([1.5]))
    with ValkeyServer(tmp_path / "replica") as replica:
        redis.Redis(port=own.port).config_set("repl-diskless-sync-delay", 0)
        client = redis.Redis(port=replica.port)
        client.execute_command("REPLICAOF", "127.0.0.1", own.port)
        deadline = time.monotonic() + 20
        while not client.dbsize():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        lookup = FeatureLookup(SERVICE, INPUTS, settings_for(replica.url))
        assert lookup.read_now({"driver": [1]}).tensors["x"][0, 0] == 1.5
        assert (await lookup.read({"driver": [1]})).tensors["x"][0, 0] == 1.5
        await lookup.close()
        with pytest.raises(OnlineStoreUnavailable, match=r"(?s)read only.*primary"):
            server_for(replica.url).write(keys_of([1]), blobs_of([2.5]))


async def test_no_room_for_another_connection_is_as_good_as_no_server(own: ValkeyServer) -> None:
    admin = redis.Redis(port=own.port)
    admin.config_set("maxclients", 1)
    lookup = FeatureLookup(SERVICE, INPUTS, settings_for(own.url))
    with pytest.raises(OnlineStoreUnavailable, match="maxclients"):
        lookup.read_now({"driver": [1]})
    with pytest.raises(OnlineStoreUnavailable, match="max number of clients"):
        await lookup.read({"driver": [1]})
    admin.config_set("maxclients", 100)
    time.sleep(0.1)
    assert lookup.read_now({"driver": [1]}).tensors["x"][0, 0] == -1.0
    await lookup.close()
