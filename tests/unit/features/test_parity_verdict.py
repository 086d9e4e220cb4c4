"""What parity says of values that are missing on either side, or on both."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

import pytest

from slipway.contract import GateResult
from slipway.features.parity import _judge, _outcome, plain

MOMENT = datetime(2013, 4, 1, 20, tzinfo=UTC)


@pytest.mark.parametrize(
    ("offline", "found", "status", "outcome"),
    [
        (None, None, "null", "equal"),
        # Nobody knows the entity here or there: that is one and the same.
        (None, None, "not_found", "equal"),
        (None, None, "stale", "equal"),
        (1.5, None, "null", "missing"),
        (1.5, None, "not_found", "missing"),
        (1.5, None, "stale", "stale"),
        (None, 1.5, "present", "different"),
        (None, None, "unreadable", "different"),
        (0.0, None, "null", "missing"),
        ("", None, "null", "missing"),
    ],
)
def test_a_null_equals_a_null_and_nothing_else(
    offline: object, found: object, status: str, outcome: str
) -> None:
    assert _outcome(offline, found, status) == outcome


def test_a_nan_is_a_null_and_a_zero_is_none() -> None:
    assert plain(float("nan"), "Float64") is None
    assert plain(None, "Float64") is None
    assert plain(0.0, "Float64") == 0.0
    assert plain(0, "Int64") == 0


def judged(sampled: int, *, known: bool, tolerance: float = 0.0, **tally: int) -> GateResult:
    counts = {"delays__mean": {"lookup": Counter(tally)}}
    return _judge({"delays": sampled}, known, counts, [], tolerance, MOMENT, 0, ["lookup"])


def test_nulls_alone_prove_nothing() -> None:
    result = judged(10, known=False, equal=10)
    assert result.verdict == "inconclusive"
    assert "no entity has a value as of 2013-04-01T20:00:00+00:00" in result.reason
    assert judged(10, known=True, equal=10).verdict == "pass"
    nobody = judged(0, known=False)
    assert (nobody.verdict, nobody.reason) == ("inconclusive", "no entities to compare in: delays")


def test_one_wrong_value_fails_even_where_all_others_are_null() -> None:
    result = judged(10, known=False, equal=9, missing=1)
    assert (result.verdict, result.reason) == ("fail", "1 of 10 values are not equal offline and online")
    assert result.evidence["worst"] == {"delays__mean": 1}
    within = judged(10, known=True, tolerance=0.1, equal=9, stale=1)
    assert within.verdict == "pass"
    assert "within the tolerance of 0.1" in within.reason
