"""What time it is: a recorded year can be replayed against TTLs as if it were live."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from slipway.errors import SettingsError


def parse_clock(setting: str) -> float | None:
    """Seconds since the epoch for a fixed clock, None for the wall clock."""
    if setting == "wall":
        return None
    try:
        moment = datetime.fromisoformat(setting)
    except ValueError as error:
        raise SettingsError(
            f"features.clock is {setting!r}", fix="set it to `wall` or to a time such as 2013-07-01T12:00:00Z"
        ) from error
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return moment.timestamp()


def now(setting: str = "wall") -> float:
    """Seconds since the epoch, by that clock."""
    fixed = parse_clock(setting)
    return time.time() if fixed is None else fixed
