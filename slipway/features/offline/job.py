"""A retrieval that is described and not yet run: Feast's RetrievalJob."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
from feast.errors import SavedDatasetLocationAlreadyExists
from feast.infra.offline_stores.file_source import SavedDatasetFileStorage
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.saved_dataset import SavedDatasetStorage

from slipway.errors import FeatureSourceError
from slipway.features.offline.writes import Destination

# Pandas has no gaps in its integers and truth values but in these.
_NULLABLE = {
    pa.int8(): pd.Int8Dtype(),
    pa.int16(): pd.Int16Dtype(),
    pa.int32(): pd.Int32Dtype(),
    pa.int64(): pd.Int64Dtype(),
    pa.uint8(): pd.UInt8Dtype(),
    pa.uint16(): pd.UInt16Dtype(),
    pa.uint32(): pd.UInt32Dtype(),
    pa.uint64(): pd.UInt64Dtype(),
    pa.bool_(): pd.BooleanDtype(),
}


class PolarsRetrievalJob(RetrievalJob):
    """Nothing is read before one of the `to_…` methods or `persist` is called; each call reads anew."""

    def __init__(
        self,
        evaluate: Callable[[], pa.Table],
        *,
        destination: Callable[[str, str | None], Destination],
        staging_location: str | None = None,
        full_feature_names: bool = False,
        on_demand_feature_views: list[OnDemandFeatureView] | None = None,
        metadata: RetrievalMetadata | None = None,
    ) -> None:
        self._evaluate = evaluate
        self._destination = destination
        self._staging_location = staging_location
        self._full_feature_names = full_feature_names
        self._on_demand_feature_views = on_demand_feature_views or []
        self._metadata = metadata

    @property
    def full_feature_names(self) -> bool:
        return self._full_feature_names

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        return self._on_demand_feature_views

    @property
    def metadata(self) -> RetrievalMetadata | None:
        return self._metadata

    def to_df(self, validation_reference: Any = None, timeout: int | None = None) -> pd.DataFrame:
        """With on-demand features. Integers and truth values with gaps become pandas' nullable types."""
        return to_pandas(self.to_arrow(validation_reference=validation_reference, timeout=timeout))

    def to_polars(self) -> pl.DataFrame:
        """With on-demand features."""
        return pl.DataFrame(self.to_arrow())

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        return to_pandas(self._to_arrow_internal(timeout))

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        return self._evaluate()

    def to_sql(self) -> str:
        raise FeatureSourceError(
            "there is no SQL behind this store", fix="use to_polars, to_arrow or to_df for the rows"
        )

    def persist(
        self, storage: SavedDatasetStorage, allow_overwrite: bool = False, timeout: int | None = None
    ) -> None:
        """Write the answer to a file or a prefix, whole or not at all."""
        if not isinstance(storage, SavedDatasetFileStorage):
            raise FeatureSourceError(
                f"a saved dataset in {type(storage).__name__}, and this store writes Parquet files only",
                fix="use feast.infra.offline_stores.file_source.SavedDatasetFileStorage",
            )
        options = storage.file_options
        destination = self._destination(options.uri, options.s3_endpoint_override)
        if not allow_overwrite and destination.exists():
            raise SavedDatasetLocationAlreadyExists(location=options.uri)
        if not destination.replace(self.to_arrow(timeout=timeout), overwrite=allow_overwrite):
            raise SavedDatasetLocationAlreadyExists(location=options.uri)

    def supports_remote_storage_export(self) -> bool:
        return self._staging_location is not None

    def to_remote_storage(self) -> list[str]:
        """Write the answer below the staging location and tell the files."""
        if self._staging_location is None:
            raise FeatureSourceError(
                "the store has no staging location",
                fix="set offline_store.staging_location in feature_store.yaml",
            )
        return self._destination(self._staging_location, None).stage(self.to_arrow())


def to_pandas(table: pa.Table) -> pd.DataFrame:
    """A fresh index, and the types that lose nothing."""
    described = (table.schema.pandas_metadata or {}).get("columns", ())
    extension = {
        c["name"] for c in described if str(c["numpy_type"])[:1].isupper() or c["numpy_type"] == "boolean"
    }
    gaps = {
        name: column
        for name, column in zip(table.column_names, table.columns, strict=True)
        if column.null_count and column.type in _NULLABLE and name not in extension
    }
    frame = table.drop_columns(list(gaps)).to_pandas() if gaps else table.to_pandas()
    for name, column in gaps.items():
        frame.insert(table.column_names.index(name), name, column.to_pandas(types_mapper=_NULLABLE.get))
    # In place: reset_index would copy all of it.
    frame.index = pd.RangeIndex(len(frame))
    return frame
