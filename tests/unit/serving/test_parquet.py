"""The Parquet writer, read back by three readers that know nothing of it."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from typing import Any

import duckdb
import polars
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.runtime.parquet import Kind, write_parquet

TABLE: dict[str, tuple[Kind, list[Any]]] = {
    "when": ("timestamp", [0, 1_700_000_000_123_456, None]),
    "name": ("string", ["UA", None, "ünbekannt\x00 \n"]),
    "count": ("int64", [-(2**63), 2**63 - 1, 0]),
    "score": ("double", [0.1, float("inf"), None]),
    "late": ("bool", [True, False, None]),
    "all_null": ("double", [None, None, None]),
}


def expected() -> dict[str, list[Any]]:
    table = {name: list(values) for name, (_, values) in TABLE.items()}
    table["when"] = [
        None if v is None else datetime.fromtimestamp(v // 10**6, UTC).replace(microsecond=v % 10**6)
        for v in table["when"]
    ]
    return table


def test_pyarrow_reads_values_nulls_and_types() -> None:
    table = pyarrow.parquet.read_table(io.BytesIO(write_parquet(TABLE)))
    assert table.to_pydict() == expected()
    assert [str(field.type) for field in table.schema] == [
        "timestamp[us, tz=UTC]", "string", "int64", "double", "bool", "double",
    ]  # fmt: skip


def test_polars_reads_the_same() -> None:
    assert polars.read_parquet(io.BytesIO(write_parquet(TABLE))).to_dict(as_series=False) == expected()


def test_duckdb_reads_the_same(tmp_path: Any) -> None:
    path = tmp_path / "table.parquet"
    path.write_bytes(write_parquet(TABLE))
    rows = duckdb.sql(f"select name, count, score, late, epoch_us(\"when\") from '{path}'").fetchall()
    assert rows[1] == (None, 2**63 - 1, float("inf"), False, 1_700_000_000_123_456)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.none() | st.floats(allow_nan=False),
            st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
            st.none() | st.booleans(),
            st.none() | st.integers(-(2**63), 2**63 - 1),
        ),
        max_size=70,
    )
)
def test_any_table_comes_back(rows: list[tuple[Any, ...]]) -> None:
    kinds: tuple[Kind, ...] = ("double", "string", "bool", "int64")
    columns: dict[str, tuple[Kind, list[Any]]] = {
        kind: (kind, [row[place] for row in rows]) for place, kind in enumerate(kinds)
    }
    table = pyarrow.parquet.read_table(io.BytesIO(write_parquet(columns)))
    assert table.to_pydict() == {kind: values for kind, (_, values) in columns.items()}


def test_many_columns_and_rows() -> None:
    columns: dict[str, tuple[Kind, list[Any]]] = {
        f"c{n}": ("double", [float(n * row) for row in range(5000)]) for n in range(40)
    }
    table = pyarrow.parquet.read_table(io.BytesIO(write_parquet(columns)))
    assert table.num_rows == 5000
    assert table["c39"][4999].as_py() == 39 * 4999.0


def test_columns_must_agree() -> None:
    with pytest.raises(ValueError, match="different length"):
        write_parquet({"a": ("bool", [True]), "b": ("bool", [])})
