"""One project, trained once as docs/your-own-project.md says; all tests here go on from there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from components.stepping import Event
from pipelines.local import RunResult, run_local
from pipelines.warm import StepServer, lent
from slipway.local import Platform
from tests.support.workshop import HOOKS, TRAIN, Workshop

Train = Callable[..., RunResult]
FOLDER = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whichever test comes first waits for the workshop: a minute, six on a busy machine."""
    for item in items:
        if item.path.is_relative_to(FOLDER) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(1800))


@pytest.fixture(scope="session")
def warm() -> Iterator[StepServer]:
    """One process for the steps of all runs; with a hook by which a test can kill a step."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(HOOKS))
        server = StepServer()
    try:
        yield server
    finally:
        server.close()


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory, warm: StepServer) -> Iterator[Workshop]:
    made = Workshop(tmp_path_factory.mktemp("workshop"))
    try:
        with lent(warm):
            made.follow()
        yield made
    finally:
        Platform(made.folder / ".slipway").down()


@pytest.fixture
def inside(workshop: Workshop, warm: StepServer) -> Iterator[Workshop]:
    """The project's folder as the current one."""
    with lent(warm), workshop.inside():
        yield workshop


@pytest.fixture
def told() -> list[Event]:
    """What a run told while it went on."""
    return []


@pytest.fixture
def train(inside: Workshop, told: list[Event]) -> Train:
    """The page's training with other arguments, in warm steps."""

    def run(pipeline: str = "train", **arguments: Any) -> RunResult:
        given = {"why": "test", **TRAIN} if pipeline == "train" else {}
        return run_local(pipeline, {**given, **arguments}, inside.settings, tell=told.append)

    return run
