"""The join itself, batch by batch, against a slow search through all rows."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipway.features.offline import winners
from slipway.features.offline.asof import LEAST, Batch, Moments, latest_rows

KEYS, TIMES = st.integers(-1, 3), st.integers(-6, 6)


class Row(NamedTuple):
    key: int
    time: int
    created: int


class Ask(NamedTuple):
    key: int
    time: int
    later: bool


rows = st.builds(Row, KEYS, TIMES, st.one_of(st.just(LEAST), TIMES))
# Codes are dense: every key that a history can have is asked for once.
asks = st.lists(st.builds(Ask, KEYS, TIMES, st.booleans()), max_size=20).map(
    lambda some: [*some, *(Ask(key, 0, False) for key in range(4))]
)


def slow(asked: Ask, history: Sequence[Row], ttl: int | None, known_by_then: bool, created: bool) -> int:
    """The place of the best row; -1: none."""
    best = -1
    for place, row in enumerate(history):
        if asked.key < 0 or row.key != asked.key or row.time > asked.time:
            continue
        if known_by_then and created and (row.created == LEAST or row.created > asked.time):
            continue
        if best < 0 or (row.time, row.created * created) >= (
            history[best].time,
            history[best].created * created,
        ):
            best = place
    if best >= 0 and ttl is not None:
        age = asked.time - history[best].time
        if age > ttl or (age == ttl and asked.later):
            return -1
    return best


@pytest.mark.parametrize("held", [0, winners.HELD_BYTES])
@settings(max_examples=100, deadline=None)
@given(
    st.lists(rows, max_size=40),
    asks,
    st.lists(st.integers(0, 40), max_size=6),
    st.randoms(use_true_random=False),
    st.one_of(st.none(), st.integers(0, 6)),
    st.booleans(),
    st.booleans(),
)
def test_finds_what_a_search_through_all_rows_finds(
    held: int,
    history: list[Row],
    asked: list[Ask],
    cuts: list[int],
    shuffle: object,
    ttl: int | None,
    known_by_then: bool,
    created: bool,
) -> None:
    order = list(range(len(history)))
    shuffle.shuffle(order)  # type: ignore[attr-defined]
    borders = [0, *sorted(min(cut, len(order)) for cut in cuts), len(order)]
    batches = [
        Batch(
            codes=np.array([history[at].key for at in part], np.int32),
            times=np.array([history[at].time for at in part], np.int64),
            created=np.array([history[at].created for at in part], np.int64) if created else None,
            places=np.array(part, np.uint32),
            features=pl.DataFrame(
                {"place": part, "text": [f"row {place}" for place in part]},
                schema={"place": pl.Int64, "text": pl.String},
            ),
        )
        for start, end in itertools.pairwise(borders)
        for part in [order[start:end]]
    ]
    moments = Moments(
        np.array([ask.key for ask in asked], np.int64),
        np.array([ask.time for ask in asked], np.int64),
        np.array([ask.later for ask in asked], np.bool_),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(winners, "HELD_BYTES", held)
        found = latest_rows(
            moments,
            batches,
            pl.Schema({"place": pl.Int64, "text": pl.String}),
            ttl=ttl,
            known_by_then=known_by_then,
        )
    best = [slow(ask, history, ttl, known_by_then, created) for ask in asked]
    assert found["place"].to_pylist() == [place if place >= 0 else None for place in best]
    # A value of no fixed width goes another way.
    assert found["text"].to_pylist() == [f"row {place}" if place >= 0 else None for place in best]


def test_a_key_with_many_moments_is_searched_by_halves() -> None:
    random = np.random.default_rng(5)
    times = random.integers(0, 10**15, 20_000)
    asked = np.append(random.choice(times, 15_000), random.integers(0, 10**15, 15_000))
    batches = [
        Batch(
            codes=np.zeros(len(part), np.int32),
            times=times[part],
            created=None,
            places=part,
            features=pl.DataFrame({"time": times[part]}),
        )
        for part in np.array_split(np.arange(len(times)), 7)
    ]
    moments = Moments(np.zeros(len(asked), np.int64), asked, np.zeros(len(asked), np.bool_))
    found = latest_rows(moments, batches, pl.Schema({"time": pl.Int64}), ttl=None)["time"].to_pylist()
    ordered = np.sort(times)
    nearest = np.searchsorted(ordered, asked, side="right") - 1
    assert found == [ordered[at] if at >= 0 else None for at in nearest]
