"""When to ask again, and how long to wait before."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass

from slipway.errors import DeadlineExceeded, ModelNotReady, Overloaded, ServerUnreachable


@dataclass(frozen=True)
class Retry:
    """Up to `attempts` in all. The wait doubles from `first` seconds up to `longest`; half of it is random,
    so that clients which were refused together do not come back together. A longer Retry-After is honoured.
    """

    attempts: int = 4
    first: float = 0.1
    longest: float = 5.0


AGAIN = (Overloaded, ModelNotReady, ServerUnreachable)
"""What passes by itself. Inference changes nothing, so asking twice is safe."""


class Attempts:
    """The attempts of one call, within one deadline."""

    def __init__(self, policy: Retry, timeout: float) -> None:
        self._policy = policy
        self._timeout = timeout
        self._deadline = time.monotonic() + timeout
        self._made = 0

    def remaining(self) -> float:
        """Seconds that are left; raises when none are."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise self.late()
        return left

    def late(self) -> DeadlineExceeded:
        return DeadlineExceeded(
            f"no answer within {self._timeout:g} s ({self._made + 1} attempts)",
            where="the client",
            fix="give more time (timeout=...), or look at the server's load",
        )

    def wait(self, error: Exception) -> float | None:
        """Seconds to wait before asking again, or None: give up with this error."""
        self._made += 1
        if self._made >= self._policy.attempts:
            return None
        pause = min(self._policy.first * 2 ** (self._made - 1), self._policy.longest)
        pause = pause / 2 + random.uniform(0, pause / 2)
        if isinstance(error, Overloaded):
            pause = max(pause, error.retry_after)
        return pause if time.monotonic() + pause < self._deadline else None
