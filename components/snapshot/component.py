"""Freeze a training set: the labelled rows of a window, each with its features as of its own time."""

from __future__ import annotations

import hashlib
import io
from datetime import datetime

import msgspec
import polars as pl

from components.gates import answer, require_pass
from components.provenance import code_digest, content_key
from components.snapshot.manifest import (
    DATA_FILE,
    MANIFEST_FILE,
    STATISTICS_FILE,
    Manifest,
    SnapshotResult,
    SourceFile,
    Window,
    read_manifest,
    result_of,
    statistics,
)
from components.snapshot.sources import FeastSource, FeatureSource, list_files
from slipway.errors import DataError
from slipway.objects import ObjectStore, publish
from slipway.project import Project
from slipway.settings import Settings

ROWS_IN_A_GROUP = 1 << 16


def take_snapshot(
    settings: Settings,
    project: Project,
    window: Window,
    *,
    objects: ObjectStore | None = None,
    source: FeatureSource | None = None,
) -> SnapshotResult:
    """The training set of a window, on S3 under a name made from everything that decides its content.

    The same inputs have the same name: then what is there is answered, and nothing is read or written.
    """
    objects = objects or ObjectStore.from_settings(settings)
    source = source or FeastSource(settings, project)
    start, end = window.moments()
    window = Window(_text(start), _text(end))
    label_files = list_files(objects, settings.uri(project.rows))
    service = source.service()
    view_sources = source.sources(objects)
    columns = _columns(project)
    key = content_key(
        window,
        columns,
        label_files,
        service,
        view_sources,
        code_digest("components/snapshot", "slipway/features/offline"),
    )
    prefix = settings.uri("snapshots", project.name, key) + "/"
    if objects.head(prefix + MANIFEST_FILE) is not None:
        return result_of(prefix, read_manifest(objects, prefix), created=False)

    rows, left_out = _labelled(objects, settings, project, label_files, columns, start, end)
    if rows.is_empty():
        empty = answer(
            "data",
            "inconclusive",
            f"no labelled row between {window.start} and {window.end}",
            {"rows": 0, "left_out": left_out},
        )
        require_pass([empty], where=settings.uri(project.rows))
    joined = source.join(rows)
    data = to_parquet(joined)
    manifest = Manifest(
        key=key,
        project=project.name,
        event_time=project.event_time,
        digest=hashlib.sha256(data).hexdigest(),
        rows=len(joined),
        left_out=left_out,
        window=window,
        columns={name: str(dtype) for name, dtype in joined.schema.items()},
        service=service,
        sources=view_sources,
        label_files=label_files,
    )
    files = {
        DATA_FILE: data,
        STATISTICS_FILE: msgspec.json.format(msgspec.json.encode(statistics(joined)), indent=1),
        MANIFEST_FILE: manifest.to_json(),
    }
    made = publish(objects, prefix, files, marker=MANIFEST_FILE)
    return result_of(prefix, manifest, created=made.created)


def to_parquet(frame: pl.DataFrame) -> bytes:
    """The same rows are the same bytes: order, groups, compression and statistics are all fixed."""
    buffer = io.BytesIO()
    frame.write_parquet(
        buffer, compression="zstd", compression_level=3, statistics=True, row_group_size=ROWS_IN_A_GROUP
    )
    return buffer.getvalue()


def _columns(project: Project) -> tuple[str, ...]:
    """What is taken of the labelled rows: no column that the project does not name."""
    names = [
        project.event_time,
        *project.key,
        *project.entities,
        *(field.name for field in project.request_fields),
        *(item.column for item in project.slices if "__" not in item.column),
        project.label.column,
    ]
    return tuple(dict.fromkeys(names))


def _labelled(
    objects: ObjectStore,
    settings: Settings,
    project: Project,
    files: tuple[SourceFile, ...],
    columns: tuple[str, ...],
    start: datetime,
    end: datetime,
) -> tuple[pl.DataFrame, dict[str, int]]:
    """Rows of the window that have a label, in an order that depends on nothing else; and who is missing."""
    where = settings.uri(project.rows)
    parts = []
    for file in files:
        try:
            part = pl.scan_parquet(io.BytesIO(objects.get(file.uri)))
            schema = part.collect_schema()
            missing = [name for name in columns if name not in schema]
            if missing:
                raise DataError(
                    f"no column {', '.join(missing)}",
                    where=file.uri,
                    fix=f"project {project.name!r} names it; the columns are {', '.join(schema)}",
                )
            time = pl.col(project.event_time)
            zone = getattr(schema[project.event_time], "time_zone", None)
            first, last = (moment if zone else moment.replace(tzinfo=None) for moment in (start, end))
            parts.append(part.select(columns).filter(time >= first, time < last).collect())
        except pl.exceptions.PolarsError as error:
            raise DataError(f"the labelled rows cannot be read: {error}", where=file.uri) from error
    found = pl.concat(parts).sort(project.event_time, *project.key, maintain_order=True)
    doubles = int(found.select(pl.struct(project.key).is_duplicated().sum()).item())
    if doubles:
        raise DataError(
            f"{doubles} rows share their key ({', '.join(project.key)}) with another",
            where=where,
            fix="mend the ingest, or name more columns in the project's key",
        )
    kept = found.drop_nulls(project.label.column)
    return kept, {"no_label": len(found) - len(kept)}


def _text(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")
