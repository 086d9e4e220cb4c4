"""One server with the whole zoo, for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.__main__ import write_models
from tests.support.models import write_repository
from tests.support.server import Running, running_server


@pytest.fixture(scope="session")
def zoo_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    root = tmp_path_factory.mktemp("zoo")
    with running_server(write_repository(root / "models"), root / "run") as server:
        yield server


@pytest.fixture(scope="session")
def conformance_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    root = tmp_path_factory.mktemp("conformance")
    write_models(root / "models")
    with running_server(root / "models", root / "run") as server:
        yield server


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """An empty folder for models of the test's own."""
    folder = tmp_path / "models"
    folder.mkdir()
    return folder
