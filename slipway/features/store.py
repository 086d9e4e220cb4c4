"""Feast, wired from our settings in code: no feature_store.yaml that could say something else."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from slipway.features.importing import import_feast
from slipway.settings import Settings

if TYPE_CHECKING:
    from feast import FeatureStore, RepoConfig

OFFLINE_STORE = "slipway.features.offline.PolarsOfflineStore"
ONLINE_STORE = "slipway.features.online.PackedOnlineStore"
COMPUTE_ENGINE = "slipway.features.engine.ArrowComputeEngine"


def repo_config(settings: Settings) -> RepoConfig:
    """Feast's configuration for these settings."""
    import_feast()
    from feast import RepoConfig

    return RepoConfig(
        project=settings.features.project,
        provider="local",
        registry={"registry_type": "sql", "path": settings.features.registry, "cache_ttl_seconds": 60},
        offline_store=_offline(settings),
        online_store={
            "type": ONLINE_STORE,
            "url": settings.online.url,
            "timeout": settings.online.timeout,
            "cluster": settings.online.cluster,
            "clock": settings.features.clock,
        },
        batch_engine={"type": COMPUTE_ENGINE},
        entity_key_serialization_version=3,
    )


def _offline(settings: Settings) -> dict[str, Any]:
    return {"type": OFFLINE_STORE, "s3": msgspec.to_builtins(settings.s3)}


def open_store(settings: Settings) -> FeatureStore:
    """The feature store that these settings describe; makes the folder of a SQLite registry."""
    import_feast()
    from feast import FeatureStore

    scheme, _, path = settings.features.registry.partition(":///")
    if scheme.startswith("sqlite") and path:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    return FeatureStore(config=repo_config(settings))
