"""Real servers for the integration tests."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from slipway.local import Platform
from slipway.settings import Settings, load_settings


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Settings of an embedded platform of this worker's own: real S3 and a real online store.

    It lives as long as the session, so keep your keys apart: a prefix or an entity name for each test. A test
    that stops or kills a server starts a Platform of its own.
    """
    home = tmp_path_factory.mktemp("platform") / "home"
    embedded = Platform(home)
    try:
        embedded.up()
        yield load_settings({"SLIPWAY_HOME": str(home)}, directory=home)
    finally:
        embedded.down()


@pytest.fixture(scope="session")
def platform_environment(platform: Settings) -> dict[str, str]:
    """The environment for a process of its own (`slipway ...`, a server) that shall use that platform."""
    others = {name: value for name, value in os.environ.items() if not name.startswith(("SLIPWAY_", "AWS_"))}
    return {**others, "SLIPWAY_HOME": platform.home}
