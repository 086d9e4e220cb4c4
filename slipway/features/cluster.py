"""Which node of a cluster is asked for which keys, also while slots move between them and primaries die.

Nothing is sent here: `ClusterPlan.fetch` says what to ask of whom, is sent the answers, and says what to ask
next. So the reader of an event loop and the blocking one go the same way.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any

from slipway.errors import OnlineStoreUnavailable
from slipway.features import wire
from slipway.features.wire import Address, Reply, ServerRefused

ROUNDS = 4
"""Of asking and being sent elsewhere, for one read."""
PAUSE = 0.05
"""Seconds between two looks at who serves what: it may be long until another stands in for a dead node."""

Answer = Sequence[Any] | OnlineStoreUnavailable
"""What came, or that the node did not answer."""
Shares = Mapping[Address, Sequence[int]]
"""Node → which of the keys."""


@dataclass(frozen=True)
class Ask:
    """To be asked of one node: the values of keys, or one command."""

    node: Address
    keys: Sequence[bytes] = ()
    command: bytes = b""
    replies: int = 1

    def packed(self) -> tuple[bytes, int]:
        """The bytes to send, and how many answers they have."""
        return (wire.pack_gets(self.keys), len(self.keys)) if self.keys else (self.command, self.replies)


class ClusterPlan:
    """Learns who serves which slots from the node that the URL names, and from those that it has heard of."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._table: list[Address | None] = []
        self._looked = float("-inf")

    @property
    def nodes(self) -> set[Address]:
        """Those that are worth a connection."""
        return {self._address, *filter(None, self._table)}

    def fetch(self, keys: Sequence[bytes]) -> Generator[list[Ask], Sequence[Answer], list[Reply]]:
        if not self._table:
            yield from self._learn()
        read = _Read(keys)
        for _ in range(ROUNDS):
            shares = self._shares(keys, read.begin())
            read.take(shares, (yield [Ask(node, [keys[at] for at in some]) for node, some in shares.items()]))
            if read.asked:
                # These keys have gone ahead of their slot; the others of it still are where they were.
                shares, read.asked = read.asked, {}
                answers = yield [_asking(node, [keys[at] for at in some]) for node, some in shares.items()]
                read.take(shares, [found[1::2] if isinstance(found, list) else found for found in answers])
            if not read.todo:
                return read.replies
            if read.refusal is not None:
                raise wire.refused(self._address, read.refusal, in_cluster=True)
            if monotonic() - self._looked >= PAUSE:
                yield from self._learn(*read.moved.values())
            for slot, node in read.moved.items():
                # Those who were asked may not have heard of it yet.
                self._table[slot] = node
            if not read.silent.isdisjoint(self._shares(keys, read.todo)):
                break
        raise wire.again(read.silence or wire.unavailable(self._address, "its slots do not come to rest"))

    def _shares(self, keys: Sequence[bytes], some: Sequence[int]) -> dict[Address, list[int]]:
        shares: dict[Address, list[int]] = defaultdict(list)
        for at in some:
            shares[self._table[wire.key_slot(keys[at])] or self._address].append(at)
        return shares

    def _learn(self, *first: Address) -> Generator[list[Ask], Sequence[Answer], None]:
        """From the first node that answers."""
        self._looked = monotonic()
        failure: OnlineStoreUnavailable | None = None
        for node in dict.fromkeys([*first, self._address, *self.nodes]):
            (answer,) = yield [Ask(node, command=wire.CLUSTER_SLOTS)]
            if isinstance(answer, OnlineStoreUnavailable):
                failure = answer
            elif isinstance(answer[0], ServerRefused):
                raise wire.refused(node, answer[0], in_cluster=True)
            else:
                self._table = wire.slot_table(answer[0], node)
                return
        if not self._table:
            raise wire.again(failure or wire.unavailable(self._address, "no node answers"))


class _Read:
    """How far one read has come."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._keys = keys
        self.replies: list[Any] = [None] * len(keys)
        self.todo = list(range(len(keys)))
        self.asked: dict[Address, list[int]] = {}
        """Keys that a node wants to be asked of another, this once."""
        self.moved: dict[int, Address] = {}
        """Slot → who has it now, as the one says who had it."""
        self.silent: set[Address] = set()
        self.silence: OnlineStoreUnavailable | None = None
        self.refusal: ServerRefused | None = None

    def begin(self) -> list[int]:
        todo, self.todo = self.todo, []
        self.moved, self.silent = {}, set()
        return todo

    def take(self, shares: Shares, answers: Sequence[Answer]) -> None:
        for (node, some), found in zip(shares.items(), answers, strict=True):
            if isinstance(found, OnlineStoreUnavailable):
                self.silent.add(node)
                self.silence = found
                self.todo += some
                continue
            for at, reply in zip(some, found, strict=True):
                if isinstance(reply, ServerRefused):
                    self._heed(node, at, reply)
                else:
                    self.replies[at] = reply

    def _heed(self, node: Address, at: int, refusal: ServerRefused) -> None:
        word, target = wire.sent_elsewhere(refusal, node)
        if target is not None and word == "ASK":
            self.asked.setdefault(target, []).append(at)
            return
        self.todo.append(at)
        if target is not None:
            self.moved[wire.key_slot(self._keys[at])] = target
        else:
            self.refusal = refusal


def _asking(node: Address, keys: Sequence[bytes]) -> Ask:
    command = b"".join([wire.ASKING + wire.pack_gets([key]) for key in keys])
    return Ask(node, command=command, replies=2 * len(keys))
