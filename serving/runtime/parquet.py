"""A Parquet writer of the smallest useful kind: flat columns, one row group, plain pages, gzip.

pyarrow is 120 MB, more than all else in the serving image together. Columns are bool, int64, double, string
or timestamp, each may hold nulls. The tests read the files with pyarrow, polars and duckdb.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

Kind = Literal["bool", "int64", "double", "string", "timestamp"]

MAGIC = b"PAR1"
_PHYSICAL = {"bool": 0, "int64": 2, "timestamp": 2, "double": 5, "string": 6}
_STOP = b"\x00"
_GZIP, _PLAIN, _RLE, _OPTIONAL = 2, 0, 3, 1


def write_parquet(columns: Mapping[str, tuple[Kind, Sequence[Any]]]) -> bytes:
    """The file's bytes. None is null; timestamps are whole microseconds since the epoch, UTC."""
    if not columns:
        raise ValueError("a table needs a column")
    counts = {len(values) for _, values in columns.values()}
    if len(counts) != 1:
        raise ValueError("columns of different length")
    rows = counts.pop()
    parts, position = [MAGIC], len(MAGIC)
    chunks = []
    total = 0
    for name, (kind, values) in columns.items():
        page, plain_size = _page(kind, values)
        chunks.append(_column_chunk(name, kind, rows, position, len(page), plain_size))
        parts.append(page)
        position += len(page)
        total += plain_size
    schema = [_binary(4, b"schema") + _i32(5, len(columns), after=4) + _STOP]
    schema += [_schema_element(name, kind) for name, (kind, _) in columns.items()]
    row_group = _list(1, chunks) + _i64(2, total, after=1) + _i64(3, rows, after=2) + _STOP
    footer = (
        _i32(1, 1)
        + _list(2, schema, after=1)
        + _i64(3, rows, after=2)
        + _list(4, [row_group], after=3)
        + _binary(6, b"slipway", after=4)
        + _STOP
    )
    parts += [footer, struct.pack("<I", len(footer)), MAGIC]
    return b"".join(parts)


# -- pages -----------------------------------------------------------------------------------------------


def _page(kind: Kind, values: Sequence[Any]) -> tuple[bytes, int]:
    """One data page with its header, and its size before compression."""
    present = [value for value in values if value is not None]
    levels = _definition_levels([value is not None for value in values])
    plain = struct.pack("<I", len(levels)) + levels + _plain(kind, present)
    compressor = zlib.compressobj(1, zlib.DEFLATED, 31)
    packed = compressor.compress(plain) + compressor.flush()
    data_header = (
        _i32(1, len(values))
        + _i32(2, _PLAIN, after=1)
        + _i32(3, _RLE, after=2)
        + _i32(4, _RLE, after=3)
        + _STOP
    )
    header = (
        _i32(1, 0)
        + _i32(2, len(plain), after=1)
        + _i32(3, len(packed), after=2)
        + _struct(5, data_header, after=3)
        + _STOP
    )
    return header + packed, len(header) + len(plain)


def _plain(kind: Kind, values: list[Any]) -> bytes:
    if kind == "double":
        return struct.pack(f"<{len(values)}d", *values)
    if kind in ("int64", "timestamp"):
        return struct.pack(f"<{len(values)}q", *values)
    if kind == "bool":
        return _bits(values)
    texts = [value if isinstance(value, bytes) else str(value).encode() for value in values]
    return b"".join([part for text in texts for part in (struct.pack("<I", len(text)), text)])


def _bits(flags: Sequence[bool]) -> bytes:
    """Eight to a byte, the first in the lowest bit."""
    packed = bytearray(math.ceil(len(flags) / 8))
    for place, flag in enumerate(flags):
        if flag:
            packed[place >> 3] |= 1 << (place & 7)
    return bytes(packed)


def _definition_levels(present: list[bool]) -> bytes:
    """One bit a row in the RLE/bit-packing hybrid: a single run where all are alike."""
    if not present:
        return b""
    if all(present) or not any(present):
        return _varint(len(present) << 1) + bytes([int(present[0])])
    return _varint(math.ceil(len(present) / 8) << 1 | 1) + _bits(present)


# -- the thrift compact protocol ---------------------------------------------------------------------------


def _schema_element(name: str, kind: Kind) -> bytes:
    """SchemaElement: type 1, repetition 3, name 4, converted type 6, logical type 10."""
    text = _i32(1, _PHYSICAL[kind]) + _i32(3, _OPTIONAL, after=1) + _binary(4, name.encode(), after=3)
    if kind == "string":
        return text + _i32(6, 0, after=4) + _struct(10, _struct(1, _STOP) + _STOP, after=6) + _STOP
    if kind == "timestamp":
        # TIMESTAMP(isAdjustedToUTC=true, unit=MICROS); the older converted type says the same.
        micros = _struct(2, _STOP) + _STOP
        stamp = _true(1) + _struct(2, micros, after=1) + _STOP
        return text + _i32(6, 10, after=4) + _struct(10, _struct(8, stamp) + _STOP, after=6) + _STOP
    return text + _STOP


def _column_chunk(name: str, kind: Kind, rows: int, offset: int, size: int, plain_size: int) -> bytes:
    encodings = _field(2, 9) + bytes([2 << 4 | 5]) + _zigzag(_PLAIN) + _zigzag(_RLE)
    path = _field(3, 9, after=2) + bytes([1 << 4 | 8]) + _varint(len(name.encode())) + name.encode()
    metadata = (
        _i32(1, _PHYSICAL[kind])
        + _field(2, 9, after=1)
        + encodings[1:]
        + path
        + _i32(4, _GZIP, after=3)
        + _i64(5, rows, after=4)
        + _i64(6, plain_size, after=5)
        + _i64(7, size, after=6)
        + _i64(9, offset, after=7)
        + _STOP
    )
    return _i64(2, offset) + _struct(3, metadata, after=2) + _STOP


def _field(number: int, kind: int, after: int = 0) -> bytes:
    """Fields are numbered by the step from the one before."""
    return bytes([(number - after) << 4 | kind])


def _true(number: int, after: int = 0) -> bytes:
    return _field(number, 1, after)


def _i32(number: int, value: int, after: int = 0) -> bytes:
    return _field(number, 5, after) + _zigzag(value)


def _i64(number: int, value: int, after: int = 0) -> bytes:
    return _field(number, 6, after) + _zigzag(value)


def _binary(number: int, value: bytes, after: int = 0) -> bytes:
    return _field(number, 8, after) + _varint(len(value)) + value


def _struct(number: int, body: bytes, after: int = 0) -> bytes:
    return _field(number, 12, after) + body


def _list(number: int, structs: list[bytes], after: int = 0) -> bytes:
    count = len(structs)
    head = bytes([count << 4 | 12]) if count < 15 else b"\xfc" + _varint(count)
    return _field(number, 9, after) + head + b"".join(structs)


def _zigzag(value: int) -> bytes:
    return _varint(value << 1 if value >= 0 else (-value << 1) - 1)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
