"""Columns of Arrow tables, however they were cut."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from slipway.features.arrow import pack_table
from slipway.features.packing import Packing, unpack_items


def pack(dtype: str, column: pa.Array | pa.ChunkedArray) -> list[bytes]:
    packing = Packing([("items", dtype)], {"key": "Int64"}, where="view v")
    table = pa.table({"items": column})
    times = np.zeros(table.num_rows, np.int64)
    return packing.pack(pack_table(packing, table), times, times)


@pytest.mark.parametrize(("dtype", "kind"), [("Array(Int64)", pa.int64()), ("Array(Float32)", pa.float32())])
def test_lists_that_a_filter_left_empty(dtype: str, kind: pa.DataType) -> None:
    """Their values are none, from a place that is past the end of these."""
    values = pa.Array.from_buffers(kind, 0, [None, pa.py_buffer(b"")], offset=2)
    offsets = pa.py_buffer(np.zeros(2, np.int32))
    cut = pa.Array.from_buffers(pa.list_(kind), 1, [None, offsets], children=[values])
    cut.validate(full=True)
    assert pack(dtype, cut) == pack(dtype, pa.array([[]], pa.list_(kind)))


def test_chunks_are_one_column() -> None:
    kind = pa.list_(pa.int64())
    chunks = pa.chunked_array([pa.array([[1, 2]], kind), pa.array([None, []], kind)])
    assert pack("Array(Int64)", chunks) == pack("Array(Int64)", pa.array([[1, 2], None, []], kind))
    assert pack("Array(Int64)", pa.chunked_array([], kind)) == []


@pytest.mark.parametrize("dtype", ["Array(Int64)", "Array(Bool)", "Set(Float64)"])
def test_an_empty_list_of_numbers_is_a_list(dtype: str) -> None:
    assert list(unpack_items(dtype, b"")) == []


def test_of_a_null_nothing_is_unpacked() -> None:
    assert unpack_items("Array(String)", b"") == []
