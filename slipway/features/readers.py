"""Reads from the online store for one event loop: everything that one loop tick asks for is one MGET.

A dead store costs a caller nothing: after the first failure callers are refused at once, while a probe in
the background tries again after 0, 50, 100 … 500 ms; when it answers, callers are let through again.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from time import monotonic
from typing import Any

from slipway.errors import FeatureError, OnlineStoreUnavailable
from slipway.features import wire
from slipway.features.cluster import Answer, Ask, ClusterPlan
from slipway.features.wire import Address, Reply, ServerRefused

PAUSES = (0.0, 0.05, 0.1, 0.2, 0.5)

Receive = Callable[[list[Reply] | FeatureError, bool], None]
"""Called with the values or why there are none, and whether the one who asked was alone in his MGET."""


class _Batch:
    """Commands under way together: how many answers they have, and who waits for them."""

    __slots__ = ("future", "parts", "replies", "sent", "wanted")

    def __init__(self, wanted: int, future: asyncio.Future[list[Any]] | None = None) -> None:
        self.wanted = wanted
        self.replies: list[Any] = []
        self.future = future
        self.parts: list[tuple[Receive, int]] = []
        self.sent = 0.0

    def fail(self, error: FeatureError) -> None:
        if self.future is not None and not self.future.done():
            self.future.set_exception(error)
        for receive, _ in self.parts:
            receive(wire.again(error), False)


def _settle(future: asyncio.Future[list[Reply]], found: list[Reply] | FeatureError, alone: bool) -> None:
    if future.done():
        return
    if isinstance(found, list):
        future.set_result(found)
    else:
        future.set_exception(found)


class _Connection(asyncio.Protocol):
    def __init__(self, node: NodeReader) -> None:
        self.node = node
        self.parser = wire.parser()
        self.waiting: deque[_Batch] = deque()
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.parser.feed(data)
        try:
            while self.waiting:
                reply = self.parser.gets()
                if reply is False:
                    return
                batch = self.waiting[0]
                batch.replies.append(reply)
                if len(batch.replies) == batch.wanted:
                    self.waiting.popleft()
                    self.node.answered(batch)
        except ConnectionError as error:
            self.node.lost(self, wire.unavailable(self.node.address, f"does not speak Redis: {error}"))

    def connection_lost(self, error: Exception | None) -> None:
        why = f"connection lost: {error or 'closed by the server'}"
        self.node.lost(self, wire.unavailable(self.node.address, why), dead=False)

    def send(self, command: bytes, batch: _Batch) -> None:
        self.waiting.append(batch)
        self.transport.write(command)


class NodeReader:
    """One server, one connection, as many readers as there are."""

    def __init__(self, address: Address, timeout: float, *, single_keys: bool = False) -> None:
        self.address = address
        self._timeout = timeout
        self._single_keys = single_keys
        self._loop = asyncio.get_running_loop()
        self._connection: _Connection | None = None
        self._pending: list[tuple[Sequence[bytes], Receive]] = []
        self._scheduled = False
        self._alone = True
        """The last command was for one who asked."""
        self._timer: asyncio.TimerHandle | None = None
        """Of the oldest command under way: one for all, because a timer of its own costs each 5 us."""
        self._probe: asyncio.Task[None] | None = None
        self._failure: OnlineStoreUnavailable | None = None
        self._context: ssl.SSLContext | None = None

    @property
    def failed(self) -> bool:
        """Callers are refused, until the server is found again."""
        return self._failure is not None

    def fetch(self, keys: Sequence[bytes]) -> asyncio.Future[list[Reply]]:
        """The values of these keys, None for those that are not there. Joins what else this tick asks."""
        future: asyncio.Future[list[Reply]] = self._loop.create_future()
        self._queue(keys, partial(_settle, future))
        return future

    def ask_for(self, keys: Sequence[bytes], receive: Receive) -> None:
        """As `fetch`, without a future and the turn of the loop that it takes; and who comes alone, as those
        before him did, is not kept waiting for others of his tick.
        """
        connection = self._connection
        if self._alone and connection is not None and not connection.waiting and not self._pending:
            self._send_for([(keys, receive)])
        else:
            self._queue(keys, receive)

    def _queue(self, keys: Sequence[bytes], receive: Receive) -> None:
        if self._failure is not None:
            receive(wire.again(self._failure), False)
            return
        self._pending.append((keys, receive))
        if self._connection is None:
            self._start_probe()
        elif not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._flush)

    async def ask(self, command: bytes, replies: int) -> list[Any]:
        """Another command, or several, with so many answers; connects if need be."""
        if self._connection is None:
            await self.fetch([])
        if self._connection is None:
            raise self._failure or wire.unavailable(self.address, "not connected")
        future: asyncio.Future[list[Any]] = self._loop.create_future()
        self._send(command, _Batch(replies, future))
        return await future

    async def close(self) -> None:
        if self._probe is not None:
            self._probe.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._probe
        self._failure = wire.unavailable(self.address, "the reader is closed")
        if self._timer is not None:
            self._timer.cancel()
        if self._connection is not None:
            self._connection.transport.abort()
        self._fail_pending(self._failure)

    def answered(self, batch: _Batch) -> None:
        if batch.future is not None:
            if not batch.future.done():
                batch.future.set_result(batch.replies)
            return
        replies = batch.replies
        if not self._single_keys:
            try:
                replies = wire.join_replies(replies, self.address)
            except FeatureError as error:
                batch.fail(error)
                return
        start = 0
        alone = len(batch.parts) == 1
        for receive, count in batch.parts:
            receive(replies if alone else replies[start : start + count], alone)
            start += count

    def lost(self, connection: _Connection, error: OnlineStoreUnavailable, *, dead: bool = True) -> None:
        """A connection that was merely closed, as servers do with idle ones, is opened again first; only
        if that fails are callers refused.
        """
        while connection.waiting:
            connection.waiting.popleft().fail(wire.again(error))
        connection.transport.abort()
        if connection is self._connection:
            self._connection = None
            if dead:
                self._failure = error
                self._fail_pending(error)
            self._start_probe()

    def _flush(self) -> None:
        self._scheduled = False
        pending, self._pending = self._pending, []
        if self._connection is None:
            self._pending = pending
            self._start_probe()
            return
        self._alone = len(pending) == 1
        self._send_for(pending)

    def _send_for(self, pending: list[tuple[Sequence[bytes], Receive]]) -> None:
        keys: list[bytes] = []
        parts = []
        for wanted, receive in pending:
            keys += wanted
            parts.append((receive, len(wanted)))
        if not keys:
            for receive, _ in parts:
                receive([], False)
            return
        if self._single_keys:
            command, wanted_replies = wire.pack_gets(keys), len(keys)
        else:
            commands = wire.pack_mgets(keys)
            command, wanted_replies = b"".join(commands), len(commands)
        batch = _Batch(wanted_replies)
        batch.parts = parts
        self._send(command, batch)

    def _send(self, command: bytes, batch: _Batch) -> None:
        connection = self._connection
        if connection is None:
            batch.fail(wire.again(self._failure or wire.unavailable(self.address, "not connected")))
            return
        batch.sent = monotonic()
        connection.send(command, batch)
        if self._timer is None:
            self._timer = self._loop.call_later(self._timeout, self._look_for_late)

    def _look_for_late(self) -> None:
        self._timer = None
        connection = self._connection
        if connection is None or not connection.waiting:
            return
        left = connection.waiting[0].sent + self._timeout - monotonic()
        if left > 0:
            self._timer = self._loop.call_later(left, self._look_for_late)
        else:
            self.lost(connection, wire.late(self.address, self._timeout))

    def _start_probe(self) -> None:
        if self._probe is None or self._probe.done():
            self._probe = self._loop.create_task(self._connect())

    async def _connect(self) -> None:
        """Until it is connected; only one runs at a time."""
        for attempt in range(1 << 62):
            await asyncio.sleep(PAUSES[min(attempt, len(PAUSES) - 1)])
            try:
                async with asyncio.timeout(self._timeout):
                    connection = await self._greet()
            except FeatureError as error:
                failure = error if isinstance(error, OnlineStoreUnavailable) else None
                failure = failure or wire.unavailable(self.address, error.what)
            except TimeoutError:
                failure = wire.late(self.address, self._timeout)
            except OSError as error:
                failure = wire.unavailable(self.address, f"not reachable: {error}")
            else:
                self._connection = connection
                self._failure = None
                self._flush()
                return
            self._failure = failure
            self._fail_pending(failure)

    async def _greet(self) -> _Connection:
        address = self.address
        if address.tls is not None and self._context is None:
            self._context = address.context()
        _, connection = await self._loop.create_connection(
            lambda: _Connection(self),
            address.host,
            address.port,
            ssl=self._context,
            server_hostname=address.host if self._context else None,
        )
        try:
            greeting = address.greeting()
            future: asyncio.Future[list[Any]] = self._loop.create_future()
            connection.send(b"".join(greeting), _Batch(len(greeting), future))
            replies = await future
        except BaseException:
            connection.waiting.clear()
            connection.transport.abort()
            raise
        refusal = next((reply for reply in replies if isinstance(reply, ServerRefused)), None)
        if refusal is not None:
            connection.transport.abort()
            raise wire.refused(address, refusal)
        return connection

    def _fail_pending(self, error: OnlineStoreUnavailable) -> None:
        pending, self._pending = self._pending, []
        for _, receive in pending:
            receive(wire.again(error), False)


class ClusterReader:
    """Sends each key to the node of its hash slot, wherever that is by now."""

    def __init__(self, address: Address, timeout: float) -> None:
        self._address = address
        self._timeout = timeout
        self._nodes: dict[Address, NodeReader] = {}
        self._plan = ClusterPlan(address)

    async def fetch(self, keys: Sequence[bytes]) -> list[Reply]:
        try:
            # Each node has the timeout; this bounds the whole.
            async with asyncio.timeout(4 * self._timeout):
                return await self._fetch(keys)
        except TimeoutError as error:
            raise wire.late(self._address, 4 * self._timeout) from error

    async def close(self) -> None:
        for node in self._nodes.values():
            await node.close()

    async def _fetch(self, keys: Sequence[bytes]) -> list[Reply]:
        steps = self._plan.fetch(keys)
        answers: Sequence[Answer] | None = None
        try:
            while True:
                asks = next(steps) if answers is None else steps.send(answers)
                answers = await asyncio.gather(*[self._answer(ask) for ask in asks])
        except StopIteration as end:
            replies: list[Reply] = end.value
        # Those would be looked for to the end of days.
        for gone in [node for node, reader in self._nodes.items() if reader.failed]:
            if gone not in self._plan.nodes:
                await self._nodes.pop(gone).close()
        return replies

    async def _answer(self, ask: Ask) -> Answer:
        node = self._nodes.get(ask.node)
        if node is None:
            node = self._nodes[ask.node] = NodeReader(ask.node, self._timeout, single_keys=True)
        try:
            return await (node.fetch(ask.keys) if ask.keys else node.ask(*ask.packed()))
        except OnlineStoreUnavailable as error:
            return error


def open_reader(url: str, *, timeout: float, cluster: bool) -> NodeReader | ClusterReader:
    """For the running loop."""
    address = wire.parse_url(url)
    return ClusterReader(address, timeout) if cluster else NodeReader(address, timeout)
