"""Features of every type, put to slots batch by batch, come back as they went in."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import polars as pl
import pytest

from slipway.features.offline import winners
from slipway.features.offline.winners import Winners

KINDS: dict[str, tuple[pl.DataType, list[Any]]] = {
    "small": (pl.Int8(), [-128, 127, 0]),
    "large": (pl.UInt64(), [2**64 - 1, 0, 7]),
    "int": (pl.Int64(), [-(2**63), 2**63 - 1, 5]),
    "single": (pl.Float32(), [0.5, float("-inf"), -0.25]),
    "double": (pl.Float64(), [1e308, -1e-308, 0.1]),
    "truth": (pl.Boolean(), [True, False, True]),
    "day": (pl.Date(), [date(2013, 1, 1), date(1969, 7, 20), date(2100, 2, 28)]),
    "moment": (
        pl.Datetime("us", "UTC"),
        [
            datetime(2013, 1, 1, tzinfo=UTC),
            datetime(1969, 1, 1, tzinfo=UTC),
            datetime(2013, 7, 1, tzinfo=UTC),
        ],
    ),
    "local": (pl.Datetime("ms"), [datetime(2013, 1, 1, 5), datetime(2013, 1, 2), datetime(2013, 1, 3)]),
    "span": (pl.Duration("us"), [timedelta(1), timedelta(-1), timedelta(microseconds=1)]),
    "clock": (pl.Time(), [time(1, 2, 3), time(23, 59, 59), time(0)]),
    "text": (pl.String(), ["a", "", "ä long one that is not kept in place"]),
    "bytes": (pl.Binary(), [b"\x00", b"", b"12345678901234567890"]),
    "list": (pl.List(pl.Int64()), [[1, 2], [], [3]]),
    "exact": (pl.Decimal(38, 2), [Decimal("1.25"), Decimal("-9.99"), Decimal("0.00")]),
    "struct": (pl.Struct({"x": pl.Int64()}), [{"x": 1}, {"x": None}, {"x": 3}]),
}


@pytest.mark.parametrize("worth_threads", [0, winners.WORTH_THREADS])
@pytest.mark.parametrize("held", [0, 2_000, winners.HELD_BYTES])
@pytest.mark.parametrize("gaps", [False, True])
def test_values_of_every_type(
    held: int, gaps: bool, worth_threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(winners, "HELD_BYTES", held)
    monkeypatch.setattr(winners, "WORTH_THREADS", worth_threads)
    random = np.random.default_rng(held + gaps)
    schema = pl.Schema({name: kind for name, (kind, _) in KINDS.items()})
    kept, expected = Winners(schema, 50), dict.fromkeys(range(-1, 50))
    for number in range(8):
        # Every other batch is without gaps, as when a feature was filled at first and later not.
        missing = gaps and number % 2
        rows = [
            {
                name: None if missing and random.random() < 0.3 else values[random.integers(3)]
                for name, (_, values) in KINDS.items()
            }
            for _ in range(30)
        ]
        chosen, slots = random.choice(30, 12, replace=False), random.choice(45, 12, replace=False)
        kept.put(slots, pl.DataFrame(rows, schema=schema), chosen)
        expected |= {slot: rows[row] for slot, row in zip(slots.tolist(), chosen.tolist(), strict=True)}
    asked = random.integers(-1, 50, 200)
    nothing = dict.fromkeys(KINDS)
    found = kept.take(asked)
    assert found.to_pylist() == [expected[slot] or nothing for slot in asked.tolist()]
    assert [str(found.schema.field(name).type) for name in ("text", "bytes", "list", "moment")] == [
        "string",
        "binary",
        "list<item: int64>",
        "timestamp[us, tz=UTC]",
    ]


def test_nothing_was_put() -> None:
    schema = pl.Schema({"number": pl.Int64, "text": pl.String})
    assert Winners(schema, 3).take(np.array([0, -1, 2])).to_pylist() == [
        {"number": None, "text": None} for _ in range(3)
    ]


def test_more_batches_than_their_numbers_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(winners, "HELD_FRAMES", 3)
    kept = Winners(pl.Schema({"number": pl.Int64}), 4)
    for number in range(20):
        kept.put(np.array([number % 3]), pl.DataFrame({"number": [-1, number]}), np.array([1]))
    assert kept.take(np.array([3, 2, 1, 0, -1]))["number"].to_pylist() == [None, 17, 19, 18, None]
