"""Ingest into a real S3: exact counts of 2013, rejects, no-ops, crashes, files of one's own."""

from __future__ import annotations

import hashlib
import io
import json
import uuid
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pytest

from components.ingest import Ingested, ingest
from components.ingest.sources import package_file
from slipway.datasets import RAW, current_dataset
from slipway.errors import DataError, ObjectStoreUnavailable
from slipway.objects import ObjectInfo, ObjectStore, make_client
from slipway.settings import Settings
from slipway.tables import read_table

ROWS = 600


def with_bucket(platform: Settings) -> Settings:
    """The same platform with a new bucket: the current dataset is one for each bucket."""
    name = f"ingest-{uuid.uuid4().hex}"
    make_client(platform.s3).create_bucket(Bucket=name)
    return msgspec.structs.replace(platform, s3=msgspec.structs.replace(platform.s3, bucket=name))


@pytest.fixture
def own(platform: Settings) -> Settings:
    return with_bucket(platform)


@pytest.fixture(scope="module")
def year(platform: Settings) -> tuple[Settings, Ingested]:
    settings = with_bucket(platform)
    return settings, ingest(settings)


def table(settings: Settings, name: str) -> pl.DataFrame:
    store = ObjectStore.from_settings(settings)
    dataset = current_dataset(store, settings.uri(RAW))
    assert dataset is not None
    return read_table(store, dataset, name)


def everything(settings: Settings) -> dict[str, str]:
    return {info.uri: info.etag for info in ObjectStore.from_settings(settings).list(settings.uri(""))}


@pytest.fixture(scope="module")
def few() -> list[dict[str, str]]:
    """Every six hundredth flight of the package, as the text of its cells."""
    with zipfile.ZipFile(package_file("flights")) as archive:
        frame = pl.read_csv(archive.read("flights.csv"), infer_schema=False)
    return frame.gather_every(len(frame) // ROWS).head(ROWS).to_dicts()


@pytest.fixture
def csv(tmp_path: Path) -> Callable[[list[dict[str, Any]]], Path]:
    def write(rows: list[dict[str, Any]]) -> Path:
        path = tmp_path / f"{uuid.uuid4().hex}.csv"
        pl.DataFrame(rows).write_csv(path, null_value="NA")
        return path

    return write


def test_the_year_has_every_flight_and_every_decision_its_count(year: tuple[Settings, Ingested]) -> None:
    _, done = year
    manifest = done.dataset.manifest
    assert {name: item.rows for name, item in manifest.tables.items()} == {
        "flights": 336_776, "weather": 26_114, "planes": 3_322, "airports": 1_455, "rejects": 4,
    }  # fmt: skip
    assert {decision.name: decision.rows for decision in manifest.decisions} == {
        "cancelled": 8_255,
        "diverted": 1_175,
        "diverted and came on": 717,
        "tail number missing": 2_512,
        "tail number missing, departed": 0,
        "departed after midnight": 1_236,
        "arrives after midnight": 6_078,
        "clock says 2400": 179,
        "departure in the autumn fold": 0,
        "clock in the night of a change": 1,
        "destination not in airports": 7_602,
        "weather hours missing": 76,
        "flights in an hour without weather": 1_556,
        "airports rejected": 3,
        "planes rejected": 0,
        "weather rejected": 1,
        "flights rejected": 0,
    }
    flights = manifest.tables["flights"]
    assert (flights.start, flights.end) == ("2013-01-01T10:15:00Z", "2014-01-01T04:59:00Z")
    assert [part.path for part in flights.parts][:2] == ["flights/2013-01.parquet", "flights/2013-02.parquet"]
    assert len(flights.parts) == 13, "the last evening of the year is in January, by UTC"
    assert sum(part.rows for part in flights.parts) == 336_776
    assert done.reasons == {
        "airports: tzone is missing": 3,
        "weather: wind_speed is outside of 0 to 250 mph": 1,
    }


def test_the_manifest_says_of_each_file_what_is_in_it(year: tuple[Settings, Ingested]) -> None:
    settings, done = year
    objects = ObjectStore.from_settings(settings)
    for described in done.dataset.manifest.tables.values():
        for part in described.parts:
            raw = objects.get(f"{done.dataset.uri}/{part.path}")
            assert (hashlib.sha256(raw).hexdigest(), len(raw)) == (part.digest, part.size)
            frame = pl.read_parquet(io.BytesIO(raw))
            assert frame.height == part.rows
            assert {name: str(kind) for name, kind in frame.schema.items()} == dict(described.columns)
            if described.time_column:
                times = frame[described.time_column].dt.strftime("%Y-%m-%dT%H:%M:%SZ")
                assert (times.min(), times.max()) == (part.start, part.end)


def test_arrivals_agree_with_the_time_in_the_air(year: tuple[Settings, Ingested]) -> None:
    settings, _ = year
    flights = table(settings, "flights").filter(pl.col("status") == "arrived")
    assert len(flights) == 327_346
    gates = (pl.col("actual_arrival") - pl.col("actual_departure")).dt.total_minutes() - pl.col("air_time")
    on_the_ground = flights.select(gates).to_series()
    assert (on_the_ground.min(), on_the_ground.median(), on_the_ground.max()) == (5, 28.0, 235)
    honolulu = flights.filter(dest="HNL", carrier="HA", month=1, day=1).row(0, named=True)
    # Scheduled to leave at 09:00 in New York, and to land at 15:30 in Honolulu, five hours behind.
    assert honolulu["scheduled_departure"].isoformat() == "2013-01-01T14:00:00+00:00"
    assert honolulu["sched_arr_time"] == 1530
    assert honolulu["scheduled_arrival"].isoformat() == "2013-01-02T01:30:00+00:00"


def test_ingesting_the_same_again_writes_nothing(year: tuple[Settings, Ingested]) -> None:
    settings, first = year
    before = everything(settings)
    again = ingest(settings)
    assert (again.dataset.digest, again.dataset.created) == (first.dataset.digest, False)
    assert everything(settings) == before


def test_equal_rows_are_equal_bytes_whatever_file_they_come_in(
    platform: Settings, few: list[dict[str, str]], csv: Callable[..., Path], tmp_path: Path
) -> None:
    typed = pl.read_csv(csv(few), null_values=["NA"], try_parse_dates=True)
    times = ("dep_time", "dep_delay", "arr_time", "arr_delay", "air_time")
    # As pandas writes them: floats with NaN for gaps, times without a zone.
    like_pandas = typed.with_columns(
        *(pl.col(name).cast(pl.Float64).fill_null(float("nan")) for name in times),
        pl.col("time_hour").dt.replace_time_zone(None),
    )
    like_pandas.write_parquet(tmp_path / "pandas.parquet")
    typed.write_parquet(tmp_path / "typed.parquet")
    like_pandas.write_csv(tmp_path / "pandas.csv")
    files = [
        csv(few),
        csv(few[::-1]),
        *(tmp_path / name for name in ("pandas.parquet", "typed.parquet", "pandas.csv")),
    ]
    found = []
    for file in files:
        tables = ingest(with_bucket(platform), files={"flights": file}).dataset.manifest.tables
        found.append([(part.path, part.digest) for part in tables["flights"].parts])
        assert tables["flights"].rows == ROWS
    assert found == [found[0]] * len(files)


BROKEN: list[tuple[dict[str, Any], str]] = [
    ({"dep_time": "soon"}, "dep_time is soon, not a whole number"),
    ({"distance": "17.5"}, "distance is 17.5, not a whole number"),
    ({"carrier": None}, "carrier is missing"),
    ({"month": "2", "day": "30"}, "year, month and day are no date of the calendar"),
    ({"sched_dep_time": "1299"}, "sched_dep_time is 1299: is no clock reading"),
    ({"dep_delay": "9999"}, "dep_delay is 9999: is outside of -120 to 4320 minutes"),
    ({"dep_delay": "99"}, "dep_time is not sched_dep_time + dep_delay"),
    ({"arr_delay": "77"}, "arr_time is not sched_arr_time + arr_delay"),
    ({"dep_delay": None}, "dep_time and dep_delay: one without the other"),
    ({"dep_time": None, "dep_delay": None}, "it arrived and never departed"),
    ({"arr_time": None}, "arr_delay without an arr_time"),
    ({"dest": "QQQ"}, "the time zone of dest is not known (give --airports)"),
    ({"air_time": "999"}, "less time from gate to gate than in the air"),
    ({"time_hour": "2013-01-01T00:00:00Z"}, "time_hour is not the hour of the scheduled departure"),
    ({"hour": "3"}, "hour and minute disagree with sched_dep_time"),
    ({"origin": "IAH", "dest": "IAH"}, "origin and dest are the same"),
]


def test_a_broken_row_goes_to_the_rejects_with_its_reason_and_the_others_stay(
    own: Settings, few: list[dict[str, str]], csv: Callable[..., Path]
) -> None:
    sound = next(row for row in few if row["arr_delay"] != "NA" and row["dest"] == "IAH")
    broken = [{**sound, **change} for change, _ in BROKEN]
    double = dict(few[0])
    done = ingest(own, files={"flights": csv([*few, *broken, double])})
    assert done.dataset.manifest.tables["flights"].rows == ROWS
    rejects = table(own, "rejects").filter(table="flights").sort("row")
    assert rejects["row"].to_list() == list(range(ROWS + 1, ROWS + len(BROKEN) + 2))
    for (_, reason), given in zip(BROKEN, rejects["reasons"], strict=False):
        assert reason in given.split("; ")
    assert rejects["reasons"][-1] == "the same carrier, flight, origin, scheduled_departure as row 1"
    assert json.loads(rejects["record"][-1])["carrier"] == double["carrier"]
    assert done.reasons["flights: dep_delay is outside of -120 to 4320 minutes"] == 1
    accepted = table(own, "flights")
    assert len(accepted) + len(rejects) == ROWS + len(BROKEN) + 1


def test_a_broken_row_of_a_parquet_file_goes_to_the_rejects_too(
    own: Settings, few: list[dict[str, str]], csv: Callable[..., Path], tmp_path: Path
) -> None:
    typed = pl.read_csv(csv(few), null_values=["NA"], try_parse_dates=True)
    sound = typed.filter(pl.col("arr_delay").is_not_null() & (pl.col("dest") == "IAH")).head(1)
    broken = {
        "distance is 17.5, not a whole number": sound.with_columns(distance=pl.lit(17.5)),
        "carrier is missing": sound.with_columns(carrier=pl.lit(None, pl.String)),
        "dep_delay is 9999: is outside of -120 to 4320 minutes": sound.with_columns(dep_delay=9999),
    }
    path = tmp_path / "own.parquet"
    pl.concat([typed, *broken.values()], how="vertical_relaxed").write_parquet(path)
    done = ingest(own, files={"flights": path})
    assert done.dataset.manifest.tables["flights"].rows == ROWS
    rejects = table(own, "rejects").filter(table="flights").sort("row")
    assert rejects["row"].to_list() == [ROWS + 1, ROWS + 2, ROWS + 3]
    for reason, given in zip(broken, rejects["reasons"], strict=True):
        assert reason in given.split("; ")
    again = ingest(own, files={"flights": path})
    assert (again.dataset.digest, again.dataset.created) == (done.dataset.digest, False)


def test_a_file_that_is_mostly_broken_is_refused_and_nothing_is_published(
    own: Settings, few: list[dict[str, str]], csv: Callable[..., Path]
) -> None:
    rows = [{**row, "distance": "-1"} if number % 10 == 0 else row for number, row in enumerate(few)]
    path = csv(rows)
    with pytest.raises(
        DataError, match=r"60 of 600 rows of flights break its schema: row 1: distance is -1"
    ) as raised:
        ingest(own, files={"flights": path})
    assert raised.value.where == str(path)
    assert everything(own) == {}
    assert ingest(own, files={"flights": path}, max_rejects=0.1).dataset.manifest.tables["rejects"].rows == 64


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        ("year,carrier\n2013,\u00dcA\n".encode("latin-1"), "not readable as CSV or Parquet: invalid utf-8"),
        (b"PAR1 and then nothing of the kind", "not readable as CSV or Parquet"),
        (b"PK\x03\x04 torn", "not readable as CSV or Parquet"),
        (b"\xff\xfe\x00\x01\x02", "not readable|misses"),
        (b"year,month\n2013,1\n", "the flights table misses air_time, arr_delay, arr_time"),
    ],
)
def test_a_file_that_is_no_table_is_told_by_name(
    own: Settings, tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "flights.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as raised:
        ingest(own, files={"flights": path})
    assert raised.value.where == str(path)
    assert everything(own) == {}


def test_an_empty_table_a_missing_file_and_an_unknown_table_are_told(
    own: Settings, few: list[dict[str, str]], csv: Callable[..., Path], tmp_path: Path
) -> None:
    empty = csv(few)
    empty.write_text(empty.read_text().splitlines()[0] + "\n")
    with pytest.raises(DataError, match="has no rows"):
        ingest(own, files={"flights": empty})
    with pytest.raises(DataError, match="cannot be read: No such file"):
        ingest(own, files={"flights": tmp_path / "none.csv"})
    with pytest.raises(DataError, match="there is no table airlines"):
        ingest(own, files={"airlines": empty})


class Dying(ObjectStore):
    """Dies at its n-th write, and stays dead."""

    left = 0

    def put(self, *args: Any, **kwargs: Any) -> ObjectInfo:
        self._count()
        return super().put(*args, **kwargs)

    def upload(self, *args: Any, **kwargs: Any) -> ObjectInfo:
        self._count()
        return super().upload(*args, **kwargs)

    def _count(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise ObjectStoreUnavailable("died")


def test_a_crash_at_any_write_publishes_nothing_and_the_next_run_finishes(
    platform: Settings, own: Settings, few: list[dict[str, str]], csv: Callable[..., Path]
) -> None:
    path = csv(few)
    elsewhere = ingest(with_bucket(platform), files={"flights": path}).dataset
    files = sum(len(item.parts) for item in elsewhere.manifest.tables.values())
    other = ingest(own, files={"flights": csv(few[:300])}).dataset
    # before all, among the files, before the manifest, before the pointer
    for writes in (0, 7, files, files + 1):
        dying = Dying.from_settings(own)
        dying.left = writes
        with pytest.raises(ObjectStoreUnavailable):
            ingest(own, files={"flights": path}, objects=dying)
        assert len(table(own, "flights")) == 300, "the dataset of before is whole and current"
    done = ingest(own, files={"flights": path}).dataset
    assert done.digest == elsewhere.digest != other.digest
    assert len(table(own, "flights")) == ROWS
