"""Features built on a real S3 and read through Feast by our offline store."""

from __future__ import annotations

import uuid
from datetime import timedelta
from pathlib import Path

import msgspec
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from components.ingest import ingest
from components.ingest.columns import LAYOUTS
from components.ingest.sources import package_file, parse, read_bytes
from feature_repo import SERVICE, build_features, definitions, label_frame
from feature_repo.tables import TABLES, TIME
from feature_repo.views import VIEW_NAMES, feature_views
from slipway.datasets import FEATURES, RAW, current_dataset
from slipway.errors import DataError, FeatureSourceError, ObjectStoreUnavailable
from slipway.objects import ObjectInfo, ObjectStore, make_client
from slipway.settings import Settings
from slipway.tables import read_table


@pytest.fixture(scope="module")
def settings(platform: Settings, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Ten days of February, ingested into a bucket of their own."""
    bucket = f"features-{uuid.uuid4().hex}"
    folder = tmp_path_factory.mktemp("features")
    make_client(platform.s3).create_bucket(Bucket=bucket)
    own = msgspec.structs.replace(
        platform,
        s3=msgspec.structs.replace(platform.s3, bucket=bucket),
        features=msgspec.structs.replace(platform.features, registry=f"sqlite:///{folder}/feast.db"),
    )
    ingest(own, files={"flights": _days(folder, 3, 12)})
    return own


def _days(folder: Path, first: int, last: int) -> Path:
    package = package_file("flights")
    flights = parse(read_bytes(package), LAYOUTS["flights"], where=str(package))
    path = folder / f"{first}-{last}.parquet"
    flights.filter(pl.col("month") == 2, pl.col("day").is_between(first, last)).write_parquet(path)
    return path


def test_nothing_can_be_built_or_defined_before_its_time(settings: Settings) -> None:
    nowhere = msgspec.structs.replace(
        settings, s3=msgspec.structs.replace(settings.s3, bucket=f"empty-{uuid.uuid4().hex}")
    )
    make_client(nowhere.s3).create_bucket(Bucket=nowhere.s3.bucket)
    with pytest.raises(DataError, match="no data was ingested yet"):
        build_features(nowhere)
    with pytest.raises(FeatureSourceError, match="no features were built yet"):
        definitions(nowhere)


def test_a_build_is_made_once_and_names_what_it_was_made_from(settings: Settings) -> None:
    steps: list[tuple[str, int, int]] = []
    built = build_features(settings, report=lambda *step: steps.append(step))
    again = build_features(settings)
    assert (again.digest, again.created) == (built.digest, False)
    store = ObjectStore.from_settings(settings)
    raw = current_dataset(store, settings.uri(RAW))
    assert raw is not None
    assert built.manifest.inputs["raw"] == raw.digest
    assert set(built.manifest.tables) == set(VIEW_NAMES)
    for view, (table, keys, compute) in TABLES.items():
        expected = compute(read_table(store, raw, table)).sort(TIME, *keys)
        assert_frame_equal(read_table(store, built, view).sort(TIME, *keys), expected)


def test_the_files_have_the_columns_that_the_views_promise(settings: Settings) -> None:
    dataset = build_features(settings)
    types = {"Int64": "Int64", "Float32": "Float32", "Float64": "Float64", "String": "String"}
    for view in feature_views(dataset.uri):
        promised = {field.name: types[str(field.dtype)] for field in view.features}
        promised |= {column.name: "String" for column in view.entity_columns}
        written = dict(dataset.manifest.tables[view.name].columns)
        assert written.pop(TIME) == "Datetime(time_unit='us', time_zone='UTC')"
        assert written == promised


def test_feast_reads_what_a_plain_join_reads(settings: Settings) -> None:
    from slipway.features.manage import apply_definitions
    from slipway.features.store import open_store

    dataset = build_features(settings)
    applied = apply_definitions(settings, definitions(settings))
    assert applied.views == sorted(VIEW_NAMES)
    assert set(applied.services) == {SERVICE}
    store = ObjectStore.from_settings(settings)
    raw = current_dataset(store, settings.uri(RAW))
    assert raw is not None
    asked = label_frame(read_table(store, raw, "flights")).frame.sample(2000, seed=1).sort(TIME)
    asked = asked.select("carrier", "origin", "dest", "tailnum", TIME)
    feast = open_store(settings)
    job = feast.get_historical_features(
        entity_df=asked.to_arrow(), features=feast.get_feature_service(SERVICE), full_feature_names=True
    )
    found = pl.DataFrame(job.to_arrow())
    assert len(found) == 2000
    ttl = {view.name: view.ttl for view in feature_views(dataset.uri)}
    for view, (_, keys, _) in TABLES.items():
        table = read_table(store, dataset, view).rename({TIME: "known"})
        limit = ttl[view] or timedelta(days=36500)
        joined = asked.join_asof(
            table.sort("known"), left_on=TIME, right_on="known", by=list(keys), check_sortedness=False
        )
        fresh = pl.col("known") >= pl.col(TIME) - limit
        names = [name for name in table.columns if name not in (*keys, "known")]
        expected = joined.select(pl.when(fresh).then(name).alias(name) for name in names)
        got = found.select(pl.col(f"{view}__{name}").alias(name) for name in names)
        assert_frame_equal(got, expected, check_exact=True)
        assert expected.null_count().row(0) != (2000,) * len(names), view


class DyingAtThePointer(ObjectStore):
    def put(self, uri: str, *args: object, **kwargs: object) -> ObjectInfo:
        if uri.endswith("current.json"):
            raise ObjectStoreUnavailable("died")
        return super().put(uri, *args, **kwargs)  # type: ignore[arg-type]


def test_a_build_that_dies_leaves_all_views_as_they_were(settings: Settings, tmp_path: Path) -> None:
    before = build_features(settings)
    try:
        ingest(settings, files={"flights": _days(tmp_path, 3, 11)})
        with pytest.raises(ObjectStoreUnavailable):
            build_features(settings, objects=DyingAtThePointer.from_settings(settings))
        store = ObjectStore.from_settings(settings)
        current = current_dataset(store, settings.uri(FEATURES))
        assert current is not None
        assert current.digest == before.digest
        assert all(before.uri in view.batch_source.path for view in definitions(settings)[4:-1])
        after = build_features(settings)
        assert after.created
        assert after.digest != before.digest
    finally:
        ingest(settings, files={"flights": _days(tmp_path, 3, 12)})
        assert build_features(settings).digest == before.digest
