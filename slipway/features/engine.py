"""Materialization in Arrow blocks.

Feast's own engines turn every cell into a protobuf value in Python. This one hands the offline store's
Arrow table to the online store as it is. Views that need more than reading (transformations, aggregations,
validation) or another online store go Feast's way.
"""

from __future__ import annotations

from typing import Any, Literal

from feast.infra.common.materialization_job import MaterializationJobStatus, MaterializationTask
from feast.infra.compute_engines.local.compute import LocalComputeEngine
from feast.infra.compute_engines.local.job import LocalMaterializationJob
from feast.infra.registry.base_registry import BaseRegistry
from feast.repo_config import FeastConfigBaseModel
from feast.utils import _get_column_names

from slipway.features.online import PackedOnlineStore


class ArrowComputeEngineConfig(FeastConfigBaseModel):
    type: Literal["slipway.features.engine.ArrowComputeEngine"] = "slipway.features.engine.ArrowComputeEngine"


class ArrowComputeEngine(LocalComputeEngine):
    def __init__(self, **options: Any) -> None:
        super().__init__(backend="polars", **{k: v for k, v in options.items() if k != "backend"})
        self.written: dict[str, int] = {}
        """Rows of each view's last materialization that were not older than what was stored."""

    def _materialize_one(
        self, registry: BaseRegistry, task: MaterializationTask, **kwargs: Any
    ) -> LocalMaterializationJob:
        view = task.feature_view
        if not self._is_plain(task):
            return super()._materialize_one(registry, task, **kwargs)
        name = f"{view.name}-{task.start_time}-{task.end_time}"
        try:
            self._write(registry, task, task.feature_view.batch_source, self.online_store)
        except Exception as error:
            # Feast raises it from the job.
            return LocalMaterializationJob(name, MaterializationJobStatus.ERROR, error)
        return LocalMaterializationJob(name, MaterializationJobStatus.SUCCEEDED)

    def _is_plain(self, task: MaterializationTask) -> bool:
        view = task.feature_view
        return (
            isinstance(self.online_store, PackedOnlineStore)
            and task.only_latest
            and view.batch_source is not None
            and view.online
            and not view.offline
            and not getattr(view, "feature_transformation", None)
            and not getattr(view, "aggregations", None)
            and not getattr(view, "source_views", None)
            and not getattr(view, "enable_validation", False)
        )

    def _write(self, registry: BaseRegistry, task: MaterializationTask, source: Any, online: Any) -> None:
        view = task.feature_view
        entities = [registry.get_entity(name, task.project) for name in view.entities if name != "__dummy"]
        keys, features, event, created = _get_column_names(view, entities)
        job = self.offline_store.pull_latest_from_table_or_query(
            config=self.repo_config,
            data_source=source,
            join_key_columns=keys,
            feature_name_columns=features,
            timestamp_field=event,
            created_timestamp_column=created,
            start_date=task.start_time,
            end_date=task.end_time,
        )
        table = job.to_arrow()
        if source.field_mapping:
            table = table.rename_columns(
                [source.field_mapping.get(name, name) for name in table.column_names]
            )
        bar = task.tqdm_builder(table.num_rows) if task.tqdm_builder else None
        progress = bar.update if bar else None
        self.written[view.name] = online.write_arrow(self.repo_config, view, table, progress)
        if bar is not None:
            bar.close()
