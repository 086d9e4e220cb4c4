"""The questions with known answers: which rows a training set is made of."""

from __future__ import annotations

import hashlib
import importlib
import io
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl

from components.snapshot.manifest import SourceFile
from slipway.errors import DataError, SettingsError
from slipway.objects import ObjectStore
from slipway.project import Project

Prepare = Callable[[pl.DataFrame, datetime, datetime], tuple[pl.DataFrame, Mapping[str, int]]]


def columns_taken(project: Project) -> tuple[str, ...]:
    """No column that the project does not name."""
    names = [
        project.event_time,
        *project.key,
        *project.entities,
        *(field.name for field in project.request_fields),
        # A slice may be of a feature too, which is joined later.
        *(item.column for item in project.slices if "__" not in item.column),
        project.label.column,
    ]
    return tuple(dict.fromkeys(names))


def labelled_rows(
    objects: ObjectStore,
    project: Project,
    files: tuple[SourceFile, ...],
    start: datetime,
    end: datetime,
    *,
    where: str,
) -> tuple[pl.DataFrame, dict[str, int]]:
    """Rows of the window that have a label, in an order that depends on nothing else; and who is left out."""
    table = _read(objects, files)
    left_out: dict[str, int] = {}
    if project.prepare:
        table, reasons = _preparation(project)(table, start, end)
        left_out |= reasons
    columns = columns_taken(project)
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise DataError(
            f"no column {', '.join(missing)}",
            where=where,
            fix=f"project {project.name!r} names it; the columns are {', '.join(table.columns)}",
        )
    time = pl.col(project.event_time)
    kind = table.schema[project.event_time]
    if not isinstance(kind, pl.Datetime):
        raise DataError(f"{project.event_time} is a {kind}, not a time", where=where)
    first, last = (moment if kind.time_zone else moment.replace(tzinfo=None) for moment in (start, end))
    found = (
        table.select(columns)
        .filter(time >= first, time < last)
        .sort(project.event_time, *project.key, maintain_order=True)
    )
    doubles = int(found.select(pl.struct(project.key).is_duplicated().sum()).item())
    if doubles:
        raise DataError(
            f"{doubles} rows share their key ({', '.join(project.key)}) with another",
            where=where,
            fix="mend the ingest, or name more columns in the project's key",
        )
    kept = found.drop_nulls(project.label.column)
    return kept, left_out | {"no label": len(found) - len(kept)}


def _read(objects: ObjectStore, files: tuple[SourceFile, ...]) -> pl.DataFrame:
    parts = []
    for file in files:
        try:
            parts.append(pl.read_parquet(io.BytesIO(objects.get(file.uri))))
        except pl.exceptions.PolarsError as error:
            raise DataError(f"the labelled rows cannot be read: {error}", where=file.uri) from error
    try:
        return pl.concat(parts)
    except pl.exceptions.PolarsError as error:
        raise DataError(f"its files differ in their columns: {error}", where=files[0].uri) from error


def _preparation(project: Project) -> Prepare:
    module_name, _, name = project.prepare.partition(":")
    try:
        found: Any = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise SettingsError(
            f"project {project.name!r} prepares its rows by {project.prepare!r}: {error}",
            fix="write `module:function`",
        ) from error
    prepare: Prepare = found
    return prepare


def preparation_digest(project: Project) -> str:
    """Of the module that prepares the rows: other code makes another snapshot."""
    if not project.prepare:
        return ""
    _preparation(project)
    file = importlib.import_module(project.prepare.partition(":")[0]).__file__
    return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else ""
