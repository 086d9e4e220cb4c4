"""The front and the engine in this process, with a transport that keeps what is written."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from serving.runtime.config import Config
from serving.runtime.engine import Engine
from serving.runtime.grpc.server import GrpcServer
from serving.runtime.http1 import Connection, Server
from serving.runtime.routes import Routes
from serving.runtime.storage import open_storage
from tests.fuzz.campaign import Campaign
from tests.support.models import write_repository

MODELS = ("logistic", "two_and_two", "every_dtype", "categories", "lookup", "half")


class Transport(asyncio.Transport):
    def __init__(self, *, strict: bool = True) -> None:
        """Strict: writing after the end is an error, and not lost as on a real socket."""
        super().__init__()
        self.strict = strict
        self.written = bytearray()
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not (self.closed and self.strict), f"written after the end: {bytes(data)!r}"
        if not self.closed:
            self.written += data

    def writelines(self, pieces: object) -> None:
        self.write(b"".join(pieces))  # type: ignore[call-overload]

    def close(self) -> None:
        self.closed = True

    abort = close

    def write_eof(self) -> None:
        pass

    def can_write_eof(self) -> bool:
        return True

    def is_reading(self) -> bool:
        return not self.closed

    def is_closing(self) -> bool:
        return self.closed

    def get_extra_info(self, name: str, default: object = None) -> object:
        return {"peername": ("127.0.0.1", 1)}.get(name, default)

    def pause_reading(self) -> None:
        pass

    resume_reading = pause_reading

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass


class Faults(logging.Handler):
    """What the server logs as its own fault."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@dataclass
class Front:
    engine: Engine
    server: Server
    grpc: GrpcServer
    faults: Faults

    def connect(self) -> tuple[Connection, Transport]:
        connection, transport = self.server(), Transport()
        connection.connection_made(transport)
        return connection, transport


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    write_repository(tmp_path, MODELS)
    config = Config(model_dir=str(tmp_path), max_body=1 << 20)
    loop = asyncio.get_running_loop()
    engine = Engine(config, open_storage(config.model_dir), loop)
    routes = Routes(engine)
    server = Server(config, loop, routes.route, routes.refuse, routes.expire)
    # Before the models come: both fronts prepare each as it is loaded.
    grpc = GrpcServer(engine)
    await engine.start()
    faults = Faults()
    logging.getLogger("slipway").addHandler(faults)
    yield Front(engine, server, grpc, faults)
    logging.getLogger("slipway").removeHandler(faults)
    engine.close()


@pytest.fixture
def campaign(request: pytest.FixtureRequest, fuzz_inputs: int) -> Iterator[Campaign]:
    """Every target's inputs; none may leave the process larger."""
    replay = request.config.getoption("--fuzz-replay")
    name = re.sub(r"\W+", "-", request.node.name.removeprefix("test_")).strip("-")
    seed = request.config.getoption("--fuzz-seed")
    running = Campaign(name, fuzz_inputs, Path(replay) if replay else None, seed)
    request.node.stash[_CAMPAIGN] = running
    yield running
    summaries = request.config.stash.setdefault(_SUMMARIES, [])
    summaries.append(running.summary())
    running.check_growth()


_CAMPAIGN = pytest.StashKey[Campaign]()
_SUMMARIES = pytest.StashKey[list[str]]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    running = item.stash.get(_CAMPAIGN, None)
    if running is not None and report.when == "call" and report.failed:
        folder = running.save(item.config.rootpath / ".fuzz")
        report.sections.append(("inputs", f"after {running.seen:,}; the last are in {folder}"))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for line in config.stash.get(_SUMMARIES, []):
        terminalreporter.write_line(line)
