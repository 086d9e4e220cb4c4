"""Each way to number keys gives what a dictionary gives."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import polars as pl
import pytest

from slipway.features.offline.ahead import ahead
from slipway.features.offline.codes import coder

EDGE = 2**63 - 1


@pytest.mark.parametrize(
    ("known", "asked"),
    [
        ([3, 1, 2], [1, 2, 3, 4, 0, None, -EDGE - 1, EDGE]),
        ([-5, 5], [-6, -5, 0, 5, 6, None]),
        ([-EDGE - 1, EDGE], [-EDGE - 1, EDGE, 0, None]),
        ([EDGE - 1, EDGE], [EDGE, EDGE - 1, EDGE - 2, -EDGE - 1, None]),
        ([1, 10**12], [10**12, 1, 2, None]),
        (["b", "a", ""], ["a", "b", "c", "", None, "ä"]),
        ([0.5, 1.0], [1.0, 0.5, 2.0, None]),
    ],
)
def test_a_key_has_its_number_and_no_other_value_has_one(known: list[object], asked: list[object]) -> None:
    numbers = {key: number for number, key in enumerate(known)}
    found = coder(pl.DataFrame({"key": known}))(pl.DataFrame({"key": asked}))
    assert found.tolist() == [numbers.get(key, -1) for key in asked]


@pytest.mark.parametrize("kind", [pl.Int8, pl.UInt8, pl.Int32, pl.UInt32, pl.UInt64])
def test_integers_of_every_width(kind: type[pl.DataType]) -> None:
    known, asked = pl.Series("key", [100, 3], kind), pl.Series("key", [3, 100, 7, None, 0], kind)
    assert coder(known.to_frame())(asked.to_frame()).tolist() == [1, 0, -1, -1, -1]


def test_several_columns_and_none() -> None:
    known = pl.DataFrame({"a": [1, 1], "b": ["x", "y"]})
    asked = pl.DataFrame({"a": [1, 1, 2, None], "b": ["y", "x", "x", "x"]})
    assert coder(known)(asked).tolist() == [1, 0, -1, -1]
    assert coder(pl.DataFrame(height=1))(pl.DataFrame({"c": [7, 8]})).tolist() == [0, 0]


def test_ahead_gives_all_in_order_and_what_is_raised() -> None:
    def items() -> Iterator[int]:
        yield from range(10)
        raise ValueError("at the end")

    taken = ahead(items())
    assert [next(taken) for _ in range(10)] == list(range(10))
    with pytest.raises(ValueError, match="at the end"):
        next(taken)
    assert list(ahead(iter(range(5)))) == [0, 1, 2, 3, 4]


def test_who_stops_early_leaves_no_thread_behind() -> None:
    made = []

    def items() -> Iterator[np.ndarray]:
        for number in range(1000):
            made.append(number)
            yield np.zeros(1)

    taken = ahead(items())
    next(taken)
    taken.close()  # type: ignore[attr-defined]
    count = len(made)
    time.sleep(0.25)
    assert len(made) == count < 10
