"""The runtime that verify starts does not outlive it."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from slipway.local.launch import identity

VERIFY = """
import subprocess, sys
from components.verify.served import _tied_to_us
child = [sys.executable, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(120)"]
subprocess.run([*_tied_to_us(), *child])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_what_a_killed_step_had_started_ends_with_it() -> None:
    with subprocess.Popen([sys.executable, "-c", VERIFY], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        known = identity(child)
        assert known is not None
        process.kill()
        process.wait()
    # Ended, even where nobody takes note of its end: in a container the first process may be anyone.
    until = time.monotonic() + 30
    while identity(child) == known:
        assert time.monotonic() < until, f"process {child} still runs"
        time.sleep(0.02)
