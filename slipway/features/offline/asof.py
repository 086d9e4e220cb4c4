"""The point-in-time join: for each entity row the latest row of a history that it could have known.

The history is read once, batch by batch, and never sorted or held as a whole. What is held is the entity
rows: their distinct (key, time) pairs, in order, are *slots*. A row of the history goes to the first slot of
its key that is not earlier than the row, and of the rows of one slot the best is kept. What a slot could
know, the later slots of its key could too, so at the end a slot without a row of its own takes that of the
nearest one before it. Neither side's order matters, nothing of the history is sorted, and memory grows with
the entity rows and not with the history.

Features are not touched until a row has won; where they go then is told in winners.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from slipway.features.offline.winners import Integers, Winners

LEAST = np.iinfo(np.int64).min
_SEARCH = -2
"""In place of a slot: it hangs on the row's time."""


@dataclass(frozen=True)
class Moments:
    """The entity rows' side: which key each row asks for, and as of when, in the history's time unit."""

    codes: Integers
    """Number of the row's key; -1 where a key or the time is null: such a row finds nothing."""
    times: Integers
    later: npt.NDArray[np.bool_]
    """Whether the true time is later than `times` by less than one unit of the history's clock."""


@dataclass(frozen=True)
class Batch:
    """Some rows of the history."""

    codes: npt.NDArray[np.integer]
    """Number of each row's key; -1 where nobody asks for it."""
    times: Integers
    created: Integers | None
    """LEAST where it is null."""
    places: npt.NDArray[np.integer]
    """Of each row in the source: of two that are equal in all else, the later one counts."""
    features: pl.DataFrame


def latest_rows(
    moments: Moments,
    batches: Iterable[Batch],
    schema: pl.Schema,
    *,
    ttl: int | None,
    known_by_then: bool = False,
) -> pa.Table:
    """For each entity row, in order, the features that could be known; gaps where nothing was.

    `schema` is that of the features. `ttl` is in the history's time unit and counts to its very end: a value
    that is exactly that old is still good. With `known_by_then` a row that was created later than the asking
    time is as if it did not exist.
    """
    slots = _Slots(moments, schema, known_by_then=known_by_then)
    for batch in batches:
        slots.offer(batch)
    at, times = slots.result()
    at, times = at[slots.of_row], times[slots.of_row]
    if ttl is not None:
        # The difference cannot overflow: a winner is not later than its entity row, and both lie within
        # the range of a clock that starts at 1970.
        age = moments.times - times
        at[~((age < ttl) | ((age == ttl) & ~moments.later))] = -1
    return slots.winners.take(at)


class _Slots:
    """The distinct (key, time) pairs of the entity rows, by key and then by time, each with its best row."""

    def __init__(self, moments: Moments, schema: pl.Schema, *, known_by_then: bool) -> None:
        asks = np.flatnonzero(moments.codes >= 0)
        codes, times = moments.codes[asks], moments.times[asks]
        order = _by_key_and_time(codes, times)
        codes, times = codes[order], times[order]
        new = np.ones(len(asks), np.bool_)
        new[1:] = (codes[1:] != codes[:-1]) | (times[1:] != times[:-1])
        self._codes, self._asked = codes[new], times[new]
        count = len(self._asked)
        keys = int(self._codes[-1]) + 1 if count else 0
        # Where the slots of each key begin, and at last where those of the last key end.
        self._borders = np.zeros(keys + 1, np.int64)
        np.cumsum(np.bincount(self._codes, minlength=keys), out=self._borders[1:])
        by_time = np.argsort(self._asked)
        self._asked_in_order, self._codes_by_time = self._asked[by_time], self._codes[by_time]
        # How many slots are before the batch, and of each key the first that is not.
        self._passed, self._low = 0, self._borders[:-1]
        # Rows that ask nothing have the slot past the last, which no row ever gets.
        self.of_row = np.full(len(moments.codes), count, np.int64)
        self.of_row[asks[order]] = np.cumsum(new) - 1
        self._known_by_then = known_by_then
        self._times = np.full(count, LEAST)
        self._created = np.full(count, LEAST)
        self._places = np.full(count, -1, np.int64)
        self.winners = Winners(schema, count)

    def offer(self, batch: Batch) -> None:
        """Give each row to the first slot that could have known it, if that has no better one."""
        codes, moments = batch.codes, batch.times
        if not len(codes) or not len(self._asked):
            return
        if self._known_by_then and batch.created is not None:
            # What does not say when it was written was known to nobody.
            codes = np.where(batch.created == LEAST, -1, codes)
            moments = np.maximum(moments, batch.created)
        slots = self._first_to_know(codes, moments)
        rows = np.flatnonzero(slots >= 0)
        slots, times = slots.take(rows), batch.times.take(rows)
        before = self._times[slots]
        np.maximum.at(self._times, slots, times)
        best = np.flatnonzero(times == self._times[slots])
        slots, rows, tied = slots[best], rows[best], before[best] == times[best]
        if tied.any() or _repeated(slots, len(self._times)):
            slots, rows = self._break_ties(batch, slots, rows, tied)
        if not len(rows):
            return
        self._places[slots] = batch.places[rows]
        if batch.created is not None:
            self._created[slots] = batch.created[rows]
        self.winners.put(slots, batch.features, rows)

    def _first_to_know(self, codes: npt.NDArray[np.integer], moments: Integers) -> Integers:
        """Of each row's key the first slot that is not earlier than the row; -1: all are, or nobody asks.

        In a file by time a batch spans few slots, and the rows of a key without any of them share one answer:
        a single look-up. For the others it is a search by halves, for all rows at once, among those slots.
        """
        low, some = self._between(int(moments.min()), int(moments.max()))
        answers = np.where(some > 0, _SEARCH, np.where(low == self._borders[1:], -1, low))
        # Where -1, the code of a key that nobody asks for, points to.
        slots = np.append(answers, -1).take(codes)
        rows = np.flatnonzero(slots == _SEARCH)
        if len(rows):
            keys, asking = codes.take(rows), moments.take(rows)
            place = low.take(keys)
            top = place + some.take(keys)
            step = 1 << int(some.max()).bit_length() >> 1
            while step:
                ahead = place + step
                place += step * ((ahead <= top) & (self._asked.take(ahead - 1, mode="clip") < asking))
                step >>= 1
            place[place == self._borders.take(keys + 1)] = -1
            slots[rows] = place
        return slots

    def _between(self, first: int, last: int) -> tuple[Integers, Integers]:
        """Of each key the first slot that is not before a moment, and how many come then before another.

        Counted on from the batch before: that of a file by time costs only the slots of its own time.
        """
        start, end = np.searchsorted(self._asked_in_order, (first, last)).tolist()
        came, went = sorted((start, self._passed))
        moved = self._per_key(came, went)
        self._low = self._low - moved if start < self._passed else self._low + moved
        self._passed = start
        return self._low, self._per_key(start, end)

    def _per_key(self, start: int, end: int) -> Integers:
        """Of each key the number of slots among these, by time."""
        counts: Integers = np.bincount(self._codes_by_time[start:end], minlength=len(self._borders) - 1)
        return counts

    def _break_ties(
        self, batch: Batch, slots: Integers, rows: Integers, tied: npt.NDArray[np.bool_]
    ) -> tuple[Integers, Integers]:
        """Of rows with the latest time of their slot, the one created last, then the last in the source; not
        if the slot has a better one (`tied`: it has one of that time).
        """
        levels = [batch.places[rows]]
        if batch.created is not None:
            levels.append(batch.created[rows])
        order = np.lexsort((*levels, slots))
        order = order[np.append(slots[order][1:] != slots[order][:-1], True)]
        slots, rows, tied = slots[order], rows[order], tied[order]
        better = batch.places[rows] > self._places[slots]
        if batch.created is not None:
            mine, theirs = batch.created[rows], self._created[slots]
            better = (mine > theirs) | ((mine == theirs) & better)
        wins = better | ~tied
        return slots[wins], rows[wins]

    def result(self) -> tuple[Integers, Integers]:
        """For each slot, and one past the last, the slot that has its row (-1: none) and the row's time."""
        best = self._best_so_far() if self._known_by_then else self._nearest()
        return np.append(best, -1), np.append(self._times[best], LEAST)

    def _nearest(self) -> Integers:
        """For each slot the last one at or before it, of the same key, that has a row; -1: none has."""
        best: Integers = np.maximum.accumulate(np.where(self._places >= 0, np.arange(len(self._places)), -1))
        best[best < self._borders[self._codes]] = -1
        return best

    def _best_so_far(self) -> Integers:
        """The same where the last row to be known need not be the latest: the best of all that were."""
        order = np.lexsort((self._places, self._created, self._times))
        order = order[self._places[order] >= 0]
        rank = np.zeros(len(self._places), np.int64)
        rank[order] = np.arange(1, len(order) + 1)
        # Numbers that are greater for a later key begin anew with each.
        best = np.maximum.accumulate(self._codes * (len(order) + 1) + rank) % (len(order) + 1)
        found: Integers = np.append(-1, order).take(best)
        return found


def _repeated(numbers: Integers, limit: int) -> bool:
    """Whether one of these, which are below the limit, is there twice."""
    last = np.empty(limit, np.int64)
    last[numbers] = places = np.arange(len(numbers))
    return bool((last[numbers] != places).any())


def _by_key_and_time(codes: Integers, times: Integers) -> Integers:
    """Their order: as one number, where that holds both, in half of the time."""
    if not len(codes):
        return codes
    start = int(times.min())
    span = int(times.max()) - start + 1
    if (int(codes.max()) + 1) * span < 2**63:
        return np.argsort(codes * span + (times - start))
    return np.lexsort((times, codes))
