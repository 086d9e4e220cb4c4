"""The connection of the Feast store to Valkey or Redis: one server or a cluster, bounded in time."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import redis
from redis import exceptions
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from slipway.errors import FeatureError, OnlineStoreUnavailable, SettingsError
from slipway.features import wire
from slipway.features.blocking import BlockingReader
from slipway.features.readers import ClusterReader, NodeReader, open_reader
from slipway.features.writing import Writer


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
        self._readers: dict[asyncio.AbstractEventLoop, NodeReader | ClusterReader] = {}

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
        """By the lookup's own reader of this loop."""
        loop = asyncio.get_running_loop()
        reader = self._readers.get(loop)
        if reader is None:
            for closed in [known for known in self._readers if known.is_closed()]:
                del self._readers[closed]
            reader = open_reader(self.url, timeout=self._timeout, cluster=self.cluster)
            self._readers[loop] = reader
        return await reader.fetch(keys) if keys else []

    def write(
        self, keys: Sequence[bytes], blobs: Sequence[bytes], progress: Callable[[int], Any] | None = None
    ) -> int:
        """How many of the rows were written; the others were older than what is stored."""
        writer = Writer(keys, blobs, progress)
        with self._explain(self._write_timeout):
            if self.cluster:
                writer.to_cluster(self._writer(), self._write_timeout)
            else:
                writer.to_server(self._writer())
        return writer.written

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
        reader = self._readers.pop(asyncio.get_running_loop(), None)
        if reader is not None:
            await reader.close()

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
                # A slot that is on its way here is not this node's yet, and the key is here.
                pipeline.execute_command("ASKING")
                pipeline.unlink(key)
            return sum(pipeline.execute()[1::2])

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

    @contextmanager
    def _explain(self, timeout: float) -> Iterator[None]:
        try:
            yield
        except (exceptions.RedisError, exceptions.RedisClusterException) as error:
            raise self._error(error, timeout) from error
        except ValueError as error:
            raise SettingsError(f"online.url is not usable: {error}", where=address(self.url)) from error

    def _error(self, error: Exception, timeout: float) -> FeatureError:
        where = f"online store {address(self.url)}"
        for kind, fix in _REFUSALS.items():
            if isinstance(error, kind):
                return OnlineStoreUnavailable(f"refused us: {error}", where=where, fix=fix)
        if isinstance(error, exceptions.TimeoutError | TimeoutError):
            return OnlineStoreUnavailable(
                f"no answer within {timeout:g} s", where=where, fix="see whether it is overloaded or stopped"
            )
        if isinstance(
            error, exceptions.ConnectionError | exceptions.ClusterError | exceptions.RedisClusterException
        ):
            return OnlineStoreUnavailable(
                f"not reachable: {error}",
                where=where,
                fix="run `slipway up`, or set online.url to a Valkey or Redis that runs",
            )
        return FeatureError(f"the server refused: {error}", where=where)


_REFUSALS: dict[type[Exception], str] = {
    exceptions.AuthenticationError: "set the user and password in online.url",
    exceptions.NoPermissionError: wire.NOT_PERMITTED_FIX,
    exceptions.OutOfMemoryError: wire.FULL_FIX,
    exceptions.ReadOnlyError: wire.READ_ONLY_FIX,
}
