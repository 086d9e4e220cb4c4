"""The few protobuf messages that the gRPC clients need, written and read by hand.

So the client needs grpcio alone: no generated code, which clashes with that of other clients in one process.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import Any

from slipway.errors import ServingError

_FIXED = {1: 8, 5: 4}
"""Wire types of fixed size."""


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def field(number: int, content: bytes | str) -> bytes:
    raw = content.encode() if isinstance(content, str) else content
    return _varint(number << 3 | 2) + _varint(len(raw)) + raw


def text(number: int, content: str | None) -> bytes:
    """A string field; the empty string is the default, and is not written."""
    return field(number, content) if content else b""


def flag(number: int, value: bool) -> bytes:
    return _varint(number << 3) + b"\x01" if value else b""


def shape(number: int, sizes: tuple[int, ...]) -> bytes:
    return field(number, b"".join(map(_varint, sizes))) if sizes else b""


def parameters(number: int, values: Mapping[str, Any]) -> bytes:
    parts = []
    for name, value in values.items():
        if isinstance(value, bool):
            content = _varint(1 << 3) + _varint(value)
        elif isinstance(value, int):
            content = _varint(2 << 3) + _varint(value)
        elif isinstance(value, float):
            content = _varint(4 << 3 | 1) + struct.pack("<d", value)
        else:
            content = field(3, str(value))
        parts.append(field(number, field(1, name) + field(2, content)))
    return b"".join(parts)


def fields(message: bytes | memoryview) -> Iterator[tuple[int, Any]]:
    """Number and content of each field: an int, or a view of the bytes."""
    view, at, end = memoryview(message), 0, len(message)
    try:
        while at < end:
            key, at = _read_varint(view, at)
            kind = key & 7
            if kind == 0:
                value, at = _read_varint(view, at)
                yield key >> 3, value
            elif kind == 2:
                size, at = _read_varint(view, at)
                at += size
                # Asking for the last byte notices a message that was cut off.
                _ = view[at - 1] if size else None
                yield key >> 3, view[at - size : at]
            else:
                size = _FIXED[kind]
                at += size
                yield key >> 3, view[at - size : at]
    except (IndexError, KeyError):
        raise ServingError(
            "not a message of the protocol", where="the server's answer", fix="is this its gRPC port?"
        ) from None


def _read_varint(view: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = view[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise IndexError


def signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def read_shape(content: Any) -> list[int]:
    """Packed or not."""
    if isinstance(content, int):
        return [signed(content)]
    sizes, at = [], 0
    while at < len(content):
        value, at = _read_varint(content, at)
        sizes.append(signed(value))
    return sizes


def read_parameter(content: memoryview) -> tuple[str, Any]:
    name: str = ""
    value: Any = None
    for number, item in fields(content):
        if number == 1:
            name = str(item, "utf-8")
        elif number == 2:
            for choice, inner in fields(item):
                if choice == 1:
                    value = bool(inner)
                elif choice in (2, 5):
                    value = signed(inner) if choice == 2 else inner
                elif choice == 3:
                    value = str(inner, "utf-8")
                elif choice == 4:
                    (value,) = struct.unpack("<d", inner)
    return name, value
