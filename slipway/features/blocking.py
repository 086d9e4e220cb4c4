"""Reads from the online store for code without an event loop: batch scoring, parity, tests."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Sequence
from typing import Any

from slipway.errors import OnlineStoreUnavailable
from slipway.features import wire
from slipway.features.cluster import Answer, Ask, ClusterPlan
from slipway.features.wire import Address, Reply, ServerRefused

PAUSE = 0.05
"""After a failure callers are refused at once for so long."""


class BlockingNode:
    """One server; threads take turns."""

    def __init__(self, address: Address, timeout: float) -> None:
        self.address = address
        self._timeout = timeout
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._parser: Any = None
        self._context: Any = None
        self._failed_at = float("-inf")
        self._failure: OnlineStoreUnavailable | None = None

    def ask(self, command: bytes, replies: int) -> list[Any]:
        with self._lock:
            if self._failure is not None and time.monotonic() - self._failed_at < PAUSE:
                raise wire.again(self._failure)
            deadline = time.monotonic() + self._timeout
            stale = self._socket is not None
            try:
                return self._exchange(command, replies, deadline)
            except TimeoutError as error:
                raise self._give_up(wire.late(self.address, self._timeout)) from error
            except OSError as error:
                self._drop()
                if not stale:
                    failure = wire.unavailable(self.address, f"not reachable: {error}")
                    raise self._give_up(failure) from error
            # The server may have closed an idle connection, or started anew since.
            try:
                return self._exchange(command, replies, deadline)
            except TimeoutError as error:
                raise self._give_up(wire.late(self.address, self._timeout)) from error
            except OSError as error:
                raise self._give_up(wire.unavailable(self.address, f"not reachable: {error}")) from error

    def close(self) -> None:
        with self._lock:
            self._drop()

    def _give_up(self, failure: OnlineStoreUnavailable) -> OnlineStoreUnavailable:
        self._drop()
        self._failed_at, self._failure = time.monotonic(), failure
        return failure

    def _exchange(self, command: bytes, replies: int, deadline: float) -> list[Any]:
        if self._socket is None:
            self._connect(deadline)
        connection = self._socket
        assert connection is not None  # noqa: S101
        self._bound(connection, deadline)
        connection.sendall(command)
        answers: list[Any] = []
        while len(answers) < replies:
            reply = self._parser.gets()
            if reply is not False:
                answers.append(reply)
                continue
            self._bound(connection, deadline)
            data = connection.recv(1 << 18)
            if not data:
                raise ConnectionError("closed by the server")
            self._parser.feed(data)
        return answers

    def _bound(self, connection: socket.socket, deadline: float) -> None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        connection.settimeout(left)

    def _connect(self, deadline: float) -> None:
        address = self.address
        left = max(deadline - time.monotonic(), 0.001)
        connection = socket.create_connection((address.host, address.port), left)
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if address.tls is not None:
                self._context = self._context or address.context()
                connection = self._context.wrap_socket(connection, server_hostname=address.host)
        except BaseException:
            connection.close()
            raise
        self._socket, self._parser = connection, wire.parser()
        greeting = address.greeting()
        for reply in self._exchange(b"".join(greeting), len(greeting), deadline):
            if isinstance(reply, ServerRefused):
                self._drop()
                raise wire.refused(address, reply)
        self._failure = None

    def _drop(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class BlockingReader:
    def __init__(self, url: str, *, timeout: float, cluster: bool) -> None:
        self._address = wire.parse_url(url)
        self._timeout = timeout
        self._cluster = cluster
        self._nodes: dict[Address, BlockingNode] = {}
        self._plan = ClusterPlan(self._address)

    def fetch(self, keys: Sequence[bytes]) -> list[Reply]:
        if not keys:
            return []
        if self._cluster:
            return self._fetch_cluster(keys)
        node = self._node(self._address)
        # Part by part, so that each has the whole timeout.
        return wire.join_replies(
            [node.ask(command, 1)[0] for command in wire.pack_mgets(keys)], self._address
        )

    def close(self) -> None:
        for node in self._nodes.values():
            node.close()

    def _fetch_cluster(self, keys: Sequence[bytes]) -> list[Reply]:
        steps = self._plan.fetch(keys)
        answers: Sequence[Answer] | None = None
        try:
            while True:
                asks = next(steps) if answers is None else steps.send(answers)
                answers = [self._answer(ask) for ask in asks]
        except StopIteration as end:
            replies: list[Reply] = end.value
            return replies

    def _answer(self, ask: Ask) -> Answer:
        try:
            return self._node(ask.node).ask(*ask.packed())
        except OnlineStoreUnavailable as error:
            return error

    def _node(self, address: Address) -> BlockingNode:
        if address not in self._nodes:
            self._nodes[address] = BlockingNode(address, self._timeout)
        return self._nodes[address]
