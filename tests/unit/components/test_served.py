"""The runtime that verify starts does not outlive it."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

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
        os.kill(child, 0)
        process.kill()
        process.wait(10)
    until = time.monotonic() + 10
    while time.monotonic() < until:
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            return
        time.sleep(0.02)
    pytest.fail(f"process {child} still runs")
