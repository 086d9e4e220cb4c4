"""From Arrow tables to packed columns and keys, a column at a time."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from slipway.errors import FeatureSourceError
from slipway.features.keys import BINARY, KIND_OF_TYPE, NOBODY, TEXT, TIME, TRUTH, join_parts, view_prefix
from slipway.features.packing import BINARIES, SLOTS, TEXTS, Column, Packing, item_type

_SLOT_TYPES = {
    "Float64": pa.float64(),
    "Int64": pa.int64(),
    "Float32": pa.float32(),
    "Int32": pa.int32(),
    "Bool": pa.bool_(),
}


def pack_table(packing: Packing, table: pa.Table) -> dict[str, Column]:
    """Columns for `Packing.pack` from a table that has one column a field."""
    return {
        name: pack_column(
            dtype, column_of(table, name, packing.where), where=f"{packing.where}, field {name}"
        )
        for name, dtype in packing.types.items()
    }


def column_of(table: pa.Table, name: str, where: str) -> pa.Array:
    try:
        column = table.column(name)
    except KeyError:
        raise FeatureSourceError(
            f"the source has no column {name!r}; it has: {', '.join(table.column_names)}", where=where
        ) from None
    if column.num_chunks == 1:
        # Not combined with nothing: Arrow refuses to copy lists that are all empty and begin past the end of
        # their values, which is how a filter may leave them.
        column = column.chunk(0)
    else:
        column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def pack_column(dtype: str, column: pa.Array, *, where: str) -> Column:
    try:
        if dtype in SLOTS:
            return _pack_slot(dtype, column)
        if dtype in TEXTS and _is_text(column.type):
            return _bytes(column)
        if dtype in BINARIES and _is_binary(column.type):
            return _bytes(column)
        inner = item_type(dtype)
        if inner in _SLOT_TYPES and inner != "Bool" and _is_list(column.type):
            packed = _pack_numbers(str(inner), column)
            if packed is not None:
                return packed
        return _pack_by_feast(dtype, column, where=where)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, TypeError, ValueError) as error:
        raise FeatureSourceError(
            f"expected {dtype}, the source has {column.type}: {error}",
            where=where,
            fix="mend the source, or the type of the field in the feature view",
        ) from error


def _pack_slot(dtype: str, column: pa.Array) -> Column:
    if pa.types.is_floating(column.type):
        # Feast takes NaN for null, since pandas has no other way to say it.
        column = pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
    column = _seconds(column) if dtype == "UnixTimestamp" else column.cast(_SLOT_TYPES[dtype])
    present = None if column.null_count == 0 else column.is_valid().to_numpy(zero_copy_only=False)
    if present is not None:
        column = pc.fill_null(column, pa.scalar(0).cast(column.type))
    return column.to_numpy(zero_copy_only=False), present


def _seconds(column: pa.Array) -> pa.Array:
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        whole = pc.floor_temporal(column, unit="second") if pa.types.is_timestamp(column.type) else column
        return whole.cast(pa.timestamp("s", getattr(column.type, "tz", None))).cast(pa.int64())
    return column.cast(pa.int64())


def microseconds(column: pa.Array, *, where: str) -> npt.NDArray[np.int64]:
    """A timestamp column; one without a zone is in UTC, as everywhere in Feast."""
    if not (pa.types.is_timestamp(column.type) or pa.types.is_date(column.type)):
        raise FeatureSourceError(f"expected timestamps, the source has {column.type}", where=where)
    zone = getattr(column.type, "tz", None)
    whole = column.cast(pa.timestamp("us", zone), safe=False)
    filled = pc.fill_null(whole.cast(pa.int64()), 0)
    return np.asarray(filled.to_numpy(zero_copy_only=False), np.int64)


def _bytes(column: pa.Array) -> list[bytes | None]:
    items: list[bytes | None] = column.cast(pa.large_binary()).to_pylist()
    return items


def _pack_numbers(inner: str, column: pa.Array) -> Column | None:
    column = column.cast(pa.large_list(_SLOT_TYPES[inner]))
    # Those of these rows alone, which may be a part of a longer column.
    offsets = column.offsets.to_numpy()
    values = column.values.slice(offsets[0], offsets[-1] - offsets[0])
    if values.null_count:
        return None
    raw = values.to_numpy(zero_copy_only=False).astype(SLOTS[inner]).tobytes()
    ends = ((offsets - offsets[0]) * np.dtype(SLOTS[inner]).itemsize).tolist()
    items: list[bytes | None] = [raw[start:end] for start, end in itertools.pairwise(ends)]
    for at in np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False)).tolist():
        items[at] = None
    return items


def _pack_by_feast(dtype: str, column: pa.Array, *, where: str) -> Column:
    """Whatever is rare goes through Feast's own conversion, so that it means what it means there."""
    from feast.type_map import python_values_to_proto_values

    from slipway.features.protos import pack_values, value_type

    return pack_values(
        dtype,
        python_values_to_proto_values(column.to_pylist(maps_as_pydicts="strict"), value_type(dtype)),
        where=where,
    )


def table_keys(
    project: str, view: str, key_types: dict[str, str], table: pa.Table, *, where: str
) -> list[bytes | None]:
    """One key a row; None where a join key is missing."""
    prefix = view_prefix(project, view)
    names = sorted(key_types)
    if not names:
        return [prefix + NOBODY + b"}"] * table.num_rows
    parts = [_key_values(key_types[name], column_of(table, name, where)) for name in names]
    kinds = [KIND_OF_TYPE[key_types[name]] for name in names]
    if len(names) == 1:
        head = prefix + kinds[0] + b"="
        return [None if value is None else head + value + b"}" for value in parts[0]]
    return [
        None if None in values else prefix + join_parts(list(zip(kinds, values, strict=True))) + b"}"
        for values in zip(*parts, strict=True)
    ]


def _key_values(dtype: str, column: pa.Array) -> Sequence[bytes | None]:
    kind = KIND_OF_TYPE[dtype]
    if kind in (TEXT, BINARY):
        texts = column if _is_binary(column.type) or _is_text(column.type) else column.cast(pa.string())
        return _bytes(texts)
    if kind == TRUTH:
        column = column.cast(pa.bool_()).cast(pa.int8())
    elif kind == TIME:
        column = _seconds(column)
    else:
        column = column.cast(pa.int64())
    return _bytes(column.cast(pa.large_string()))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_binary(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_fixed_size_binary(kind)
        or pa.types.is_binary_view(kind)
    )


def _is_list(kind: Any) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))
