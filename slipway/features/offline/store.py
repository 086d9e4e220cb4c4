"""The offline store that Feast calls; each method turns Feast's objects into ours and hands back a job."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from feast.data_source import DataSource
from feast.errors import RequestDataNotFoundInEntityDfException
from feast.feature_logging import LoggingConfig, LoggingSource
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_VAL, FeatureView
from feast.infra.offline_stores.file_source import FileLoggingDestination
from feast.infra.offline_stores.offline_store import OfflineStore, RetrievalJob, RetrievalMetadata
from feast.infra.registry.base_registry import BaseRegistry
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.repo_config import FeastConfigBaseModel, RepoConfig
from feast.utils import (
    _get_requested_feature_views_to_features_dict,
    _get_requested_on_demand_feature_views,
    compute_non_entity_date_range,
)

from slipway.errors import FeatureSourceError
from slipway.features.offline.entities import EVENT_TIMESTAMP, WHERE, EntityRows, arrow, read_entities
from slipway.features.offline.history import History
from slipway.features.offline.job import PolarsRetrievalJob
from slipway.features.offline.kinds import families
from slipway.features.offline.latest import newest_between, rows_between
from slipway.features.offline.sources import Source, open_place, open_source, s3_from
from slipway.features.offline.writes import Destination, conform


class PolarsOfflineStoreConfig(FeastConfigBaseModel):
    """`offline_store:` in feature_store.yaml. In one module with the store, where Feast looks for it."""

    type: str = "slipway.features.offline.PolarsOfflineStore"

    staging_location: str | None = None
    """Where `to_remote_storage` writes; a folder or an s3:// prefix."""

    s3: dict[str, Any] | None = None
    """The fields of the S3 section of Slipway's settings, in its place. None: the settings of the process."""


class PolarsOfflineStore(OfflineStore):
    """Point-in-time joins over Parquet by Polars; see docs/offline-store.md for what it promises."""

    supports_filter_by_created_timestamp = True

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: Any,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        filter_by_created_timestamp: bool = False,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> RetrievalJob:
        on_demand = OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry)
        by_view, _ = _get_requested_feature_views_to_features_dict(
            feature_refs,
            feature_views,
            _get_requested_on_demand_feature_views(feature_refs, project, registry),
        )
        histories = [
            _history(config, view, features, full_feature_names) for view, features in by_view.items()
        ]
        bounds: tuple[datetime | None, datetime | None]
        if entity_df is None:
            bounds = start, end = compute_non_entity_date_range(feature_views, start_date, end_date)
            keys = sorted({name for history in histories for name in history.keys.values()})

            def entities() -> EntityRows:
                return _everybody(histories, start, end)

        else:
            rows = read_entities(entity_df)
            for history in histories:
                rows.require(history.keys.values(), history.view)
            _check_request_data(on_demand, rows)
            _check_names(histories, rows)
            keys = [name for name in rows.frame.columns if name != rows.event_timestamp]
            bounds = (rows.times.min(), rows.times.max())  # type: ignore[assignment]

            def entities() -> EntityRows:
                return rows

        def evaluate() -> pa.Table:
            spine = entities()
            table = spine.table
            for history in histories:
                values = history.as_of(spine, known_by_then=filter_by_created_timestamp)
                for name in values.column_names:
                    table = table.append_column(values.schema.field(name), values[name])
            return table

        return _job(
            config,
            evaluate,
            full_feature_names=full_feature_names,
            on_demand_feature_views=on_demand,
            metadata=RetrievalMetadata(
                features=feature_refs,
                keys=keys,
                min_event_timestamp=bounds[0],
                max_event_timestamp=bounds[1],
            ),
        )

    @staticmethod
    def pull_latest_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> RetrievalJob:
        source = _source(config, data_source)

        def evaluate() -> pa.Table:
            rows = newest_between(
                source,
                join_key_columns,
                feature_name_columns,
                timestamp_field,
                created_timestamp_column or None,
                start_date,
                end_date,
            )
            return arrow(_with_dummy_key(rows, join_key_columns))

        return _job(config, evaluate)

    @staticmethod
    def pull_all_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None = None,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> RetrievalJob:
        source = _source(config, data_source)
        columns = [*join_key_columns, *feature_name_columns, timestamp_field]
        if created_timestamp_column:
            columns.append(created_timestamp_column)

        def evaluate() -> pa.Table:
            rows = rows_between(source, columns, timestamp_field, start_date, end_date)
            return arrow(_with_dummy_key(rows, join_key_columns))

        return _job(config, evaluate)

    @staticmethod
    def offline_write_batch(
        config: RepoConfig,
        feature_view: FeatureView,
        table: pa.Table,
        progress: Callable[[int], Any] | None,
    ) -> None:
        source = _source(config, _batch_source(feature_view))
        destination = Destination(source)
        partitions: list[str] = []
        if destination.exists():
            schema, partitions = destination.layout()
            table = conform(table, schema, source.uri)
        if partitions:
            destination.append_partitioned(table, partitions)
        else:
            destination.append(table)
        if progress is not None:
            progress(table.num_rows)

    @staticmethod
    def write_logged_features(
        config: RepoConfig,
        data: pa.Table | Path,
        source: LoggingSource,
        logging_config: LoggingConfig,
        registry: BaseRegistry,
    ) -> None:
        target = logging_config.destination
        if not isinstance(target, FileLoggingDestination):
            raise FeatureSourceError(
                f"logs to go to a {type(target).__name__}, and this store writes Parquet files only",
                fix="use feast.infra.offline_stores.file_source.FileLoggingDestination",
            )
        table = pq.read_table(data) if isinstance(data, Path) else data
        destination = _destination(config)(target.path, target.s3_endpoint_override)
        if target.partition_by:
            destination.append_partitioned(table, list(target.partition_by))
        else:
            destination.append(table)

    def validate_data_source(self, config: RepoConfig, data_source: DataSource) -> None:
        """See that it can be read and has the columns that it names; Feast's own check only warns."""
        source = _source(config, data_source)
        names = {data_source.timestamp_field: "its timestamp_field"}
        if data_source.created_timestamp_column:
            names[data_source.created_timestamp_column] = "its created_timestamp_column"
        back = {new: old for old, new in data_source.field_mapping.items()}
        source.require({back.get(name, name): use for name, use in names.items() if name}, source.schema())

    def get_table_column_names_and_types_from_data_source(
        self, config: RepoConfig, data_source: DataSource
    ) -> list[tuple[str, str]]:
        schema, _ = Destination(_source(config, data_source)).layout()
        return [(field.name, str(field.type)) for field in schema]


def _source(config: RepoConfig, data_source: DataSource) -> Source:
    return open_source(data_source, config.repo_path, s3_from(config.offline_store.s3))


def _batch_source(view: FeatureView) -> DataSource:
    if view.batch_source is None:
        raise FeatureSourceError(
            "it has no batch source, so it has no history",
            where=f"feature view {view.name!r}",
            fix="give it a feast.FileSource",
        )
    return view.batch_source


def _destination(config: RepoConfig) -> Callable[[str, str | None], Destination]:
    def at(uri: str, endpoint: str | None) -> Destination:
        return Destination(open_place(uri, config.repo_path, s3_from(config.offline_store.s3), endpoint))

    return at


def _job(config: RepoConfig, evaluate: Callable[[], pa.Table], **how: Any) -> PolarsRetrievalJob:
    return PolarsRetrievalJob(
        evaluate,
        destination=_destination(config),
        staging_location=config.offline_store.staging_location,
        **how,
    )


def _history(config: RepoConfig, view: FeatureView, features: list[str], full_names: bool) -> History:
    """The view's definition, with its field mapping undone: the source has the old names."""
    batch_source = _batch_source(view)
    back = {new: old for old, new in batch_source.field_mapping.items()}

    def own(name: str) -> str:
        return back.get(name, name)

    # Without the version that a projection may carry, as Feast's saved datasets expect.
    prefix = f"{view.projection.name_alias or view.name}__" if full_names else ""
    keys = [field for field in view.entity_columns if field.name != DUMMY_ENTITY_ID]
    ttl = view.ttl if isinstance(view.ttl, timedelta) and view.ttl > timedelta(0) else None
    return History(
        view=view.projection.name_alias or view.name,
        source=_source(config, batch_source),
        keys={own(field.name): view.projection.join_key_map.get(field.name, field.name) for field in keys},
        timestamp=own(batch_source.timestamp_field),
        created=own(batch_source.created_timestamp_column) or None,
        features={own(name): prefix + name for name in dict.fromkeys(features)},
        ttl=ttl,
        kinds={own(field.name): families(field.dtype) for field in view.features if field.name in features},
    )


def _everybody(histories: list[History], start: datetime, end: datetime) -> EntityRows:
    """Each entity that has a row between the two moments, asked for as of the end."""
    if not histories:
        raise FeatureSourceError("no feature of any view is asked for", where=WHERE, fix="name some features")
    # Views may be keyed by different entities: each set of keys makes rows of its own.
    keys = pl.concat([history.keys_between(start, end) for history in histories], how="diagonal_relaxed")
    keys = keys.unique().sort(keys.columns) if keys.columns else pl.DataFrame(height=1)
    moment = pl.lit(end).cast(pl.Datetime("us", "UTC")).alias(EVENT_TIMESTAMP)
    return read_entities(keys.with_columns(moment))


def _check_request_data(views: list[OnDemandFeatureView], rows: EntityRows) -> None:
    # Feast checks this for pandas only.
    for view in views:
        for name in view.get_request_data_schema():
            if name not in rows.frame.columns:
                raise RequestDataNotFoundInEntityDfException(name, view.name)  # type: ignore[no-untyped-call]


def _check_names(histories: list[History], rows: EntityRows) -> None:
    for history in histories:
        if taken := sorted(set(history.features.values()) & set(rows.frame.columns)):
            raise FeatureSourceError(
                f"{', '.join(taken)} is a column here and a feature of view {history.view!r}",
                where=WHERE,
                fix="drop or rename the column, or ask with full_feature_names=True",
            )


def _with_dummy_key(rows: pl.DataFrame, keys: list[str]) -> pl.DataFrame:
    """Views without an entity are stored online under one key that Feast makes up, and expects here."""
    return rows if keys else rows.with_columns(pl.lit(DUMMY_ENTITY_VAL).alias(DUMMY_ENTITY_ID))
