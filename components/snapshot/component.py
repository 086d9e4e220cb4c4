"""Freeze a training set: the labelled rows of a window, each with its features as of its own time."""

from __future__ import annotations

import hashlib
import io
from datetime import datetime

import msgspec
import polars as pl

from components.gates import answer, require_pass
from components.provenance import content_key
from components.snapshot.manifest import (
    DATA_FILE,
    MANIFEST_FILE,
    STATISTICS_FILE,
    Manifest,
    SnapshotResult,
    Window,
    read_manifest,
    result_of,
    statistics,
)
from components.snapshot.rows import columns_taken, labelled_rows, preparation_digest
from components.snapshot.sources import FeastSource, FeatureSource, list_files
from slipway.objects import ObjectStore, publish
from slipway.project import Project
from slipway.settings import Settings
from slipway.source_code import code_digest

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
    Projects that ask different questions about the same rows and features share their snapshots.
    """
    objects = objects or ObjectStore.from_settings(settings)
    source = source or FeastSource(settings, project)
    start, end = window.moments()
    window = Window(_text(start), _text(end))
    label_files = list_files(objects, settings.uri(project.rows))
    service = source.service()
    view_sources = source.sources(objects)
    key = content_key(
        window,
        columns_taken(project),
        label_files,
        preparation_digest(project),
        service,
        view_sources,
        code_digest("components/snapshot", "slipway/features/offline"),
    )
    prefix = settings.uri("snapshots", project.feature_service, key) + "/"
    if objects.head(prefix + MANIFEST_FILE) is not None:
        return result_of(prefix, read_manifest(objects, prefix), created=False)

    place = settings.uri(project.rows)
    rows, left_out = labelled_rows(objects, project, label_files, start, end, where=place)
    if rows.is_empty():
        empty = answer(
            "data",
            "inconclusive",
            f"no labelled row between {window.start} and {window.end}",
            {"rows": 0, "left_out": left_out},
        )
        require_pass([empty], where=place)
    joined = source.join(rows)
    data = to_parquet(joined)
    manifest = Manifest(
        key=key,
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


def _text(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")
