"""What lies beside a training set: where it came from, what it looks like, and how to read it back."""

from __future__ import annotations

import io
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
import polars as pl

from slipway.contract import FeatureService, Snapshot
from slipway.errors import DataError, SettingsError
from slipway.objects import ObjectStore

MANIFEST_FILE = "manifest.json"
DATA_FILE = "rows.parquet"
STATISTICS_FILE = "statistics.json"


class Window(msgspec.Struct, frozen=True):
    """From `start` on, up to and without `end`; both RFC 3339, UTC where no offset is given."""

    start: str
    end: str

    def moments(self) -> tuple[datetime, datetime]:
        first, last = _moment("start", self.start), _moment("end", self.end)
        if first >= last:
            raise SettingsError(
                f"the window ends ({self.end}) before it starts ({self.start})", fix="exchange the two"
            )
        return first, last


def _moment(name: str, text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise SettingsError(
            f"the window's {name} is {text!r}", fix="write a date or a time such as 2013-09-15T04:00:00Z"
        ) from error
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


class SourceFile(msgspec.Struct, frozen=True):
    uri: str
    size: int
    tag: str
    """Its digest, or S3's ETag where there is none: other bytes have another."""


class ViewSource(msgspec.Struct, frozen=True):
    """Where a view's values came from: enough to check them without Feast."""

    view: str
    path: str
    files: tuple[SourceFile, ...]
    join_keys: Mapping[str, str]
    """Column of the source → column of the rows."""
    features: Mapping[str, str]
    """Column of the source → column of the rows."""
    event_time: str
    created_time: str | None
    ttl_seconds: float


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    schema_version: int = 1
    key: str
    event_time: str
    digest: str
    """SHA-256 of the Parquet file."""
    rows: int
    left_out: Mapping[str, int]
    """Why rows of the window are not in it → how many."""
    window: Window
    columns: Mapping[str, str]
    """Name → Polars' name of the type, in order."""
    service: FeatureService
    sources: tuple[ViewSource, ...]
    label_files: tuple[SourceFile, ...]

    def to_json(self) -> bytes:
        return msgspec.json.encode(self)


class SnapshotResult(msgspec.Struct, frozen=True):
    uri: str
    """The folder; `rows.parquet` and `manifest.json` lie in it."""
    digest: str
    rows: int
    start: str
    end: str
    created: bool
    """False: the same inputs had been taken before, and nothing was written."""

    @property
    def reference(self) -> Snapshot:
        return Snapshot(self.uri + DATA_FILE, self.digest, self.rows, self.start, self.end)


def result_of(uri: str, manifest: Manifest, *, created: bool) -> SnapshotResult:
    start, end = manifest.window.start, manifest.window.end
    return SnapshotResult(uri, manifest.digest, manifest.rows, start, end, created)


def read_manifest(objects: ObjectStore, uri: str) -> Manifest:
    where = uri + MANIFEST_FILE
    try:
        return msgspec.json.decode(objects.get(where), type=Manifest)
    except msgspec.MsgspecError as error:
        raise DataError(
            f"not a snapshot's manifest: {error}", where=where, fix="take the snapshot again"
        ) from error


def read_rows(objects: ObjectStore, uri: str, digest: str) -> pl.DataFrame:
    """The rows, if they are the very ones that the digest names."""
    return pl.read_parquet(io.BytesIO(objects.get(uri + DATA_FILE, digest=digest)))


def statistics(frame: pl.DataFrame) -> dict[str, dict[str, Any]]:
    """Per column: nulls, distinct values and, for numbers and times, the range and moments."""
    told: dict[str, dict[str, Any]] = {}
    for name, dtype in frame.schema.items():
        column = frame[name]
        facts: dict[str, Any] = {"nulls": column.null_count(), "distinct": column.n_unique()}
        if dtype.is_numeric():
            known = column.drop_nulls().drop_nans() if dtype.is_float() else column.drop_nulls()
            facts |= {
                "minimum": known.min(),
                "maximum": known.max(),
                "mean": known.mean(),
                "std": known.std(),
                "not_finite": int((~known.is_finite()).sum()) if dtype.is_float() else 0,
            }
        elif dtype.is_temporal() and len(column.drop_nulls()):
            facts |= {"minimum": str(column.min()), "maximum": str(column.max())}
        elif dtype == pl.String:
            top = column.drop_nulls().value_counts(sort=True).sort("count", name, descending=[True, False])
            facts["most_frequent"] = {str(value): count for value, count in top.head(5).iter_rows()}
        told[name] = facts
    return told
