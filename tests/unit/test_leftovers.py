"""A session of tests leaves nothing running, even where one of its workers was killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil

TESTS = """
import os, signal, subprocess

def test_worker_dies(tmp_path):
    (tmp_path / "data").mkdir()
    server = subprocess.Popen(["sleep", "600"], cwd=tmp_path / "data", start_new_session=True)
    (tmp_path.parents[1] / "pid").write_text(str(server.pid))
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_servers_of_a_killed_worker_are_ended(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-n", "1", "--max-worker-restart", "0"]
    ran = subprocess.run(
        [*command, "--basetemp", str(tmp_path / "base"), str(tmp_path / "test_it.py")],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert "1 failed" in ran.stdout
    pid = int((tmp_path / "base" / "pid").read_text())
    assert f"left running, and ended now: {pid} sleep 600" in ran.stdout
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
