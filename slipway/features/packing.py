"""How the values of one entity and view lie in one blob, and how many blobs are read at once.

    digest   8 bytes   of the schema: names and types of fields and join keys
    event    8 bytes   microseconds since the epoch: when the values became known
    created  8 bytes   the same for the created timestamp, 0 where the source has none
    values             all Float64, then Int64 and UnixTimestamp, Float32, Int32, Bool; by name in each
    nulls              one bit a field, in that order, then the fields of varying size by name
    ends               4 bytes for each field of varying size: where it ends in the heap
    heap               their bytes

All numbers are little-endian. Blobs of one schema begin with equally long records, so that numpy reads those
of many entities as one table.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt

from slipway.errors import FeatureError

FORMAT = "slipway packed 1"
HEADER = 24
SLOTS: Final[Mapping[str, str]] = {
    "Float64": "<f8",
    "Int64": "<i8",
    "UnixTimestamp": "<i8",
    "Float32": "<f4",
    "Int32": "<i4",
    "Bool": "|b1",
}
GROUPS: Final = ("<f8", "<i8", "<f4", "<i4", "|b1")
_LETTERS: Final = {"<f8": "d", "<i8": "q", "<f4": "f", "<i4": "i", "|b1": "?"}
"""The same in the words of `struct`."""
TEXTS: Final = frozenset({"String", "Json", "Uuid", "TimeUuid", "Decimal"})
BINARIES: Final = frozenset({"Bytes", "PdfBytes", "ImageBytes"})
MESSAGES: Final = frozenset({"Map", "ScalarMap", "ZonedTimestamp"})
"""Kept as Feast's protobuf messages: they never feed a model, so the lookup need not read them."""

Bits = npt.NDArray[np.bool_]
Column = tuple[npt.NDArray[Any], Bits | None] | Sequence[bytes | None]
"""Values and which of them are present, for fields with a slot; the bytes of each, for all others."""


def item_type(dtype: str) -> str | None:
    """What an Array or Set is made of."""
    for word in ("Array(", "Set("):
        if dtype.startswith(word) and dtype.endswith(")"):
            return dtype[len(word) : -1]
    return None


def is_message(dtype: str) -> bool:
    inner = item_type(dtype)
    base = dtype if inner is None else inner
    return base in MESSAGES or base.startswith(("Struct(", "Array(", "Set("))


def is_supported(dtype: str) -> bool:
    inner = item_type(dtype)
    if inner is None:
        return dtype in SLOTS or dtype in TEXTS or dtype in BINARIES or is_message(dtype)
    return inner in SLOTS or inner in TEXTS or inner == "Bytes" or is_message(dtype)


class Packing:
    """The layout for one schema."""

    def __init__(
        self, fields: Iterable[tuple[str, str]], key_types: Mapping[str, str], *, where: str
    ) -> None:
        self.where = where
        self.types = dict(fields)
        for name, dtype in self.types.items():
            if not is_supported(dtype):
                raise FeatureError(
                    f"field {name!r} has type {dtype}, which the online store cannot keep",
                    where=where,
                    fix="give it one of Feast's value types, or leave it out of the view",
                )
        self.key_types = dict(key_types)
        self.digest = _digest(self.types, self.key_types)
        self.slots = {
            code: sorted(name for name, dtype in self.types.items() if SLOTS.get(dtype) == code)
            for code in GROUPS
        }
        self.heap_fields = sorted(name for name, dtype in self.types.items() if dtype not in SLOTS)
        self.order = [name for code in GROUPS for name in self.slots[code]] + self.heap_fields
        self.bit = {name: index for index, name in enumerate(self.order)}
        layout: list[Any] = [("digest", "<u8"), ("event", "<i8"), ("created", "<i8")]
        layout += [(code, code, (len(names),)) for code, names in self.slots.items() if names]
        layout.append(("nulls", "u1", ((len(self.order) + 7) // 8,)))
        if self.heap_fields:
            layout.append(("ends", "<u4", (len(self.heap_fields),)))
        self.record = np.dtype(layout)
        self.width = self.record.itemsize
        self.place = {name: (code, at) for code in GROUPS for at, name in enumerate(self.slots[code])}
        offsets = {name: self.record.fields[name][1] for name in self.record.names or ()}  # type: ignore[index]
        self.offsets = {code: offsets[code] for code, names in self.slots.items() if names}
        self._nulls_at = slice(offsets["nulls"], offsets["nulls"] + (len(self.order) + 7) // 8)
        self._no_nulls = bytes(self._nulls_at.stop - self._nulls_at.start)
        self._digest_bytes = self.digest.to_bytes(8, "little")
        self._numbers = struct.Struct(
            "<" + "".join(_LETTERS[code] * len(names) for code, names in self.slots.items())
        )
        self._absent = bytes(self.width)
        self._unfit = b"\xff" * self.width

    def pack(
        self, columns: Mapping[str, Column], event: npt.NDArray[np.int64], created: npt.NDArray[np.int64]
    ) -> list[bytes]:
        """One blob a row; `event` and `created` in microseconds."""
        rows = len(event)
        table = np.zeros(rows, self.record)
        table["digest"] = self.digest
        table["event"] = event
        table["created"] = created
        null = np.zeros((rows, len(self.order)), np.bool_)
        for name, (code, at) in self.place.items():
            values, present = cast(tuple[npt.NDArray[Any], Bits | None], columns[name])
            if present is None:
                table[code][:, at] = values
            else:
                table[code][present, at] = values[present]
                null[:, self.bit[name]] = ~present
        heaps: list[Sequence[bytes | None]] = []
        if self.heap_fields:
            lengths = np.zeros((rows, len(self.heap_fields)), np.uint32)
            for at, name in enumerate(self.heap_fields):
                items = cast(Sequence[bytes | None], columns[name])
                null[:, self.bit[name]] = [item is None for item in items]
                lengths[:, at] = [0 if item is None else len(item) for item in items]
                heaps.append(items)
            table["ends"] = np.cumsum(lengths, axis=1, dtype=np.uint32)
        table["nulls"] = np.packbits(null, axis=1, bitorder="little")
        raw, width = table.tobytes(), self.width
        heads = [raw[start : start + width] for start in range(0, rows * width, width)]
        if not heaps:
            return heads
        return [
            head + b"".join([item for item in items if item])
            for head, items in zip(heads, zip(*heaps, strict=True), strict=True)
        ]

    def read(self, blobs: Sequence[bytes | None]) -> npt.NDArray[np.void]:
        """One record a blob; its digest is 0 where there is no blob, not ours where it is of another schema
        or damaged. Everything else in such records is without meaning.
        """
        width, absent, unfit = self.width, self._absent, self._unfit
        if self.heap_fields:
            heads = [
                absent if blob is None else blob[:width] if len(blob) >= width else unfit for blob in blobs
            ]
        else:
            heads = [absent if blob is None else blob if len(blob) == width else unfit for blob in blobs]
        table = np.frombuffer(b"".join(heads), self.record)
        if self.heap_fields:
            table = self._refuse_torn(table, blobs)
        return table

    def _refuse_torn(
        self, table: npt.NDArray[np.void], blobs: Sequence[bytes | None]
    ) -> npt.NDArray[np.void]:
        ends = table["ends"].astype(np.int64)
        sizes = np.fromiter((0 if blob is None else len(blob) for blob in blobs), np.int64, len(blobs))
        ours = table["digest"] == self.digest
        whole = (ends[:, -1] + self.width == sizes) & (np.diff(ends, axis=1) >= 0).all(axis=1)
        if (whole | ~ours).all():
            return table
        table = table.copy()
        table["digest"][ours & ~whole] = np.uint64(0xFFFFFFFFFFFFFFFF)
        return table

    def clean_event(self, blob: bytes | None) -> int | None:
        """When the values of a blob without a heap became known, if it is of this schema and has no nulls.
        Nearly all are, and for a few of them no table need be made: a lookup of one row takes half as long.
        """
        found = self.head(blob) if blob is not None else None
        return found[0] if found is not None and not found[1] else None

    def head(self, blob: bytes) -> tuple[int, int] | None:
        """When the values of a blob without a heap became known, and a bit for each that is null; None: it
        has a heap, is of another schema, or is damaged.
        """
        if len(blob) != self.width or self.heap_fields or blob[:8] != self._digest_bytes:
            return None
        nulls = blob[self._nulls_at]
        event = int.from_bytes(blob[8:16], "little", signed=True)
        return event, 0 if nulls == self._no_nulls else int.from_bytes(nulls, "little")

    def clean_rows(self, blobs: Sequence[bytes | None]) -> list[tuple[int, tuple[Any, ...]]] | None:
        """Event time and values, in `order`, of each blob, if they all are such as `clean_event` takes."""
        rows = []
        for blob in blobs:
            event = self.clean_event(blob)
            if event is None or blob is None:
                return None
            rows.append((event, self._numbers.unpack_from(blob, HEADER)))
        return rows

    def nulls(self, table: npt.NDArray[np.void]) -> Bits:
        """(rows, fields in `order`)."""
        bits = np.unpackbits(table["nulls"], axis=1, count=len(self.order), bitorder="little")
        return bits.view(np.bool_)

    def heap(self, name: str, table: npt.NDArray[np.void], blobs: Sequence[bytes | None]) -> list[bytes]:
        """The bytes of a field of varying size, row by row; only rows of our digest may be asked for."""
        at = self.heap_fields.index(name)
        ends = table["ends"][:, at].tolist()
        starts = table["ends"][:, at - 1].tolist() if at else [0] * len(ends)
        width = self.width
        return [
            b"" if blob is None else blob[width + start : width + end]
            for blob, start, end in zip(blobs, starts, ends, strict=True)
        ]


def _digest(types: Mapping[str, str], key_types: Mapping[str, str]) -> int:
    lines = [FORMAT, *(f"{name}\t{dtype}" for name, dtype in sorted(types.items())), "of"]
    lines += [f"{name}\t{dtype}" for name, dtype in sorted(key_types.items())]
    digest = hashlib.blake2b("\n".join(lines).encode(), digest_size=8).digest()
    value = int.from_bytes(digest, "little")
    # 0 and all ones say "no blob" and "not readable".
    return value if 0 < value < 2**64 - 1 else 1


def pack_items(dtype: str, values: Any) -> bytes:
    """The items of an Array or Set: numbers side by side, texts with their ends before them."""
    inner = item_type(dtype) or ""
    if inner in SLOTS:
        return np.asarray(values, SLOTS[inner]).tobytes()
    items = [value.encode() if isinstance(value, str) else bytes(value) for value in values]
    ends = np.cumsum([len(item) for item in items], dtype="<u4")
    return len(items).to_bytes(4, "little") + ends.astype("<u4").tobytes() + b"".join(items)


def unpack_items(dtype: str, raw: bytes) -> npt.NDArray[Any] | list[str] | list[bytes]:
    inner = item_type(dtype) or ""
    if inner in SLOTS:
        return np.frombuffer(raw, SLOTS[inner]) if raw else np.empty(0, SLOTS[inner])
    if not raw:
        # Of a null: an empty list says that it has no items.
        return []
    count = int.from_bytes(raw[:4], "little")
    ends = np.frombuffer(raw, "<u4", count, 4).tolist()
    heap = raw[4 + 4 * count :]
    items = [heap[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    return [item.decode() for item in items] if inner in TEXTS else items
