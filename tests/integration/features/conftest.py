"""A feature store of its own for each test module, on a real Valkey."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from feast import FeatureStore, RepoConfig

from tests.valkey import ValkeyServer

NOW = datetime(2013, 7, 1, 12, tzinfo=UTC)


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    with ValkeyServer(tmp_path_factory.mktemp("valkey")) as server:
        yield server


def make_store(
    folder: Path, url: str, *, project: str, clock: str = NOW.isoformat(), **online: object
) -> FeatureStore:
    return FeatureStore(
        config=RepoConfig(
            project=project,
            provider="local",
            registry={"registry_type": "sql", "path": f"sqlite:///{folder}/registry-{project}.db"},
            offline_store={"type": "dask"},
            online_store={
                "type": "slipway.features.online.PackedOnlineStore",
                "url": url,
                "clock": clock,
                "timeout": 20.0,
                **online,
            },
            batch_engine={"type": "slipway.features.engine.ArrowComputeEngine"},
            entity_key_serialization_version=3,
        )
    )
