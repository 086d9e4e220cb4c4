"""Writing blobs so that the later event stays, on one server or on a cluster whose slots may be moving."""

from __future__ import annotations

import hashlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

from redis import exceptions

KEYS_A_SCRIPT = 200
"""A script holds the server: 200 keys for one to two milliseconds."""
SCRIPTS_A_TRIP = 20
PAUSE = 0.1
"""Seconds before what a cluster did not take is tried again where it is now."""

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
_SHA = hashlib.sha1(KEEP_LATER.encode(), usedforsecurity=False).hexdigest()

Rows: TypeAlias = list[int]
Progress: TypeAlias = Callable[[int], Any] | None


class Writer:
    """One writing of some keys, each with its blob."""

    def __init__(self, keys: Sequence[bytes], blobs: Sequence[bytes], progress: Progress) -> None:
        self._keys = keys
        self._blobs = blobs
        self._progress = progress
        self.written = 0
        """Rows that were not older than what is stored."""

    def to_server(self, client: Any) -> None:
        for trip in _trips(_cut(range(len(self._keys)))):
            for rows, answer in zip(trip, self._run(client, trip), strict=True):
                self._count(rows, answer)

    def to_cluster(self, client: Any, patience: float) -> None:
        """Each script goes to the node of its keys' slot. What that does not take, since the slot has moved
        or the node is gone, goes to whoever has it then, for so many seconds at most.
        """
        deadline = time.monotonic() + patience
        left, moving = list(range(len(self._keys))), set[int]()
        while left:
            try:
                left, failure = self._offer(client, left, moving)
                if failure is None:
                    return
                time.sleep(PAUSE)
                client.nodes_manager.initialize()
            except exceptions.RedisClusterException as error:
                # Nobody serves the slot, or no node answers.
                failure = error
                time.sleep(PAUSE)
            if time.monotonic() > deadline:
                raise failure

    def _offer(self, client: Any, left: Rows, moving: set[int]) -> tuple[Rows, Exception | None]:
        """The rows that were not taken, and why. `moving` are rows whose slot is under way: there a script
        finds all of its keys on one node only if it has but one.
        """
        refused: Rows = []
        failure: Exception | None = None
        for node, scripts in self._by_node(client, left, moving):
            gone: Exception | None = None
            for trip in _trips(scripts):
                try:
                    answers = (
                        [gone] * len(trip) if gone else self._run(client.get_redis_connection(node), trip)
                    )
                except (exceptions.ConnectionError, exceptions.TimeoutError) as error:
                    gone = error
                    answers = [error] * len(trip)
                for rows, answer in zip(trip, answers, strict=True):
                    if _is_ask(answer) and len(rows) == 1:
                        answer = self._ask(client, rows, answer)
                    if isinstance(answer, _ELSEWHERE):
                        refused += rows
                        failure = answer
                        if _is_ask(answer) or isinstance(answer, exceptions.TryAgainError):
                            moving.update(rows)
                    else:
                        self._count(rows, answer)
        return refused, failure

    def _ask(self, client: Any, rows: Rows, sent: exceptions.AskError) -> Any:
        """Of the node that the slot is moving to, where the key is already, or is to be made."""
        node = client.get_node(host=sent.host, port=sent.port)
        if node is None:
            return sent
        try:
            return self._run(client.get_redis_connection(node), [rows], asking=True)[0]
        except (exceptions.ConnectionError, exceptions.TimeoutError) as error:
            return error

    def _run(self, node: Any, scripts: Sequence[Rows], *, asking: bool = False) -> list[Any]:
        """For each script the rows that it wrote, or the error that it was refused with."""
        with node.pipeline(transaction=False) as pipeline:
            # Loading costs nothing where it is loaded, and a restarted server has forgotten it.
            pipeline.script_load(KEEP_LATER)
            for rows in scripts:
                if asking:
                    pipeline.execute_command("ASKING")
                keys, blobs = [self._keys[at] for at in rows], [self._blobs[at] for at in rows]
                pipeline.evalsha(_SHA, len(rows), *keys, *blobs)
            loaded, *answers = list[Any](pipeline.execute(raise_on_error=False))
        if isinstance(loaded, Exception):
            raise loaded
        return answers[1::2] if asking else answers

    def _count(self, rows: Rows, answer: Any) -> None:
        if isinstance(answer, Exception):
            raise answer
        self.written += answer
        if self._progress is not None:
            self._progress(len(rows))

    def _by_node(self, client: Any, left: Rows, moving: set[int]) -> Iterator[tuple[Any, list[Rows]]]:
        """(node, its scripts): the keys of a script share a hash slot."""
        slots: dict[int, Rows] = defaultdict(list)
        for at in left:
            slots[client.keyslot(self._keys[at])].append(at)
        nodes: dict[str, tuple[Any, list[Rows]]] = {}
        for slot, rows in slots.items():
            node = client.nodes_manager.get_node_from_slot(slot)
            _, scripts = nodes.setdefault(node.name, (node, []))
            scripts += _cut(rows, 1 if moving.intersection(rows) else KEYS_A_SCRIPT)
        yield from nodes.values()


_ELSEWHERE = (
    exceptions.AskError,
    exceptions.ClusterDownError,
    exceptions.ConnectionError,
    exceptions.ReadOnlyError,
    exceptions.TimeoutError,
    exceptions.TryAgainError,
)
"""MOVED is an AskError to redis-py, and LOADING a ConnectionError."""


def _is_ask(answer: Any) -> bool:
    return isinstance(answer, exceptions.AskError) and not isinstance(answer, exceptions.MovedError)


def _cut(rows: Sequence[int], size: int = KEYS_A_SCRIPT) -> list[Rows]:
    return [list(rows[start : start + size]) for start in range(0, len(rows), size)]


def _trips(scripts: list[Rows]) -> list[list[Rows]]:
    return [scripts[start : start + SCRIPTS_A_TRIP] for start in range(0, len(scripts), SCRIPTS_A_TRIP)]
