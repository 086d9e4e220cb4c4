"""Between Feast's protobuf values and packed columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.type_map import NULL_TIMESTAMP_INT_VALUE, PROTO_VALUE_TO_VALUE_TYPE_MAP
from feast.value_type import ValueType

from slipway.errors import FeatureError
from slipway.features.keys import BINARY, NUMBER, TEXT, TIME, TRUTH, join_parts
from slipway.features.packing import (
    BINARIES,
    SLOTS,
    TEXTS,
    Column,
    Packing,
    is_message,
    item_type,
    pack_items,
    unpack_items,
)

NULL = Value()
_value: Any = Value
"""Its keyword is known at run time only."""
_STEMS = {
    "Float64": "double",
    "Float32": "float",
    "Int64": "int64",
    "Int32": "int32",
    "Bool": "bool",
    "UnixTimestamp": "unix_timestamp",
    "String": "string",
    "Json": "json",
    "Uuid": "uuid",
    "TimeUuid": "time_uuid",
    "Decimal": "decimal",
    "Bytes": "bytes",
    "PdfBytes": "bytes",
    "ImageBytes": "bytes",
}
_WIDER = {"Int64": ("int32_val",), "Float64": ("float_val", "int32_val")}
"""Other members of the oneof that a field takes without loss."""


@lru_cache(maxsize=1024)
def member(dtype: str) -> str:
    """The member of Value's oneof that holds this type."""
    inner = item_type(dtype)
    if inner is None:
        return f"{_STEMS[dtype]}_val"
    return f"{_STEMS[inner]}_{'list' if dtype.startswith('Array(') else 'set'}_val"


def value_type(dtype: str) -> ValueType:
    """Feast's enum for a type's name."""
    if not is_message(dtype):
        if dtype in ("PdfBytes", "ImageBytes"):
            return ValueType[f"{dtype[:-5].upper()}_BYTES"]
        return PROTO_VALUE_TO_VALUE_TYPE_MAP[member(dtype)]
    inner = item_type(dtype)
    if inner is None:
        named = {"Map": "MAP", "ScalarMap": "SCALAR_MAP", "ZonedTimestamp": "ZONED_TIMESTAMP"}
        return ValueType[named.get(dtype, "STRUCT")]
    if inner.startswith(("Array(", "Set(")):
        return ValueType.VALUE_LIST if dtype.startswith("Array(") else ValueType.VALUE_SET
    return ValueType.STRUCT_LIST if inner.startswith("Struct(") else ValueType.MAP_LIST


def pack_rows(packing: Packing, rows: Sequence[Mapping[str, Value]]) -> dict[str, Column]:
    """Columns for `Packing.pack` from Feast's rows."""
    columns: dict[str, Column] = {}
    for name, dtype in packing.types.items():
        try:
            values = [row[name] for row in rows]
        except KeyError:
            raise FeatureError(
                f"a row lacks feature {name!r}; its value would be lost",
                where=packing.where,
                fix="write all features of the view, with nulls where there is no value",
            ) from None
        columns[name] = pack_values(dtype, values, where=f"{packing.where}, field {name}")
    return columns


def pack_values(dtype: str, values: Sequence[Value], *, where: str) -> Column:
    kinds = [value.WhichOneof("val") for value in values]
    kinds = [None if kind == "null_val" else kind for kind in kinds]
    if is_message(dtype):
        return [
            None if kind is None else value.SerializeToString(deterministic=True)
            for kind, value in zip(kinds, values, strict=True)
        ]
    right = member(dtype)
    strange = {kind for kind in kinds if kind not in (None, right, *_WIDER.get(dtype, ()))}
    if strange:
        raise FeatureError(f"expected {dtype}, got {', '.join(sorted(map(str, strange)))}", where=where)
    plain = [
        None if kind is None else getattr(value, kind) for kind, value in zip(kinds, values, strict=True)
    ]
    if dtype == "UnixTimestamp":
        # Feast's conversion from pandas has no null here.
        plain = [None if item == NULL_TIMESTAMP_INT_VALUE else item for item in plain]
    if dtype in SLOTS:
        present = np.array([item is not None for item in plain], np.bool_)
        filled = np.array([0 if item is None else item for item in plain], SLOTS[dtype])
        return filled, None if present.all() else present
    if dtype in TEXTS:
        return [None if item is None else item.encode() for item in plain]
    if dtype in BINARIES:
        return plain
    return [None if item is None else pack_items(dtype, item.val) for item in plain]


def unpack_values(
    packing: Packing,
    name: str,
    table: npt.NDArray[np.void],
    blobs: Sequence[bytes | None],
    present: npt.NDArray[np.bool_],
) -> list[Value]:
    """One Value a row; NULL where it is not present: null, or in a row that is not readable."""
    dtype = packing.types[name]
    keep = present.tolist()
    if dtype in SLOTS:
        code, at = packing.place[name]
        attribute = member(dtype)
        return [
            _value(**{attribute: item}) if kept else NULL
            for item, kept in zip(table[code][:, at].tolist(), keep, strict=True)
        ]
    decode = _decoder(dtype)
    masked = [blob if kept else None for blob, kept in zip(blobs, keep, strict=True)]
    return [
        decode(raw) if kept else NULL
        for raw, kept in zip(packing.heap(name, table, masked), keep, strict=True)
    ]


def _decoder(dtype: str) -> Callable[[bytes], Value]:
    if is_message(dtype):
        return lambda raw: Value.FromString(raw)
    attribute = member(dtype)
    if dtype in TEXTS:
        return lambda raw: _value(**{attribute: raw.decode()})
    if dtype in BINARIES:
        return lambda raw: _value(**{attribute: raw})

    def decode_items(raw: bytes) -> Value:
        value = Value()
        items = getattr(value, attribute)
        items.SetInParent()
        unpacked = unpack_items(dtype, raw)
        items.val.extend(unpacked if isinstance(unpacked, list) else unpacked.tolist())
        return value

    return decode_items


_KEY_KINDS: Mapping[str, tuple[bytes, Callable[[Any], bytes]]] = {
    **{f"{stem}_val": (TEXT, str.encode) for stem in ("string", "uuid", "time_uuid", "decimal")},
    **{f"{stem}_val": (NUMBER, lambda value: b"%d" % value) for stem in ("int32", "int64")},
    "bytes_val": (BINARY, bytes),
    "bool_val": (TRUTH, lambda value: b"1" if value else b"0"),
    "unix_timestamp_val": (TIME, lambda value: b"%d" % value),
}


def entity_part(value: Value, *, where: str) -> tuple[bytes, bytes] | None:
    """(kind, bytes) of one entity value; None for a missing one."""
    kind = value.WhichOneof("val")
    if kind is None or kind == "null_val":
        return None
    try:
        letter, encode = _KEY_KINDS[kind]
    except KeyError:
        raise FeatureError(
            f"a value of type {kind.removesuffix('_val')} is no identity", where=where
        ) from None
    return letter, encode(getattr(value, kind))


def entity_bytes(key: EntityKey, *, where: str) -> bytes | None:
    """What stands between the braces of the key; None if a part is missing."""
    parts = []
    for _, value in sorted(zip(key.join_keys, key.entity_values, strict=True), key=lambda pair: pair[0]):
        part = entity_part(value, where=where)
        if part is None:
            return None
        parts.append(part)
    return join_parts(parts) if parts else b""
