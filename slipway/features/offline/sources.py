"""Feast's file sources as Polars scans: one file, a directory or a prefix, here or on S3."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
from feast.data_format import ParquetFormat
from feast.data_source import DataSource
from feast.infra.offline_stores.file_source import FileSource

from slipway import aws
from slipway.errors import FeatureSourceError, ObjectError, SettingsError
from slipway.features.storage import storage_options
from slipway.objects import ObjectStore
from slipway.settings import S3, load_settings

_PARQUET = (".parquet", ".pq")
_PATTERN = re.compile(r"[*?\[]")
_OFFSET = re.compile(r"[+-]\d\d:?\d\d")
# What a writer has not finished, as Spark's _temporary folders and .part files; a partition may begin so too.
_HIDDEN = re.compile(r"/[_.][^/=]*(/|$)")
# Polars asks for this at the start of each query. By default it fetches row groups far ahead of whoever works
# on them: 0.3 GiB more of a file of 10 M rows, and fresh pages are dear (a fault takes some 5 us on a virtual
# machine, a join of 1 M rows 25,000 of them). In bytes and not as a count, so that narrow columns of a store
# far away still have many requests under way.
os.environ.setdefault("POLARS_ROW_GROUP_PREFETCH_KBYTES_BUDGET", str(32 * 1024))
# A zone may be an offset, such as +05:30, which pandas writes for times that were parsed with one. Without
# this Polars refuses every file that has such a column, though it reads them right.
os.environ.setdefault("POLARS_IGNORE_TIMEZONE_PARSE_ERROR", "1")

# Files of one source may differ, as when an older writer chose smaller types or had no column of a name yet.
_CASTS = pl.ScanCastOptions(
    integer_cast=["upcast", "allow-float"],
    float_cast="upcast",
    datetime_cast=["downcast", "upcast", "convert-timezone"],
    categorical_to_string="allow",
)


@dataclass(frozen=True)
class Source:
    """Where the rows of a data source are, and how to get there."""

    uri: str
    """As it stands in the definition, made absolute."""
    s3: S3 | None
    """None: not on S3."""
    _visible: list[str] = field(default_factory=list, compare=False, repr=False)
    """The files to read, where others lie beside them that are not to be; as `schema` last found them."""

    def is_file(self) -> bool:
        """Whether the rows are in one file rather than in all files of a place."""
        if self.s3 is None and "://" not in self.uri and Path(self.uri).exists():
            return Path(self.uri).is_file()
        return self.uri.endswith(_PARQUET)

    def is_pattern(self) -> bool:
        """Whether it is one for names; a file that is there is not, whatever it is called."""
        return bool(_PATTERN.search(self.uri)) and not (self.s3 is None and Path(self.uri).exists())

    def scan(self, schema: pl.Schema | None = None, row_number: str | None = None) -> pl.LazyFrame:
        """All rows, lazily. `row_number` names a column with each row's place in the source.

        With the schema that `schema` found, Polars need not read the footer of each file beforehand.
        """
        places: str | list[str] = self.uri
        single = self.is_file() and not self.is_pattern()
        if not self.is_file() and not self.is_pattern():
            places = self._visible or f"{glob.escape(self.uri.rstrip('/'))}/**/*.parquet"
        return pl.scan_parquet(
            places,
            glob=isinstance(places, str) and not single,
            hive_partitioning=not single,
            schema=schema,
            row_index_name=row_number,
            storage_options=None if self.s3 is None else storage_options(self.s3),
            cast_options=_CASTS,
            missing_columns="insert",
            extra_columns="ignore",
        )

    def schema(self) -> pl.Schema:
        """Column types, from the footers of the first and the last file and the names of the folders.

        A feature that came later is in the last file only, and one that is gone in the first.
        """
        with self.reading():
            ends = self._ends()
            if not ends:
                return _with_known_zones(self.scan().collect_schema())
            options = None if self.s3 is None else storage_options(self.s3)
            inside = [
                pl.scan_parquet(
                    end, glob=False, hive_partitioning=False, storage_options=options
                ).collect_schema()
                for end in ends
            ]
            return self.scan(_with_known_zones(_merged(inside[0], inside[-1]))).collect_schema()

    def _ends(self) -> list[str]:
        """The first and the last file of a place; none where Polars has to find out or say what is wrong."""
        if self.is_file() or self.is_pattern():
            return []
        try:
            if self.s3 is None:
                found = [str(path) for path in Path(self.uri).rglob("*.parquet")]
            else:
                found = [known.uri for known in ObjectStore(self.s3).list(self.uri)]
        except ObjectError:
            return []
        found = sorted(name for name in found if name.endswith(".parquet"))
        names = [name for name in found if not _HIDDEN.search(name, len(self.uri.rstrip("/")))]
        if found and not names:
            raise FileNotFoundError(found[0])
        self._visible[:] = names if len(names) < len(found) else []
        return [names[0], names[-1]][: len(names)] if names else []

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Raise what Polars raises as one of ours, with the place and the remedy."""
        try:
            yield
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
            raise _explain(error, self) from error

    def require(self, columns: Mapping[str, str], schema: pl.Schema) -> None:
        """See that the columns are there; the values say what each is for."""
        if missing := [f"{name} ({use})" for name, use in columns.items() if name not in schema]:
            raise FeatureSourceError(
                f"no column {', '.join(missing)}",
                where=self.uri,
                fix=f"it has {', '.join(schema.names())}; mend the view or its field_mapping, or write the "
                "column into the files",
            )


def _with_known_zones(schema: pl.Schema) -> pl.Schema:
    """Times of an offset, which Polars reads and can do nothing more with, as those of UTC that they are."""
    return pl.Schema(
        {
            name: pl.Datetime(kind.time_unit, "UTC")
            if isinstance(kind, pl.Datetime) and _OFFSET.fullmatch(kind.time_zone or "")
            else kind
            for name, kind in schema.items()
        }
    )


def _merged(first: pl.Schema, last: pl.Schema) -> pl.Schema:
    """The columns of both, in types that hold the values of both. Types that have nothing to do with each
    other stay the first's: the scan names the file that does not fit.
    """
    return pl.Schema(
        {
            name: _wider(first.get(name, kind), last.get(name, kind))
            for name, kind in {**first, **last}.items()
        }
    )


def _wider(first: pl.DataType, last: pl.DataType) -> pl.DataType:
    if first == pl.Null:
        return last
    if isinstance(first, pl.Datetime) and isinstance(last, pl.Datetime):
        units = {first.time_unit, last.time_unit}
        return pl.Datetime("ns" if "ns" in units else "us" if "us" in units else "ms", first.time_zone)
    if first != last and first.is_numeric() and last.is_numeric():
        empty = [pl.Schema({"": kind}).to_frame() for kind in (first, last)]
        return pl.concat(empty, how="vertical_relaxed").schema[""]
    return first


def open_source(data_source: DataSource, repository: str | Path | None, s3: S3 | None = None) -> Source:
    """The place of a Feast FileSource. `s3` stands in for the S3 section of this process's settings."""
    if not isinstance(data_source, FileSource):
        raise FeatureSourceError(
            f"a {type(data_source).__name__}, and this store reads Parquet files only",
            where=str(data_source.name),
            fix="describe the data with a feast.FileSource",
        )
    if not isinstance(data_source.file_format, ParquetFormat | None):
        raise FeatureSourceError(
            f"files in the format {data_source.file_format}, and this store reads Parquet only",
            where=data_source.path,
            fix="write the data as Parquet, and leave out file_format",
        )
    credentials = data_source.resolve_credentials() or {}
    return open_place(data_source.path, repository, s3, data_source.s3_endpoint_override, credentials)


def open_place(
    path: str,
    repository: str | Path | None,
    s3: S3 | None = None,
    endpoint: str | None = None,
    credentials: Mapping[str, str] | None = None,
) -> Source:
    """A path or an address; what is said here goes before the settings, and they before the AWS chain."""
    uri = FileSource.get_uri_for_file_path(repository, path.removeprefix("file://"))
    if not uri.startswith("s3://"):
        return Source(uri, None)
    chosen = load_settings().s3 if s3 is None else s3
    if endpoint:
        chosen = msgspec.structs.replace(chosen, endpoint=endpoint)
    if credentials:
        chosen = msgspec.structs.replace(
            chosen,
            access_key=credentials.get("AWS_ACCESS_KEY_ID"),
            secret_key=credentials.get("AWS_SECRET_ACCESS_KEY"),
            session_token=credentials.get("AWS_SESSION_TOKEN"),
            region=aws.region(credentials) or chosen.region,
        )
    return Source(uri, chosen)


def s3_from(options: Mapping[str, Any] | None) -> S3 | None:
    """The `s3` part of the store's configuration."""
    if options is None:
        return None
    region = aws.region(os.environ)
    try:
        return msgspec.convert({**({"region": region} if region else {}), **options}, S3)
    except msgspec.ValidationError as error:
        raise SettingsError(f"{error}", where="offline_store.s3 in feature_store.yaml") from error


# What S3 servers answer, by the code in their text; object_store passes it on in its messages.
_ANSWERS = {
    "NoSuchBucket": ("there is no such bucket", "make the bucket, or mend the address of the source"),
    "ExpiredToken": ("the credentials have expired", "get new temporary credentials"),
    "TokenRefreshRequired": ("the credentials have expired", "get new temporary credentials"),
    "RequestTimeTooSkewed": (
        "this machine's clock is off",
        "set the clock; S3 refuses signatures of another time",
    ),
    "InvalidAccessKeyId": ("S3 does not know the access key", "set SLIPWAY_S3_ACCESS_KEY and _SECRET_KEY"),
    "SignatureDoesNotMatch": ("the secret key is wrong", "set SLIPWAY_S3_ACCESS_KEY and _SECRET_KEY"),
    "AuthorizationHeaderMalformed": ("the bucket is in another region", aws.OTHER_REGION_FIX),
    "PermanentRedirect": ("the bucket is in another region", aws.OTHER_REGION_FIX),
    "AccessDenied": ("these credentials may not read it", "grant s3:GetObject and s3:ListBucket on it"),
}


def _explain(error: BaseException, source: Source) -> FeatureSourceError:
    text = str(error)
    summary = text.strip().splitlines()[0][:300] if text.strip() else type(error).__name__

    def said(what: str, fix: str) -> FeatureSourceError:
        return FeatureSourceError(what, where=source.uri, fix=fix)

    for code, (what, fix) in _ANSWERS.items():
        if f"<Code>{code}</Code>" in text:
            return said(f"{what} ({code})", fix)
    if "incorrectly configured region" in text:
        # Of a redirect object_store shows no more than this.
        return said("the bucket is in another region", aws.OTHER_REGION_FIX)
    if isinstance(error, PermissionError) or "403 Forbidden" in text or "401 Unauthorized" in text:
        return said("these credentials may not read it", "grant the right to read it to them, or use others")
    if "expanded paths were empty" in text:
        return said(
            "there is no Parquet file here",
            "mend the path of the source, or write the data first (`slipway ingest` writes the flights)",
        )
    if isinstance(error, FileNotFoundError):
        return said("there is no such file", "mend the path of the source, or write the data first")
    if (
        isinstance(error, ConnectionError | TimeoutError)
        or "error sending request" in text
        or "timed out" in text
    ):
        endpoint = (source.s3.endpoint if source.s3 else None) or "AWS"
        return said(
            f"S3 does not answer: {summary}",
            f"see that {endpoint} can be reached from here; `slipway status` shows the embedded server",
        )
    if "credential" in text.lower():
        return said(
            f"no credentials: {summary}",
            "set SLIPWAY_S3_ACCESS_KEY and SLIPWAY_S3_SECRET_KEY, or use an AWS profile or role",
        )
    if isinstance(error, pl.exceptions.SchemaError | pl.exceptions.SchemaFieldNotFoundError):
        return said(
            f"its files do not agree on their columns: {summary}",
            "write the odd file again with the types of the others",
        )
    return said(f"it cannot be read: {summary}", "write it again: it is damaged, or not a Parquet file")
