"""Ctrl-C while the demo works: the platform stays, as it says, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil

from slipway.local import Platform
from tests.unit.cli.test_interrupt import HOOK


def marked(mark: str) -> set[int]:
    """The processes that were started with this in their environment."""
    found = set()
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get("DEMO") == mark:
                found.add(process.pid)
        except (psutil.Error, OSError):
            continue
    return found


def test_an_interrupted_demo_ends_at_once_and_leaves_the_platform_alone(tmp_path: Path) -> None:
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(HOOK)
    home = tmp_path / "home"
    environment = {
        **os.environ,
        "SLIPWAY_HOME": str(home),
        "PYTHONPATH": str(tmp_path / "hook"),
        # The platform is up by then, and the process that the steps are forked from is importing.
        "INTERRUPT_AT": "components.ingest",
        "DEMO": str(tmp_path),
    }
    command = [str(Path(sys.executable).with_name("slipway")), "demo"]
    platform = Platform(home)
    try:
        ended = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=240, cwd=tmp_path
        )
        assert ended.returncode == 130, ended.stderr
        assert ended.stderr.endswith(
            "error: interrupted\n  to mend it: the same command again goes on where this one ended\n"
        )
        assert "Traceback" not in ended.stderr
        assert marked(str(tmp_path)) == set()
        assert platform.status().up
        with platform.home.locked(0.0, what="demo", name="demo.lock"):
            pass  # the next demo may begin
    finally:
        platform.down()
