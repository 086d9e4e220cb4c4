"""The primitives of the protobuf wire format. All errors are ValueErrors that say what is wrong."""

from __future__ import annotations

VARINT, FIXED64, BYTES, GROUP, END_GROUP, FIXED32 = 0, 1, 2, 3, 4, 5

_MAX_DEPTH = 64
_MASK64 = (1 << 64) - 1


def read_varint(data: bytes, position: int, stop: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= stop:
            raise ValueError("the message ends inside a number")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & _MASK64, position
    raise ValueError("a number has more than 10 bytes")


def read_tag(data: bytes, position: int, stop: int) -> tuple[int, int, int]:
    """Field number, wire type, position."""
    tag = data[position]
    position += 1
    if tag >= 0x80:
        tag, position = read_varint(data, position - 1, stop)
    number = tag >> 3
    if not 0 < number < 1 << 29:
        raise ValueError(f"{number} is no field number")
    return number, tag & 7, position


def read_span(data: bytes, position: int, stop: int) -> tuple[int, int]:
    """Start and end of what a length stands before."""
    length, position = read_varint(data, position, stop)
    if length > stop - position:
        raise ValueError(f"a field of {length} bytes where {stop - position} are left")
    return position, position + length


def skip(data: bytes, number: int, kind: int, position: int, stop: int, depth: int = 0) -> int:
    """The position after a field that nobody asked for."""
    if kind == VARINT:
        return read_varint(data, position, stop)[1]
    if kind == BYTES:
        return read_span(data, position, stop)[1]
    if kind in (FIXED32, FIXED64):
        position += 4 if kind == FIXED32 else 8
        if position > stop:
            raise ValueError("the message ends inside a number")
        return position
    if kind != GROUP:
        raise ValueError("a group ends that did not begin" if kind == END_GROUP else f"no wire type {kind}")
    if depth > _MAX_DEPTH:
        raise ValueError("groups are nested too deep")
    while position < stop:
        inner, inner_kind, position = read_tag(data, position, stop)
        if inner_kind == END_GROUP:
            if inner != number:
                raise ValueError("a group ends that did not begin")
            return position
        position = skip(data, inner, inner_kind, position, stop, depth + 1)
    raise ValueError("a group does not end")


def write_varint(value: int) -> bytes:
    if 0 <= value < 0x80:
        return bytes((value,))
    value &= _MASK64  # negative numbers are written as 64 bits
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def write_bytes(number: int, value: bytes) -> bytes:
    return write_varint(number << 3 | BYTES) + write_varint(len(value)) + value


def signed(value: int, bits: int) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value
