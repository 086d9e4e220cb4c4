from __future__ import annotations

import time

import pytest

from serving.client.retry import Attempts, Retry
from slipway.errors import DeadlineExceeded, Overloaded, ServerUnreachable

DOWN = ServerUnreachable("down")


def test_waits_double_and_half_of_each_is_random() -> None:
    attempts = Attempts(Retry(attempts=6, first=1.0, longest=5.0), timeout=1000)
    waits = [attempts.wait(DOWN) for _ in range(6)]
    assert waits[-1] is None
    for wait, full in zip(waits, (1, 2, 4, 5, 5), strict=False):
        assert wait is not None
        assert full / 2 <= wait <= full


def test_a_longer_retry_after_is_honoured() -> None:
    attempts = Attempts(Retry(first=0.01), timeout=1000)
    assert attempts.wait(Overloaded("full", retry_after=7.0)) == 7.0


def test_no_wait_beyond_the_deadline() -> None:
    attempts = Attempts(Retry(), timeout=2.0)
    assert attempts.wait(Overloaded("full", retry_after=3.0)) is None


def test_the_deadline_says_how_long_and_how_often() -> None:
    attempts = Attempts(Retry(), timeout=0.01)
    time.sleep(0.02)
    with pytest.raises(DeadlineExceeded, match=r"no answer within 0\.01 s \(1 attempts\)"):
        attempts.remaining()


def test_one_attempt_is_no_retry() -> None:
    assert Attempts(Retry(attempts=1), timeout=10).wait(DOWN) is None
