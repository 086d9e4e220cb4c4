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

import pytest

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
            process.wait(60)


def two_workers(process: subprocess.Popen[str], *, without: int = 0) -> list[int]:
    """Oldest first; awaited until there are two, and one that was killed is not among them."""
    place = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    until = time.monotonic() + 60
    while time.monotonic() < until:
        found = [int(pid) for pid in place.read_text().split()]
        if len(found) == 2 and without not in found:
            return found
        time.sleep(0.002)
    raise AssertionError(f"two workers were awaited, without {without}: {found}")


def test_a_worker_that_is_killed_in_its_first_moment_is_replaced() -> None:
    with supervisor("time.sleep(60)") as process:
        killed, other = two_workers(process)
        os.kill(killed, signal.SIGKILL)
        assert two_workers(process, without=killed)[0] == other
        process.terminate()
        assert process.wait(60) == 0
        assert process.stderr is not None
        assert process.stderr.read() == "slipway: worker 0 ended with -9; starting it again\n"


@pytest.mark.parametrize("seconds", [0, 1.5])
def test_workers_that_cannot_start_end_the_server_with_their_code(seconds: float) -> None:
    with supervisor(f'time.sleep({seconds}); raise ModelFailed("no such model")') as process:
        assert process.wait(60) == ModelFailed("x").exit_code
        assert process.stderr is not None
        assert "no such model" in process.stderr.read()


def test_a_defect_while_starting_ends_the_server_and_is_shown() -> None:
    with supervisor("1 / 0") as process:
        assert process.wait(60) == 1
        assert process.stderr is not None
        assert "ZeroDivisionError" in process.stderr.read()


def test_a_worker_that_fails_after_another_has_started_is_replaced() -> None:
    run = 'siblings.first and siblings.fate.tell_started(); time.sleep(1.5); raise ModelFailed("gone")'
    with supervisor(run) as process:
        assert process.stderr is not None
        seen = {process.stderr.readline() for _ in range(4)}
        code = ModelFailed("x").exit_code
        assert f"slipway: worker 0 ended with {code}; starting it again\n" in seen
        assert len(two_workers(process)) == 2


def test_a_worker_that_ends_again_and_again_is_not_started_in_a_loop() -> None:
    with supervisor("time.sleep(0 if siblings.first else 60); os._exit(7)") as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "slipway: worker 0 ended with 7; starting it again\n"
        # Those after it are not the first, and are killed in their first moment.
        began = time.monotonic()
        for _ in range(3):
            _, fresh = two_workers(process)
            os.kill(fresh, signal.SIGKILL)
            assert process.stderr.readline() == "slipway: worker 0 ended with -9; starting it again\n"
        two_workers(process, without=fresh)
        assert time.monotonic() - began > 2.5
