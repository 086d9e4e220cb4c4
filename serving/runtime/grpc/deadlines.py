"""One timer for the deadlines of all calls: nearly every client sets one, and few ever pass.

A timer a call costs 3 us and holds the call until it fires. This one is set to the soonest deadline; when
it fires, all open calls are looked at, those that are late end, and it is set to the soonest of the rest.
Calls of one timeout come in the order of their deadlines, so that it is set about once a timeout, not once a
call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from math import inf
from time import perf_counter

from serving.runtime.http2 import Connection

_GAP_SECONDS = 0.001
_SHARE = 20
"""Looking takes a twentieth of the time at most, however many calls are open."""


class Deadlines:
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.connections: Collection[Connection] = ()
        """Set by the server: whose calls they are."""
        self._loop = loop
        self._soonest = inf
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, deadline: float) -> None:
        """`deadline` of an open call, on the clock of time.perf_counter."""
        if deadline < self._soonest:
            self._set(deadline)

    def _set(self, deadline: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._soonest = deadline
        self._timer = self._loop.call_later(max(0.0, deadline - perf_counter()), self._look)

    def _look(self) -> None:
        self._timer = None
        self._soonest = inf
        now = perf_counter()
        soonest = inf
        for connection in list(self.connections):
            for stream in list(connection.streams.values()):
                deadline = stream.deadline
                if deadline is None:
                    continue
                if deadline <= now:
                    stream.too_late()
                elif deadline < soonest:
                    soonest = deadline
        if soonest < self._soonest:
            after = perf_counter()
            self._set(max(soonest, after + _GAP_SECONDS, after + _SHARE * (after - now)))
