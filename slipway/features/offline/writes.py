"""Writing Parquet so that a reader sees all of a batch or none of it, and two writers lose nothing."""

from __future__ import annotations

import io
import uuid
from urllib.parse import quote

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from slipway.errors import FeatureSourceError
from slipway.features.offline.entities import arrow
from slipway.features.offline.files import Bucket, Disk, Files
from slipway.features.offline.sources import Source
from slipway.objects import ObjectStore

# Small enough for a narrow window of time to skip most of a file, large enough to compress well.
ROW_GROUP = 100_000


class Destination:
    """A Parquet file, or a place that holds some, on disk or on S3."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._files: Files = Disk() if source.s3 is None else Bucket(ObjectStore(source.s3))

    def exists(self) -> bool:
        """Whether anything is there."""
        uri = self._source.uri
        return self._files.exists(uri) if self._source.is_file() else bool(self._files.list(uri))

    def layout(self) -> tuple[pa.Schema, list[str]]:
        """The columns that rows here have, and which of them are in the folders' names (Hive partitions)."""
        schema = self._source.schema()
        if self._source.is_file():
            return arrow(schema.to_frame()).schema, []
        root = self._source.uri.rstrip("/")
        first = next(iter(self._files.list(root)), "").removeprefix(root)
        below = [part.partition("=")[0] for part in first.split("/")[:-1] if "=" in part]
        # Polars takes name=value for a partition anywhere in a path, above the place itself too.
        above = {part.partition("=")[0] for part in root.split("/") if "=" in part} - set(below)
        frame = schema.to_frame().drop(above, strict=False)
        return arrow(frame).schema, below

    def append(self, table: pa.Table) -> None:
        """Add rows: to a place as a file of its own; to a single file by writing it anew with them."""
        uri = self._source.uri
        if self._source.is_file():
            self._files.update(uri, lambda old: _bytes(_joined(old, table, uri)))
        else:
            self._files.create(f"{uri.rstrip('/')}/part-{uuid.uuid4().hex}.parquet", _bytes(table))

    def append_partitioned(self, table: pa.Table, by: list[str]) -> None:
        """Add rows to a Hive-partitioned place: one new file in each partition that they touch."""
        root = self._source.uri.rstrip("/")
        for values, rows in pl.DataFrame(table).partition_by(by, as_dict=True, include_key=False).items():
            folder = "/".join(f"{name}={_hive(value)}" for name, value in zip(by, values, strict=True))
            part = rows.to_arrow().cast(table.drop_columns(by).schema)
            self._files.create(f"{root}/{folder}/part-{uuid.uuid4().hex}.parquet", _bytes(part))

    def replace(self, table: pa.Table, *, overwrite: bool) -> bool:
        """Make this the only content. False: something was there, and it may not be overwritten."""
        uri = self._source.uri
        if self._source.is_file():
            return self._files.put(uri, _bytes(table), overwrite)
        # Always the same name, so that the old content is replaced by one atomic write.
        data = f"{uri.rstrip('/')}/data.parquet"
        if not self._files.put(data, _bytes(table), overwrite):
            return False
        for other in self._files.list(uri) if overwrite else ():
            if other != data:
                self._files.delete(other)
        return True

    def stage(self, table: pa.Table) -> list[str]:
        """New files of at most a million rows each, and their names."""
        folder = f"{self._source.uri.rstrip('/')}/{uuid.uuid4().hex}"
        names = []
        for start in range(0, max(len(table), 1), 1_000_000):
            names.append(f"{folder}/part-{start // 1_000_000:05}.parquet")
            self._files.create(names[-1], _bytes(table.slice(start, 1_000_000)))
        return names


def conform(table: pa.Table, schema: pa.Schema, where: str) -> pa.Table:
    """The rows in exactly this order and these types, or an error that says what does not fit."""
    missing = [name for name in schema.names if name not in table.column_names]
    surplus = [name for name in table.column_names if name not in schema.names]
    if missing or surplus:
        parts = [f"lacks {', '.join(missing)}"] * bool(missing) + [f"has {', '.join(surplus)}"] * bool(
            surplus
        )
        raise FeatureSourceError(
            f"the new rows do not fit: the table {' and '.join(parts)}",
            where=where,
            fix=f"bring exactly these columns: {', '.join(schema.names)}",
        )
    columns = []
    for field in schema:
        column = table[field.name]
        try:
            columns.append(column.cast(field.type))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise FeatureSourceError(
                f"the new rows do not fit: {field.name} is {column.type}, not {field.type}: {error}",
                where=where,
                fix="cast the column before writing",
            ) from error
    return pa.table(columns, schema=schema)


def _joined(old: bytes | None, new: pa.Table, where: str) -> pa.Table:
    if old is None:
        return new
    try:
        before = pq.read_table(io.BytesIO(old))
    except pa.ArrowException as error:
        raise FeatureSourceError(
            f"it cannot be read, so nothing is added to it: {error}", where=where, fix="restore the file"
        ) from error
    return pa.concat_tables([before, conform(new, before.schema, where)])


def _bytes(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", row_group_size=ROW_GROUP)
    return buffer.getvalue()


def _hive(value: object) -> str:
    """A value as it stands in a folder's name."""
    if value is None:
        return "__HIVE_DEFAULT_PARTITION__"
    return quote(str(value), safe=" -_.")
