"""Feast's offline store on Polars: point-in-time joins over Parquet, here or on any S3.

Importing this imports Feast, which takes seconds; nothing that serves may do so.
"""

from slipway.features.offline.job import PolarsRetrievalJob
from slipway.features.offline.store import PolarsOfflineStore, PolarsOfflineStoreConfig

__all__ = ["PolarsOfflineStore", "PolarsOfflineStoreConfig", "PolarsRetrievalJob"]
