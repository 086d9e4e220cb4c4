"""The point-in-time join: for each entity row the latest row of a history that it could have known.

The history is read once, batch by batch, and never sorted or held. What is held is the entity rows: their
distinct (key, time) pairs, in order, are *slots*. A history row lands in the first slot of its key whose time
is not before its own: for all later slots it counts as well, for all earlier ones it does not exist yet. A
slot keeps the best row that landed in it, and at the end takes over its predecessor's where it has none. So
memory grows with the entity rows and not with the history, and neither side's order matters.

On 1 M rows x 10 features and 100 k entity rows this costs about 0.2 s of CPU beside the read, for 10 rows a
key as for 1000; Polars' own join_asof by key costs 0.5 s for 10 rows a key and 0.16 s for 1000.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl

Integers: TypeAlias = npt.NDArray[np.int64]

CODE = "__code"
TIME = "__time"
CREATED = "__created"
ROW = "__row"
HELPERS = (CODE, TIME, CREATED, ROW)
"""Columns of a batch that are not features: the key's number, times as integers, the place in the source."""

LEAST = np.iinfo(np.int64).min


@dataclass(frozen=True)
class Moments:
    """The entity rows' side: which key each row asks for, and as of when, in the history's time unit."""

    codes: Integers
    """Number of the row's key; -1 where a key or the time is null: such a row finds nothing."""
    times: Integers
    later: npt.NDArray[np.bool_]
    """Whether the true time is later than `times` by less than one unit of the history's clock."""


def latest_rows(
    moments: Moments,
    batches: Iterable[pl.DataFrame],
    schema: pl.Schema,
    *,
    ttl: int | None,
    known_by_then: bool = False,
) -> pl.DataFrame:
    """One row of features for each entity row, in order; nulls where nothing was known.

    `schema` names the features of the batches. `ttl` is in the history's time unit and counts to its very
    end: a value that is exactly that old is still good. With `known_by_then` a row whose CREATED is later
    than the asking time is as if it did not exist.
    """
    slots = _Slots(moments)
    holders = _Holders(slots.count, schema)
    for batch in batches:
        times = batch[TIME].to_numpy()
        levels = [times, batch[ROW].to_numpy()]
        visible = times
        if CREATED in batch.columns:
            created = batch[CREATED].fill_null(LEAST).to_numpy()
            levels.insert(1, created)
            if known_by_then:
                visible = np.where(created == LEAST, np.iinfo(np.int64).max, np.maximum(times, created))
        rows, places = slots.locate(batch[CODE].to_numpy(), visible)
        holders.offer(batch, rows, places, levels)
    features, places, times, order = holders.result()

    if known_by_then:
        # A row that was written late can lie in a later slot than a row with a later event time.
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order))
    else:
        rank = places
    winners = slots.carry(places, rank)[slots.of_row]
    if ttl is not None and len(times):
        # The difference cannot overflow: a winner is not later than its entity row, and both lie within
        # the range of a clock that starts at 1970.
        age = moments.times - times[winners]
        winners = np.where((age < ttl) | ((age == ttl) & ~moments.later), winners, -1)
    index = pl.Series(winners).to_frame("at").select(pl.when(pl.col("at") >= 0).then(pl.col("at")))["at"]
    return features.select(pl.all().gather(index)) if len(features) else features.clear(len(index))


class _Slots:
    """The distinct (key, time) pairs of the entity rows, by key and then by time."""

    def __init__(self, moments: Moments) -> None:
        asks = np.flatnonzero(moments.codes >= 0)
        self._times, ranks = np.unique(moments.times[asks], return_inverse=True)
        # One more than there are times: a history row later than all of them gets a rank of its own.
        self._stride = len(self._times) + 1
        self._pairs, places = np.unique(moments.codes[asks] * self._stride + ranks, return_inverse=True)
        self.count = len(self._pairs)
        # Past the last slot stands a key that nobody has.
        self._codes = np.append(self._pairs // self._stride, -1)
        self.of_row = np.full(len(moments.codes), self.count, np.int64)
        self.of_row[asks] = places

    def locate(self, codes: npt.NDArray[np.integer], times: Integers) -> tuple[Integers, Integers]:
        """Which of these history rows matter to anybody, and the slot of each."""
        pairs = codes.astype(np.int64) * self._stride + np.searchsorted(self._times, times)
        # In order, the search runs through the slots instead of jumping: sort and search cost half of it.
        order = np.argsort(pairs)
        places = np.searchsorted(self._pairs, pairs[order])
        found = self._codes[places] == codes[order]
        return order[found], places[found]

    def carry(self, places: Integers, rank: Integers) -> Integers:
        """For each slot, and one past the last, the index of the best candidate in it or before it; -1: none.

        `places` are the candidates' slots, no two the same; of two candidates of a key the one with the
        higher rank wins.
        """
        none = np.int64(0)
        width = int(rank.max()) + 2 if len(rank) else 1
        score = self._codes[:-1] * width + none
        score[places] += rank + 1
        best = np.maximum.accumulate(score) % width - 1
        by_rank = np.full(width, -1, np.int64)
        by_rank[rank] = np.arange(len(rank))
        return np.append(by_rank[best], -1)


class _Holders:
    """The best history row of each slot so far, with its features."""

    def __init__(self, slots: int, schema: pl.Schema) -> None:
        self._schema = schema
        self._best = [np.full(slots, LEAST) for _ in range(3)]
        self._kept: list[pl.DataFrame] = []
        self._count = 0
        self._room = max(2 * slots, 100_000)

    def offer(self, batch: pl.DataFrame, rows: Integers, places: Integers, levels: list[Integers]) -> None:
        """Keep of these rows of a batch those that are now the best of their slots."""
        alive = np.arange(len(rows))
        for depth, level in enumerate(levels):
            mine, place, best = level[rows[alive]], places[alive], self._best[depth]
            before = best[place]
            np.maximum.at(best, place, mine)
            wins = mine == best[place]
            for lower in self._best[depth + 1 :]:
                lower[place[wins & (mine > before)]] = LEAST
            alive = alive[wins]
        if len(alive):
            kept = batch[rows[alive]].with_columns(pl.Series(CODE, places[alive]))
            self._kept.append(kept)
            self._count += len(kept)
            if self._count > self._room:
                self._kept = [self._compact()]
                self._count = len(self._kept[0])

    def _compact(self) -> pl.DataFrame:
        """A row that was kept later beat the one that held its slot: the last of a slot is the best."""
        everything = pl.concat(self._kept)
        last = np.full(len(self._best[0]), -1, np.int64)
        last[everything[CODE].to_numpy()] = np.arange(len(everything))
        return everything[last[last >= 0]]

    def result(self) -> tuple[pl.DataFrame, Integers, Integers, Integers]:
        """Features, slots and times of the best rows, and their order from worst to best."""
        if not self._kept:
            nothing = np.empty(0, np.int64)
            return self._schema.to_frame(), nothing, nothing, nothing
        rows = self._compact()
        by = [name for name in (TIME, CREATED, ROW) if name in rows.columns]
        order = rows.select(pl.arg_sort_by(by, nulls_last=False)).to_series().to_numpy().astype(np.int64)
        return rows.select(self._schema.names()), rows[CODE].to_numpy(), rows[TIME].to_numpy(), order
