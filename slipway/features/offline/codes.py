"""Keys as small integers: the number of each history row's key among those that are asked for.

Of the ways to find it the cheapest that the type allows is taken: a table by value, else an Enum, whose
categories Polars hashes once, else a join.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl

Codes: TypeAlias = npt.NDArray[np.integer]
CODE = "slipway:code"
_INTEGERS = (pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32)


def coder(known: pl.DataFrame) -> Callable[[pl.DataFrame], Codes]:
    """A function from rows with these columns to the numbers of their keys in `known`; -1: not in it."""
    if not known.columns:
        return lambda rows: np.zeros(len(rows), np.int32)
    if len(known.columns) == 1:
        (keys,) = known.get_columns()
        if keys.dtype in _INTEGERS:
            low, high = int(keys.min()), int(keys.max())  # type: ignore[arg-type]
            # At most as large as a batch's times, or sixteen for each key.
            if high - low < max(1 << 17, 16 * len(keys)) and abs(low) < 1 << 62:
                return _by_value(keys, low, high)
        if keys.dtype == pl.String:
            return _by_text(keys)
    return _by_join(known)


def _by_value(keys: pl.Series, low: int, high: int) -> Callable[[pl.DataFrame], Codes]:
    # A place before the first and one past the last, for values that nobody asks for.
    table = np.full(high - low + 3, -1, np.int32)
    table[keys.to_numpy().astype(np.int64) - (low - 1)] = np.arange(len(keys))

    def codes(rows: pl.DataFrame) -> Codes:
        column = rows[keys.name].cast(pl.Int64)
        values = (column.fill_null(low - 1) if column.null_count() else column).to_numpy()
        # An overflow here wraps around to the other end, which is outside as well.
        return table.take(values - (low - 1), mode="clip")

    return codes


def _by_text(keys: pl.Series) -> Callable[[pl.DataFrame], Codes]:
    kind = pl.Enum(keys)

    def codes(rows: pl.DataFrame) -> Codes:
        found = rows[keys.name].cast(kind, strict=False).to_physical()
        return found.cast(pl.Int64).fill_null(-1).to_numpy()

    return codes


def _by_join(known: pl.DataFrame) -> Callable[[pl.DataFrame], Codes]:
    numbered = known.with_row_index(CODE)

    def codes(rows: pl.DataFrame) -> Codes:
        joined = rows.select(known.columns).join(
            numbered, on=known.columns, how="left", maintain_order="left"
        )
        return joined[CODE].cast(pl.Int64).fill_null(-1).to_numpy()

    return codes
