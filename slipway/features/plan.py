"""What a lookup works out once: which bytes of which blob go to which column of which tensor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from slipway.contract import Column, View
from slipway.features.keys import KeyMaker
from slipway.features.packing import Packing


class Target:
    """One tensor of the answer."""

    def __init__(self, name: str, dtype: Any, columns: Sequence[Column], *, flat: bool, empty: Any) -> None:
        self.name = name
        self.dtype = np.dtype(dtype)
        self.flat = flat
        defaults = [empty if column.default is None else column.default for column in columns]
        self.defaults = np.empty(len(columns), self.dtype)
        self.defaults[:] = defaults

    def blank(self, rows: int) -> npt.NDArray[Any]:
        return np.empty((rows, len(self.defaults)), self.dtype)


class Block:
    """Columns that one group of a view's records fills at once."""

    def __init__(self, target: int, code: str, count: int, offset: int) -> None:
        self.target = target
        self.code = code
        self.dtype = np.dtype(code)
        self.count = count
        """Of this group in the record, which begins at `offset` of the blob."""
        self.offset = offset
        self.source: list[int] = []
        self.place: list[int] = []
        self.to: Any = None
        self.take: Any = None

    def seal(self) -> None:
        self.to, self.take = _index(self.place), _index(self.source)


def _index(at: list[int]) -> Any:
    """A slice where that is the same: numpy copies slices, but gathers lists."""
    if at == list(range(at[0], at[0] + len(at))):
        return slice(at[0], at[0] + len(at))
    return np.array(at)


class ViewPlan:
    def __init__(self, project: str, view: View) -> None:
        self.name = view.name
        stored = view.source or view.name
        self.keys = KeyMaker(project, stored, view.join_keys, view.key_types)
        fields = [(field.name, field.dtype) for field in view.fields]
        self.packing = Packing(fields, view.key_types, where=f"view {stored}")
        self.ttl = round(view.ttl_seconds * 1e6)
        self.blocks: dict[tuple[int, str], Block] = {}
        self.heaps: list[tuple[int, int, str]] = []
        """(target, place in it, field) of columns that are not numbers."""
        self.columns: list[int] = []
        self.bits: list[int] = []
        self.places: list[tuple[int, int]] = []

    def add(self, column: int, target: int, place: int, field: str) -> None:
        self.columns.append(column)
        self.bits.append(self.packing.bit[field])
        self.places.append((target, place))
        if field in self.packing.place:
            code, at = self.packing.place[field]
            if (target, code) not in self.blocks:
                offset = self.packing.offsets[code]
                self.blocks[target, code] = Block(target, code, len(self.packing.slots[code]), offset)
            block = self.blocks[target, code]
            block.source.append(at)
            block.place.append(place)
        else:
            self.heaps.append((target, place, field))

    def seal(self) -> None:
        for block in self.blocks.values():
            block.seal()
        self.to = _index(self.columns) if self.columns else slice(0, 0)
        self.by_target: list[tuple[int, Any, Any]] = []
        """(target, its columns, which of this view's columns they are)."""
        for target in sorted({target for target, _ in self.places}):
            mine = [at for at, (owner, _) in enumerate(self.places) if owner == target]
            self.by_target.append((target, _index([self.places[at][1] for at in mine]), _index(mine)))
