"""What the feature service reads, and the point-in-time join itself: the only part that needs Feast."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import polars as pl

from components.snapshot.manifest import SourceFile, ViewSource
from slipway.contract import FeatureService
from slipway.datasets import current_dataset
from slipway.errors import DataError
from slipway.objects import ObjectStore, file_digest
from slipway.project import Project
from slipway.settings import Settings


class FeatureSource(Protocol):
    """Where features come from. Feast in practice; tests of the steps behind it bring tables."""

    def service(self) -> FeatureService: ...

    def sources(self, objects: ObjectStore) -> tuple[ViewSource, ...]: ...

    def join(self, rows: pl.DataFrame) -> pl.DataFrame:
        """The rows in the same order, with a column `view__feature` for each feature of the service."""
        ...


class FeastSource:
    def __init__(self, settings: Settings, project: Project) -> None:
        from slipway.features.service import describe_service
        from slipway.features.store import open_store

        self._store: Any = open_store(settings)
        self._project = project
        self._service = describe_service(self._store, project.feature_service)

    def service(self) -> FeatureService:
        return self._service

    def sources(self, objects: ObjectStore) -> tuple[ViewSource, ...]:
        found = []
        for view in self._service.views:
            applied = self._store.get_feature_view(view.source or view.name)
            source = applied.batch_source
            back = {mapped: original for original, mapped in (source.field_mapping or {}).items()}
            names = view.features if view.features is not None else tuple(item.name for item in view.fields)
            found.append(
                ViewSource(
                    view=view.name,
                    path=source.path,
                    files=list_files(objects, source.path),
                    join_keys={back.get(key, key): column for key, column in view.join_keys.items()},
                    features={back.get(name, name): f"{view.name}__{name}" for name in names},
                    event_time=source.timestamp_field,
                    created_time=source.created_timestamp_column or None,
                    ttl_seconds=view.ttl_seconds,
                )
            )
        return tuple(found)

    def join(self, rows: pl.DataFrame) -> pl.DataFrame:
        project = self._project
        wanted = list(
            dict.fromkeys(column for view in self._service.views for column in view.join_keys.values())
        )
        entities = rows.select(pl.col(project.event_time).alias("event_timestamp"), *wanted)
        job = self._store.get_historical_features(
            entity_df=entities,
            features=self._store.get_feature_service(project.feature_service),
            full_feature_names=True,
        )
        joined = pl.DataFrame(job.to_arrow())
        if len(joined) != len(rows):
            raise DataError(
                f"the offline store answered {len(joined)} rows for {len(rows)}",
                where=f"feature service {project.feature_service}",
                fix="use slipway.features.offline.PolarsOfflineStore, which keeps every row in its place",
            )
        names = [
            f"{view.name}__{name}"
            for view in self._service.views
            for name in (
                view.features if view.features is not None else [field.name for field in view.fields]
            )
        ]
        return rows.hstack(joined.select(names))


def list_files(objects: ObjectStore, path: str) -> tuple[SourceFile, ...]:
    """The Parquet files at an address: a file, all below a folder, or a table of a dataset's current
    version (`<root>/<table>` where `<root>` has a pointer). What changes them changes this."""
    if not path.startswith("s3://"):
        place = Path(path)
        local = sorted(place.rglob("*.parquet")) if place.is_dir() else [place]
        found = [
            SourceFile(str(file), file.stat().st_size, file_digest(file)) for file in local if file.exists()
        ]
    else:
        found = _table_of_dataset(objects, path)
        if not found:
            head = objects.head(path) if path.endswith(".parquet") else None
            listed = (
                [head] if head else [info for info in objects.list(path) if info.uri.endswith(".parquet")]
            )
            found = [SourceFile(info.uri, info.size, info.etag) for info in listed]
    if not found:
        raise DataError("there is no Parquet file", where=path, fix="run `slipway ingest` first")
    return tuple(found)


def _table_of_dataset(objects: ObjectStore, path: str) -> list[SourceFile]:
    root, _, table = path.rstrip("/").rpartition("/")
    dataset = current_dataset(objects, root)
    if dataset is None:
        return []
    if table not in dataset.manifest.tables:
        raise DataError(
            f"the dataset has no table {table!r}",
            where=root,
            fix=f"use one of: {', '.join(sorted(dataset.manifest.tables))}",
        )
    parts = dataset.manifest.tables[table].parts
    return [SourceFile(f"{dataset.uri}/{part.path}", part.size, part.digest) for part in parts]
