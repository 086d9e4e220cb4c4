"""One feature view's history, and its values as of the entity rows' times."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pyarrow as pa

from slipway.errors import FeatureSourceError
from slipway.features.offline.ahead import ahead
from slipway.features.offline.asof import LEAST, Batch, Moments, latest_rows
from slipway.features.offline.codes import coder
from slipway.features.offline.entities import EntityRows, arrow
from slipway.features.offline.sources import Source
from slipway.features.offline.times import (
    Unit,
    check_time,
    clock_of,
    microseconds,
    rescale,
    ticks,
    ticks_of,
    time_range,
)

BATCH_ROWS = 100_000
# Below this many keys they are part of the filter, which skips row groups and partitions by their values.
FEW_KEYS = 256

_TIME, _CREATED, _ROW, _KEY = "slipway:time", "slipway:created", "slipway:row", "slipway:key"
"""Columns of a batch that are not features: times as integers, the place in the source, the key's columns.
Under names that no table has, for these stand beside its own.
"""
_TEXT = (pl.String, pl.Categorical, pl.Enum)


@dataclass(frozen=True)
class History:
    """What a feature view says about its source, in the source's own column names."""

    view: str
    source: Source
    keys: Mapping[str, str]
    """Column of the source → column of the entity rows."""
    timestamp: str
    created: str | None
    features: Mapping[str, str]
    """Column of the source → name in the answer."""
    ttl: timedelta | None
    kinds: Mapping[str, frozenset[str]]
    """Column of the source → the families of types that its declaration allows; see `family`."""

    def check(self) -> pl.Schema:
        """The source's schema, with all columns there and of types that can serve."""
        schema = self.source.schema()
        uses = dict.fromkeys(self.features, "a feature") | dict.fromkeys(self.keys, "a join key")
        uses |= {self.timestamp: "the event timestamp"}
        if self.created:
            uses |= {self.created: "the created timestamp"}
        self.source.require({name: f"{use} of view {self.view}" for name, use in uses.items()}, schema)
        for column in filter(None, (self.timestamp, self.created)):
            check_time(schema, column, self.source)
        for column, allowed in self.kinds.items():
            if allowed and family(schema[column]) not in allowed:
                raise FeatureSourceError(
                    f"column {column} holds {schema[column]}, but view {self.view!r} declares "
                    f"{' or '.join(sorted(allowed))}",
                    where=self.source.uri,
                    fix="declare the type that the files have, or write them with the declared one",
                )
        return schema

    def as_of(self, entities: EntityRows, *, known_by_then: bool) -> pa.Table:
        """One row of features for each entity row, in order."""
        entities.require(self.keys.values(), self.view)
        schema = self.check()
        answer = pl.Schema({name: schema[column] for column, name in self.features.items()})
        keys = self._keys(entities, schema)
        known = _distinct(
            keys.filter(entities.times.is_not_null(), *(pl.col(name).is_not_null() for name in keys.columns))
        )
        if not len(known) or entities.times.is_null().all():
            return arrow(answer.to_frame().clear(len(keys)))
        unit, moments = self._moments(entities, keys, known, schema)
        ttl = None if self.ttl is None else round(self.ttl / timedelta(microseconds=1))
        limit = None if ttl is None else rescale(ttl, "us", unit)
        window = self._window(moments, limit, unit, schema)
        with self.source.reading():
            return latest_rows(
                moments,
                ahead(self._batches(known, window, unit, schema, len(entities.frame))),
                answer,
                ttl=limit,
                known_by_then=known_by_then,
            )

    def keys_between(self, start: datetime, end: datetime) -> pl.DataFrame:
        """The distinct keys, under the entity rows' names, that have a row in this range of time."""
        schema = self.check()
        window = time_range(schema, self.timestamp, "us", microseconds(start), microseconds(end))
        with self.source.reading():
            return (
                self.source.scan(schema)
                .filter(*window, *(pl.col(key).is_not_null() for key in self.keys))
                .select(pl.col(column).alias(name) for column, name in self.keys.items())
                .unique()
                .collect(engine="streaming")
            )

    def _keys(self, entities: EntityRows, schema: pl.Schema) -> pl.DataFrame:
        """The entity rows' keys as the source names and types them; null where it can have no such value."""
        columns = []
        for column, name in self.keys.items():
            theirs, ours = schema[column], entities.frame.schema[name]
            converted = _as_type(pl.col(name), ours, theirs)
            if converted is None:
                raise FeatureSourceError(
                    f"join key {name} of view {self.view!r} is {theirs} here, but {ours} in the entity rows",
                    where=self.source.uri,
                    fix="make them one type: cast the column of the entity rows, or write the files anew",
                )
            columns.append(converted.alias(column))
        return entities.frame.select(columns) if columns else pl.DataFrame(height=len(entities.frame))

    def _moments(
        self, entities: EntityRows, keys: pl.DataFrame, known: pl.DataFrame, schema: pl.Schema
    ) -> tuple[Unit, Moments]:
        unit = clock_of(schema, [self.timestamp, *filter(None, [self.created])])
        times, later = ticks_of(entities.times, unit)
        codes = coder(known)(keys).astype(np.int64)
        codes[entities.times.is_null().to_numpy()] = -1
        return unit, Moments(codes, times, later)

    def _window(self, moments: Moments, ttl: int | None, unit: Unit, schema: pl.Schema) -> list[pl.Expr]:
        """What every row that can matter fulfils, in a form that the Parquet statistics can answer."""
        asked = moments.times[moments.codes >= 0]
        first = None if ttl is None else int(asked.min()) - ttl
        return time_range(schema, self.timestamp, unit, first, int(asked.max()))

    def _batches(
        self, known: pl.DataFrame, window: list[pl.Expr], unit: Unit, schema: pl.Schema, asked: int
    ) -> Iterator[Batch]:
        rows = self.source.scan(schema, _ROW).filter(*window)
        for column in self.keys:
            values = known[column] if len(self.keys) == 1 else known[column].unique()
            if len(values) <= FEW_KEYS and not isinstance(schema[column], pl.Categorical | pl.Enum):
                rows = rows.filter(pl.col(column).is_in(values.implode()))
        keys = [
            pl.col(column).cast(pl.String)
            if isinstance(schema[column], pl.Categorical | pl.Enum)
            else pl.col(column)
            for column in self.keys
        ]
        times = [ticks(schema, self.timestamp, unit).alias(_TIME)]
        if self.created:
            times.append(ticks(schema, self.created, unit).alias(_CREATED))
        rows = rows.select(
            _ROW,
            *times,
            *(key.alias(f"{_KEY}{number}") for number, key in enumerate(keys)),
            *(pl.col(column).alias(name) for column, name in self.features.items()),
        )
        known = known.rename({column: f"{_KEY}{number}" for number, column in enumerate(self.keys)})
        code = coder(known)
        features = list(self.features.values())
        # A batch is work for each row that is asked for, too: so it should not be much smaller than they are.
        size = max(BATCH_ROWS, asked)
        for batch in rows.collect_batches(chunk_size=size, maintain_order=False, engine="streaming"):
            yield Batch(
                codes=code(batch),
                times=batch[_TIME].to_numpy(),
                created=batch[_CREATED].fill_null(LEAST).to_numpy() if self.created else None,
                places=batch[_ROW].to_numpy(),
                features=batch.select(features),
            )


def family(kind: pl.DataType) -> str:
    """Types that stand for each other: a column of integers with gaps is often written as floats."""
    if kind.is_numeric() or kind == pl.Boolean:
        return "numbers"
    if isinstance(kind, _TEXT):
        return "text"
    if kind == pl.Binary:
        return "bytes"
    if kind.is_temporal():
        return "times"
    if isinstance(kind, pl.List | pl.Array):
        return "lists"
    return "other"


def _distinct(keys: pl.DataFrame) -> pl.DataFrame:
    """Of one column, as nearly all entities have, in a quarter of the time."""
    if len(keys.columns) == 1:
        return keys.to_series().unique(maintain_order=True).to_frame()
    return keys.unique()


def _as_type(column: pl.Expr, ours: pl.DataType, theirs: pl.DataType) -> pl.Expr | None:
    """The entity rows' key in the source's type; None where the two have nothing to do with each other."""
    if isinstance(theirs, pl.Categorical | pl.Enum):
        theirs = pl.String()
    if ours == theirs:
        return column
    if ours == pl.Null or (isinstance(ours, _TEXT) and theirs == pl.String):
        return column.cast(theirs)
    if ours.is_float() and theirs.is_integer():
        # What pandas makes of integers with gaps. A fraction is no integer's key.
        return pl.when(column == column.floor()).then(column).cast(theirs, strict=False)
    if ours.is_numeric() and theirs.is_numeric():
        return column.cast(theirs, strict=False)
    if isinstance(ours, pl.Datetime | pl.Date) and isinstance(theirs, pl.Datetime | pl.Date):
        return column.cast(theirs)
    return None
