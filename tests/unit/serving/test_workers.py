"""Which deaths of a worker are mended, and which end the server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from slipway.errors import ModelFailed

PROGRAM = """
import os, sys, time
import serving.runtime.server
from serving.runtime.config import parse_config
from serving.runtime.workers import supervise
from slipway.errors import ModelFailed

def run(config, siblings):
    {run}

serving.runtime.server.run = run
sys.exit(supervise(parse_config(["--workers", "2"])))
"""


@contextmanager
def supervisor(run: str) -> Iterator[subprocess.Popen[str]]:
    """Two workers, each of which does this."""
    program = PROGRAM.format(run=run)
    with subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.terminate()
            process.wait(20)


def children(process: subprocess.Popen[str], count: int) -> set[int]:
    place = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    until = time.monotonic() + 30
    while time.monotonic() < until:
        found = {int(pid) for pid in place.read_text().split()}
        if len(found) == count:
            return found
        time.sleep(0.002)
    raise AssertionError(f"{count} workers were awaited: {found}")


def test_a_worker_that_is_killed_in_its_first_moment_is_replaced() -> None:
    with supervisor("time.sleep(60)") as process:
        first = children(process, 2)
        killed = min(first)
        os.kill(killed, signal.SIGKILL)
        children(process, 1)
        second = children(process, 2)
        assert second & first == first - {killed}
        process.terminate()
        assert process.wait(20) == 0
        assert process.stderr is not None
        assert process.stderr.read() == "slipway: worker 0 ended with -9; starting it again\n"


def test_workers_that_cannot_start_end_the_server_with_their_code() -> None:
    with supervisor('raise ModelFailed("no such model")') as process:
        assert process.wait(20) == ModelFailed("x").exit_code
        assert process.stderr is not None
        assert "no such model" in process.stderr.read()


def test_a_worker_that_ends_again_and_again_is_not_started_in_a_loop() -> None:
    with supervisor("time.sleep(1.2 if siblings.first else 60); os._exit(7)") as process:
        time.sleep(4.5)
        process.terminate()
        process.wait(20)
        assert process.stderr is not None
        assert 1 <= process.stderr.read().count("worker 0 ended with 7") <= 4
