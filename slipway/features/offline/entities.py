"""The entity rows that a caller hands in: pandas, Polars or Arrow, with times however they come."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa

from slipway.errors import FeatureSourceError

WHERE = "the entity rows"
EVENT_TIMESTAMP = "event_timestamp"

EntityFrame: TypeAlias = pd.DataFrame | pl.DataFrame | pl.LazyFrame | pa.Table


@dataclass(frozen=True)
class EntityRows:
    table: pa.Table
    """All columns as they came, but for the event time, which is in UTC."""
    frame: pl.DataFrame
    """The same as Polars sees it."""
    event_timestamp: str

    @property
    def times(self) -> pl.Series:
        return self.frame[self.event_timestamp]

    def require(self, columns: Iterable[str], view: str) -> None:
        if missing := sorted(set(columns) - set(self.frame.columns)):
            raise FeatureSourceError(
                f"no column {', '.join(missing)}, which is a join key of feature view {view!r}",
                where=WHERE,
                fix=f"add it; the columns are {', '.join(self.frame.columns)}",
            )


def read_entities(rows: object) -> EntityRows:
    """The caller's rows with their event time found and turned to UTC."""
    if isinstance(rows, str):
        raise FeatureSourceError(
            "an SQL query, and files have no SQL engine behind them",
            where=WHERE,
            fix="pass a pandas, Polars or Arrow table; `polars.read_database` makes one of a query",
        )
    if isinstance(rows, pd.DataFrame):
        return _from_pandas(rows)
    if isinstance(rows, pa.Table):
        return _from_polars(pl.DataFrame(_unique(rows, rows.column_names)))
    if isinstance(rows, pl.LazyFrame | pl.DataFrame):
        return _from_polars(rows.lazy().collect())
    raise FeatureSourceError(
        f"a {type(rows).__module__}.{type(rows).__qualname__}",
        where=WHERE,
        fix="pass a pandas, Polars or Arrow table, or None with start_date and end_date",
    )


def _from_pandas(rows: pd.DataFrame) -> EntityRows:
    _unique(rows, [str(name) for name in rows.columns])
    name = _event_timestamp(
        [str(column) for column in rows.columns],
        [str(column) for column in rows.columns if pd.api.types.is_datetime64_any_dtype(rows[column])],
    )
    times = _pandas_times(rows[name])
    try:
        # The times go in afterwards; a table without any other column would not know its length.
        others = rows.drop(columns=[name])
        table = pa.Table.from_pandas(others, preserve_index=False) if len(others.columns) else None
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise FeatureSourceError(
            f"a column holds values of several types: {error}",
            where=WHERE,
            fix="give each column one type, for instance with astype",
        ) from error
    if table is None:
        table = pa.table({name: times.to_arrow()})
    else:
        table = table.add_column(rows.columns.get_loc(name), name, times.to_arrow())
    return EntityRows(table, pl.DataFrame(table), name)


def _from_polars(frame: pl.DataFrame) -> EntityRows:
    name = _event_timestamp(frame.columns, [n for n, kind in frame.schema.items() if kind.is_temporal()])
    column = frame[name]
    if column.dtype == pl.Date:
        column = column.cast(pl.Datetime("us"))
    elif column.dtype == pl.String:
        column = pl.Series(name, [_moment(value, name) for value in column], pl.Datetime("us", "UTC"))
    if not isinstance(column.dtype, pl.Datetime):
        if column.null_count() < len(column):
            raise _not_a_time(name, str(column.dtype))
        column = column.cast(pl.Datetime("us"))
    frame = frame.with_columns(_utc(column))
    return EntityRows(arrow(frame), frame, name)


def arrow(frame: pl.DataFrame) -> pa.Table:
    """An Arrow table in the types that Feast knows, and in one chunk.

    Feast looks at the first chunk only when it writes a table to the online store, and its type map has no
    large lists, views or dictionaries.
    """
    frame = frame.with_columns(
        pl.col(name).cast(pl.String)
        for name, kind in frame.schema.items()
        if isinstance(kind, pl.Categorical | pl.Enum)
    )
    table = frame.rechunk().to_arrow(compat_level=pl.CompatLevel.oldest())
    schema = pa.schema([field.with_type(_small(field.type)) for field in table.schema])
    return table.cast(schema).combine_chunks()


def _small(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_large_string(kind):
        return pa.string()
    if pa.types.is_large_binary(kind):
        return pa.binary()
    if pa.types.is_large_list(kind):
        return pa.list_(_small(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_small(field.type)) for field in kind])
    return kind


def _unique(rows: Any, names: list[str]) -> Any:
    if doubles := sorted({name for name in names if names.count(name) > 1}):
        raise FeatureSourceError(f"two columns are named {', '.join(doubles)}", where=WHERE, fix="rename one")
    return rows


def _event_timestamp(columns: list[str], temporal: list[str]) -> str:
    """As Feast finds it: by name, or the only column of times."""
    if EVENT_TIMESTAMP in columns:
        return EVENT_TIMESTAMP
    if len(temporal) == 1:
        return temporal[0]
    found = f"{len(temporal)} columns of times ({', '.join(temporal)})" if temporal else "no column of times"
    raise FeatureSourceError(
        f"{found}, and none is named {EVENT_TIMESTAMP}",
        where=WHERE,
        fix=f"name the column {EVENT_TIMESTAMP} that says as of when each row asks",
    )


def _pandas_times(column: pd.Series) -> pl.Series:
    """UTC; times without a zone are taken as UTC, and each row may have a zone of its own."""
    name = str(column.name)
    if isinstance(column.dtype, pd.ArrowDtype):
        return _from_polars(pl.DataFrame({EVENT_TIMESTAMP: pa.chunked_array([column.array])})).times.alias(
            name
        )
    if pd.api.types.is_datetime64_any_dtype(column.dtype):
        return _utc(pl.Series(name, column.reset_index(drop=True)))
    if not (pd.api.types.is_object_dtype(column.dtype) or pd.api.types.is_string_dtype(column.dtype)):
        if column.isna().all():
            return pl.Series(name, [None] * len(column), pl.Datetime("us", "UTC"))
        raise _not_a_time(name, str(column.dtype))
    return pl.Series(name, [_moment(value, name) for value in column], pl.Datetime("us", "UTC"))


def _utc(column: pl.Series) -> pl.Series:
    if getattr(column.dtype, "time_zone", None) is None:
        return column.dt.replace_time_zone("UTC")
    return column.dt.convert_time_zone("UTC")


def _moment(value: Any, name: str) -> datetime | None:
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError as error:
            raise _not_a_time(name, repr(value)) from error
    elif isinstance(value, np.datetime64):
        value = pd.Timestamp(value)
    if value is None or value is pd.NaT or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
        return None
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)
    if not isinstance(value, datetime):
        raise _not_a_time(name, repr(value))
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _not_a_time(name: str, what: str) -> FeatureSourceError:
    return FeatureSourceError(
        f"{name} says as of when a row asks, but holds {what}",
        where=WHERE,
        fix="make it a column of timestamps (or of ISO 8601 texts); without a zone they count as UTC",
    )
