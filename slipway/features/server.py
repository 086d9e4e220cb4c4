"""The connection of the Feast store to Valkey or Redis: one server or a cluster, bounded in time."""

from __future__ import annotations

import asyncio
import os
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

import redis
import redis.asyncio
from redis import exceptions
from redis.backoff import ExponentialBackoff, NoBackoff
from redis.retry import Retry

from slipway.errors import FeatureError, OnlineStoreUnavailable, SettingsError
from slipway.features.blocking import BlockingReader

KEYS_A_SCRIPT = 200
"""A script holds the server: 200 keys for one to two milliseconds."""
SCRIPTS_A_TRIP = 20
KEYS_A_READ = 5_000

# Later is kept: a stored value gives way only to one of the same or a later event time, and on the same
# event time of the same or a later created time. Doubles hold microseconds exactly until the year 2255.
# One MGET and one MSET: calls for each key cost the server 2.4 times as much.
KEEP_LATER = """
local stored = redis.call('MGET', unpack(KEYS))
local latest = {}
for at = 1, #KEYS do
  local rival = stored[at]
  if latest[KEYS[at]] then
    rival = ARGV[latest[KEYS[at]]]
  end
  local later = true
  if rival and #rival >= 24 then
    local event, created = struct.unpack('<i8i8', ARGV[at], 9)
    local rival_event, rival_created = struct.unpack('<i8i8', rival, 9)
    later = event > rival_event or (event == rival_event and created >= rival_created)
  end
  if later then
    latest[KEYS[at]] = at
  end
end
local pairs_to_set = {}
for key, at in pairs(latest) do
  pairs_to_set[#pairs_to_set + 1] = key
  pairs_to_set[#pairs_to_set + 1] = ARGV[at]
end
if #pairs_to_set > 0 then
  redis.call('MSET', unpack(pairs_to_set))
end
return #pairs_to_set / 2
"""


def address(url: str) -> str:
    """Host and port, for messages: without the password."""
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port or 6379}"


class Server:
    """Reads fail within `timeout` and are tried once more only where the connection was stale; writes
    have `write_timeout` and are tried again, since writing a row twice changes nothing.
    """

    def __init__(self, url: str, *, timeout: float, write_timeout: float, cluster: bool) -> None:
        self.url = url
        self.cluster = cluster
        self._timeout = timeout
        self._write_timeout = write_timeout
        self._idle: list[BlockingReader] = []
        self._process = os.getpid()
        self._writers: Any = None
        self._async: WeakKeyDictionary[asyncio.AbstractEventLoop, Any] = WeakKeyDictionary()

    def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """By the reader that the lookup has, which does less for each call than redis-py. Each thread that
        reads at the same moment has a connection of its own.
        """
        if self._process != os.getpid():
            # What a parent process had open is the parent's.
            self._idle, self._process = [], os.getpid()
        try:
            reader = self._idle.pop()
        except IndexError:
            reader = BlockingReader(self.url, timeout=self._timeout, cluster=self.cluster)
        try:
            return reader.fetch(keys)
        finally:
            self._idle.append(reader)

    async def read_async(self, keys: Sequence[bytes]) -> list[bytes | None]:
        async with self._explain_async(self._timeout):
            client = self._async_client()
            read = client.mget_nonatomic if self.cluster else client.mget
            blobs: list[bytes | None] = []
            for start in range(0, len(keys), KEYS_A_READ):
                blobs += await read(keys[start : start + KEYS_A_READ])
            return blobs

    def write(
        self, keys: Sequence[bytes], blobs: Sequence[bytes], progress: Callable[[int], Any] | None = None
    ) -> int:
        """How many of the rows were written; the others were older than what is stored."""
        written = 0
        with self._explain(self._write_timeout):
            client = self._writer()
            for node, scripts in self._plan(client, keys, blobs):
                for start in range(0, len(scripts), SCRIPTS_A_TRIP):
                    trip = scripts[start : start + SCRIPTS_A_TRIP]
                    written += sum(self._run(node, trip))
                    if progress is not None:
                        progress(sum(len(script) // 2 for script in trip))
        return written

    def remember(self, key: bytes, field: bytes, value: bytes) -> None:
        with self._explain(self._write_timeout):
            self._writer().hset(key, field, value)

    def recall(self, key: bytes) -> dict[bytes, bytes]:
        with self._explain(self._write_timeout):
            found: dict[bytes, bytes] = self._writer().hgetall(key)
            return found

    def delete(self, prefixes: Sequence[bytes], common: bytes) -> int:
        """Remove the keys that begin with one of `prefixes`; `common` is what all of these begin with.
        SCAN, a thousand keys a step: the server stays free for others.
        """
        removed = 0
        with self._explain(self._write_timeout):
            client = self._writer()
            for node in self._primaries(client):
                batch: list[bytes] = []
                for key in node.scan_iter(match=common + b"*", count=1000):
                    if key.startswith(tuple(prefixes)):
                        batch.append(key)
                    if len(batch) == 1000:
                        removed += self._unlink(node, batch)
                        batch = []
                removed += self._unlink(node, batch)
        return removed

    async def close(self) -> None:
        while self._idle:
            self._idle.pop().close()
        if self._writers is not None:
            self._writers.close()
        self._writers = None
        client = self._async.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.aclose()

    def _run(self, node: Any, scripts: Sequence[Sequence[bytes]]) -> list[int]:
        with node.pipeline(transaction=False) as pipeline:
            # Loading costs nothing where it is loaded, and a restarted server has forgotten it.
            pipeline.script_load(KEEP_LATER)
            for script in scripts:
                pipeline.evalsha(_SHA, len(script) // 2, *script)
            counts: list[int] = pipeline.execute()[1:]
        return counts

    def _plan(
        self, client: Any, keys: Sequence[bytes], blobs: Sequence[bytes]
    ) -> Iterator[tuple[Any, list[list[bytes]]]]:
        """(connection, its scripts' keys and values); in a cluster a script's keys share a hash slot."""
        if not self.cluster:
            yield (
                client,
                [
                    [*keys[start : start + KEYS_A_SCRIPT], *blobs[start : start + KEYS_A_SCRIPT]]
                    for start in range(0, len(keys), KEYS_A_SCRIPT)
                ],
            )
            return
        slots: dict[int, list[int]] = defaultdict(list)
        for at, key in enumerate(keys):
            slots[client.keyslot(key)].append(at)
        nodes: dict[str, tuple[Any, list[list[bytes]]]] = {}
        for slot, rows in slots.items():
            node = client.nodes_manager.get_node_from_slot(slot)
            _, scripts = nodes.setdefault(node.name, (client.get_redis_connection(node), []))
            for start in range(0, len(rows), KEYS_A_SCRIPT):
                part = rows[start : start + KEYS_A_SCRIPT]
                scripts.append([*(keys[at] for at in part), *(blobs[at] for at in part)])
        yield from nodes.values()

    def _primaries(self, client: Any) -> list[Any]:
        if not self.cluster:
            return [client]
        return [client.get_redis_connection(node) for node in client.get_primaries()]

    def _unlink(self, node: Any, keys: list[bytes]) -> int:
        if not keys:
            return 0
        if not self.cluster:
            return int(node.unlink(*keys))
        with node.pipeline(transaction=False) as pipeline:
            for key in keys:
                pipeline.unlink(key)
            return sum(pipeline.execute())

    def _writer(self) -> Any:
        if self._writers is None:
            self._writers = self._connect(
                self._write_timeout, Retry(ExponentialBackoff(cap=1.0, base=0.05), 4)
            )
        return self._writers

    def _connect(self, timeout: float, retry: Retry) -> Any:
        kind: Any = redis.RedisCluster if self.cluster else redis.Redis
        options = {"socket_timeout": timeout, "socket_connect_timeout": min(timeout, 3.0), "retry": retry}
        return kind.from_url(self.url, **options)

    def _async_client(self) -> Any:
        loop = asyncio.get_running_loop()
        if loop not in self._async:
            kind: Any = redis.asyncio.RedisCluster if self.cluster else redis.asyncio.Redis
            self._async[loop] = kind.from_url(
                self.url,
                socket_timeout=self._timeout,
                socket_connect_timeout=self._timeout,
                retry=redis.asyncio.retry.Retry(NoBackoff(), 1),
            )
        return self._async[loop]

    @contextmanager
    def _explain(self, timeout: float) -> Iterator[None]:
        try:
            yield
        except exceptions.RedisError as error:
            raise self._error(error, timeout) from error
        except ValueError as error:
            raise SettingsError(f"online.url is not usable: {error}", where=address(self.url)) from error

    @asynccontextmanager
    async def _explain_async(self, timeout: float) -> AsyncIterator[None]:
        try:
            # redis-py bounds each step; this bounds the whole.
            async with asyncio.timeout(4 * timeout):
                yield
        except (exceptions.RedisError, TimeoutError) as error:
            raise self._error(error, timeout) from error

    def _error(self, error: Exception, timeout: float) -> FeatureError:
        where = f"online store {address(self.url)}"
        if isinstance(error, exceptions.AuthenticationError | exceptions.NoPermissionError):
            return OnlineStoreUnavailable(
                f"refused us: {error}", where=where, fix="set the user and password in online.url"
            )
        if isinstance(error, exceptions.TimeoutError | TimeoutError):
            return OnlineStoreUnavailable(
                f"no answer within {timeout:g} s", where=where, fix="see whether it is overloaded or stopped"
            )
        if isinstance(error, exceptions.ConnectionError | exceptions.ClusterError):
            return OnlineStoreUnavailable(
                f"not reachable: {error}",
                where=where,
                fix="run `slipway up`, or set online.url to a Valkey or Redis that runs",
            )
        return FeatureError(f"the server refused: {error}", where=where)


def _script_digest() -> str:
    import hashlib

    return hashlib.sha1(KEEP_LATER.encode(), usedforsecurity=False).hexdigest()


_SHA = _script_digest()
