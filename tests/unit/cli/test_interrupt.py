"""A Ctrl-C in whatever moment of a command's start: one line, the right code, and no traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from slipway.cli import main

HOOK = """
import os, signal, sys

class Interrupted:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == os.environ["INTERRUPT_AT"]:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupted)
"""


def interrupted(folder: Path, module: str, *command: str) -> subprocess.CompletedProcess[str]:
    """The command, and a Ctrl-C where it imports that module."""
    (folder / "sitecustomize.py").write_text(HOOK)
    environment = {**os.environ, "PYTHONPATH": str(folder), "INTERRUPT_AT": module}
    environment["SLIPWAY_HOME"] = str(folder / "home")
    return subprocess.run(
        command, cwd=Path(__file__).parents[3], env=environment, capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize(
    "module", ["typer", "typer.core", "slipway.cli.app", "slipway.cli.status", "msgspec"]
)
def test_the_command_says_so_in_one_line(tmp_path: Path, module: str) -> None:
    ended = interrupted(tmp_path, module, str(Path(sys.executable).with_name("slipway")), "status")
    assert (ended.returncode, ended.stdout) == (130, "")
    assert ended.stderr.startswith("error: interrupted\n  to mend it: the same command again")
    assert len(ended.stderr.splitlines()) == 2


@pytest.mark.parametrize("module", ["slipway.errors", "numpy", "serving.runtime.server"])
def test_a_server_that_is_starting_ends_without_a_word(tmp_path: Path, module: str) -> None:
    ended = interrupted(tmp_path, module, sys.executable, "-m", "serving.runtime", "--http-port", "0")
    assert (ended.returncode, ended.stdout, ended.stderr) == (-signal.SIGINT, "", "")


def test_what_python_makes_of_one_while_a_class_is_made_is_no_defect(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from slipway.cli import status

    def failing(*arguments: object) -> None:
        raise RuntimeError("Error calling __set_name__ on 'cached_property'") from KeyboardInterrupt()

    monkeypatch.setattr(status, "embedded", failing)
    assert main(["status"]) == 130
    assert capsys.readouterr().err.startswith("error: interrupted\n")
    monkeypatch.setattr(status, "embedded", lambda *arguments: 1 // 0)
    assert main(["status"]) == 70
