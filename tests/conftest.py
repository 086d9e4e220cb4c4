"""What all tests share."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

# Folders whose tests stand on one costly fixture: all their tests go to one worker, the others wherever
# there is room. (pytest-xdist's own `--dist loadgroup` writes the group into a test's name, and pytest 9
# no longer reads the name from there: every worker then sets up everything.)
TOGETHER = ("tests/integration/pipelines/",)


class TogetherScheduling(LoadScopeScheduling):
    """One scope for each folder of TOGETHER, and one for each test elsewhere."""

    def _split_scope(self, nodeid: str) -> str:
        return next((folder for folder in TOGETHER if nodeid.startswith(folder)), nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    return TogetherScheduling(config, log)


def pytest_configure(config: pytest.Config) -> None:
    # Else it writes its list of fonts into the home of whoever runs the tests.
    os.environ.setdefault("MPLCONFIGDIR", str(Path(__file__).parents[1] / ".pytest_cache" / "matplotlib"))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """End what works in this session's temporary folder: the servers of a worker that was killed."""
    if hasattr(session.config, "workerinput"):
        return
    folder = session.config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if folder in Path(process.cwd()).parents and process.status() != psutil.STATUS_ZOMBIE:
                print(f"\nleft running, and ended now: {process.pid} {' '.join(process.cmdline())}")
                process.kill()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--fuzz-inputs", type=int, default=2000, help="how many random inputs each fuzz test tries"
    )
    parser.addoption("--fuzz-seed", type=int, default=0, help="another number, other random inputs")
    parser.addoption("--fuzz-replay", default="", help="folder of inputs to try in place of random ones")
    parser.addoption("--soak-seconds", type=float, default=600.0, help="how long the soak lasts")


@pytest.fixture(scope="session")
def soak_seconds(request: pytest.FixtureRequest) -> float:
    value = request.config.getoption("--soak-seconds")
    assert isinstance(value, float)
    return value


@pytest.fixture(scope="session")
def fuzz_inputs(request: pytest.FixtureRequest) -> int:
    value = request.config.getoption("--fuzz-inputs")
    assert isinstance(value, int)
    return value
