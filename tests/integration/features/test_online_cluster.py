"""A cluster in which slots move and primaries die while it is read from and written to."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.exceptions import AskError

from slipway.errors import FeatureError, OnlineStoreUnavailable
from slipway.features.lookup import FeatureLookup
from slipway.features.server import Server
from slipway.features.wire import key_slot
from tests.integration.features.conftest import NOW
from tests.integration.features.test_online_reliability import (
    INPUTS,
    KEYS,
    PACKING,
    SERVICE,
    blobs_of,
    keys_of,
    server_for,
    settings_for,
)
from tests.valkey import ValkeyServer, free_port, valkey_cluster

DRIVERS = list(range(120))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[ValkeyServer]]:
    with valkey_cluster(tmp_path_factory.mktemp("cluster")) as servers:
        yield servers


class Clients:
    """All that read, as they are in a server that runs for long."""

    def __init__(self, url: str) -> None:
        self.lookup = FeatureLookup(SERVICE, INPUTS, settings_for(url, timeout=2, cluster=True))
        self.server = server_for(url, cluster=True)

    async def read(self, drivers: list[int]) -> list[list[float]]:
        """What each of the four ways finds; -1 for nothing."""
        now = self.lookup.read_now({"driver": drivers}).tensors["x"][:, 0].tolist()
        soon = (await self.lookup.read({"driver": drivers})).tensors["x"][:, 0].tolist()
        feast = [_value(blob) for blob in self.server.read(keys_of(drivers))]
        feast_async = [_value(blob) for blob in await self.server.read_async(keys_of(drivers))]
        return [now, soon, feast, feast_async]

    async def close(self) -> None:
        await self.lookup.close()
        await self.server.close()


def _value(blob: bytes | None) -> float:
    return -1.0 if blob is None else float(PACKING.read([blob])["<f8"][0, 0])


def write(server: Server, drivers: list[int], plus: float = 0.0, later: float = 0.0) -> int:
    return server.write(
        keys_of(drivers), blobs_of([plus + driver for driver in drivers], NOW + timedelta(seconds=later))
    )


async def test_a_slot_that_is_on_its_way_is_read_and_written_whole(cluster: list[ValkeyServer]) -> None:
    slot = key_slot(keys_of([0])[0])
    # Four of one slot, as a script takes them: two go ahead, one stays, one is nowhere yet.
    numbers = (number for number in count() if key_slot(keys_of([number])[0]) == slot)
    drivers = [next(numbers) for _ in range(4)]
    ahead = drivers[:2]
    everybody = Clients(cluster[0].url)
    assert write(everybody.server, drivers[:3]) == 3
    assert await everybody.read(drivers) == [[*map(float, drivers[:3]), -1.0]] * 4

    nodes = [redis.Redis(port=server.port) for server in cluster]
    ids = [node.execute_command("CLUSTER", "MYID").decode() for node in nodes]
    owner = next(at for at, node in enumerate(nodes) if node.dbsize())
    target = (owner + 1) % 3
    nodes[target].execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[owner])
    nodes[owner].execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target])
    for key in keys_of(ahead):
        nodes[owner].execute_command("MIGRATE", "127.0.0.1", cluster[target].port, key, 0, 2000)
    with pytest.raises(AskError):
        nodes[owner].get(keys_of(ahead)[0])

    assert await everybody.read(drivers) == [[*map(float, drivers[:3]), -1.0]] * 4
    assert write(everybody.server, drivers, plus=0.5, later=1) == 4
    assert write(everybody.server, drivers, plus=9, later=-1) == 0, "older ones are refused as ever"
    wanted = [driver + 0.5 for driver in drivers]
    assert await everybody.read(drivers) == [wanted] * 4

    for key in nodes[owner].execute_command("CLUSTER", "GETKEYSINSLOT", slot, 100):
        nodes[owner].execute_command("MIGRATE", "127.0.0.1", cluster[target].port, key, 0, 2000)
    for at in (target, owner):
        nodes[at].execute_command("CLUSTER", "SETSLOT", slot, "NODE", ids[target])
    # It has moved: those who knew where it was follow, and so do writers.
    assert await everybody.read(drivers) == [wanted] * 4
    assert write(everybody.server, drivers, plus=0.75, later=2) == 4
    assert await everybody.read(drivers) == [[driver + 0.75 for driver in drivers]] * 4
    assert everybody.server.delete([KEYS.prefix], b"slipway:reliable:") == 4
    await everybody.close()


async def test_keys_that_have_gone_ahead_are_removed_too(cluster: list[ValkeyServer]) -> None:
    server = server_for(cluster[0].url, cluster=True)
    assert write(server, [1]) == 1
    nodes = [redis.Redis(port=node.port) for node in cluster]
    ids = [node.execute_command("CLUSTER", "MYID").decode() for node in nodes]
    (key,), slot = keys_of([1]), key_slot(keys_of([1])[0])
    owner = next(at for at, node in enumerate(nodes) if node.dbsize())
    target = (owner + 1) % 3
    nodes[target].execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[owner])
    nodes[owner].execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target])
    nodes[owner].execute_command("MIGRATE", "127.0.0.1", cluster[target].port, key, 0, 2000)
    assert server.delete([KEYS.prefix], b"slipway:reliable:") == 1
    assert [node.dbsize() for node in nodes] == [0, 0, 0]
    for node in nodes:
        node.execute_command("CLUSTER", "SETSLOT", slot, "STABLE")
    await server.close()


@pytest.fixture
def with_replica(tmp_path: Path) -> Iterator[list[ValkeyServer]]:
    """The last of the servers stands by for the first."""
    options = ("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    with (
        valkey_cluster(tmp_path / "cluster") as servers,
        ValkeyServer(tmp_path / "r", options=options) as last,
    ):
        first, standby = (redis.Redis(port=server.port) for server in (servers[0], last))
        # However long a step of the test takes: nobody takes over before he is told to, and the others serve.
        standby.config_set("cluster-replica-no-failover", "yes")
        for server in (*servers, last):
            redis.Redis(port=server.port).config_set("cluster-require-full-coverage", "no")
        # Otherwise it waits five seconds for more replicas to copy itself to.
        first.config_set("repl-diskless-sync-delay", 0)
        first.execute_command("CLUSTER", "MEET", "127.0.0.1", last.port, int(options[-1]))
        primary = first.execute_command("CLUSTER", "MYID")
        everybody = [redis.Redis(port=server.port) for server in (*servers, last)]
        _until(lambda: all(node.execute_command("CLUSTER", "NODES").count(b"\n") == 4 for node in everybody))
        standby.execute_command("CLUSTER", "REPLICATE", primary)
        _until(lambda: standby.info("replication")["master_link_status"] == "up")
        yield [*servers, last]


def _until(happens: Any) -> None:
    deadline = time.monotonic() + 120
    while not happens():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("seed", [0, 1], ids=["that the URL names", "of the others"])
async def test_when_a_primary_dies_its_replica_is_found(with_replica: list[ValkeyServer], seed: int) -> None:
    first, *_, last = with_replica
    everybody = Clients(with_replica[seed].url)
    standby = redis.Redis(port=last.port)
    assert write(everybody.server, DRIVERS) == len(DRIVERS)
    wanted = [float(driver) for driver in DRIVERS]
    assert await everybody.read(DRIVERS) == [wanted] * 4
    _until(lambda: standby.dbsize() == redis.Redis(port=first.port).dbsize())

    first.stop()
    with pytest.raises(OnlineStoreUnavailable, match=str(first.port)):
        everybody.lookup.read_now({"driver": DRIVERS})
    with pytest.raises(OnlineStoreUnavailable, match=str(first.port)):
        await everybody.lookup.read({"driver": DRIVERS})
    # A writer waits for whoever takes over.
    writing = asyncio.create_task(asyncio.to_thread(write, everybody.server, DRIVERS, 0.5, 1.0))
    await asyncio.sleep(0.3)
    _until(lambda: standby.execute_command("CLUSTER", "FAILOVER", "TAKEOVER"))
    assert await writing == len(DRIVERS)

    async def readable() -> bool:
        try:
            return await everybody.read(DRIVERS) == [[driver + 0.5 for driver in DRIVERS]] * 4
        except FeatureError:
            return False

    deadline = time.monotonic() + 120
    while not await readable():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
    await everybody.close()
