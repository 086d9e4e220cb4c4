"""One project, trained once as docs/your-own-project.md says; all tests here go on from there."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from components.stepping import Event
from pipelines import warm as warm_module
from pipelines.local import RunResult, run_local
from pipelines.warm import StepServer
from slipway.local import Platform
from tests.support.workshop import TRAIN, Workshop

Train = Callable[..., RunResult]
HOOKS = Path(__file__).with_name("hooks")
ROOT = Path(__file__).parents[3]


@contextmanager
def _warm_steps(server: StepServer) -> Iterator[None]:
    """Only while a test of this folder runs: the tests after it start processes of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{HOOKS}{os.pathsep}{ROOT}")
        patch.setattr(warm_module, "_server", server)
        yield


@pytest.fixture(scope="session")
def warm() -> Iterator[StepServer]:
    """One process for the steps of all runs; with a hook by which a test can kill a step."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{HOOKS}{os.pathsep}{ROOT}")
        server = StepServer()
    try:
        yield server
    finally:
        server.close()


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory, warm: StepServer) -> Iterator[Workshop]:
    made = Workshop(tmp_path_factory.mktemp("workshop"))
    try:
        with _warm_steps(warm):
            made.follow()
        yield made
    finally:
        Platform(made.folder / ".slipway").down()


@pytest.fixture
def inside(workshop: Workshop, warm: StepServer) -> Iterator[Workshop]:
    """The project's folder as the current one."""
    with _warm_steps(warm), workshop.inside():
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
