"""The project of docs/your-own-project.md: its files and its commands, as the page has them."""

from __future__ import annotations

import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from components.stepping import Event, read_events
from slipway.cli.app import run
from slipway.objects import ObjectStore
from slipway.registry import Registry
from slipway.settings import Settings, load_settings

PAGE = Path(__file__).parents[2] / "docs" / "your-own-project.md"
HOOKS = Path(__file__).parents[1] / "integration" / "pipelines" / "hooks"
"""For PYTHONPATH, where a test stops a step of its choosing."""
NAME = "machine-failure"
TRAIN = {"start": "2024-01-08", "end": "2024-04-27", "config": '{"model": {"kind": "logistic"}}'}
"""What the page's training is asked for."""

VARIANTS = '''
import msgspec
import polars as pl

from slipway.project import Budget, RequestField
from workshop.project import PROJECT


def _with(**changed):
    return msgspec.structs.replace(PROJECT, **changed)


def leak(rows, start, end):
    """The answer under another name, as a request field."""
    return rows.with_columns(hint=pl.col("failed").cast(pl.Float64) * 7 + 3), {}


OVERSIZED = _with(budget=Budget(model_bytes=500))
HINT = RequestField(name="hint")
LEAKED = _with(request_fields=(*PROJECT.request_fields, HINT), prepare="variants:leak")
SWEPT = _with(name="swept")
KILLED = _with(name="killed")
STOPPED = _with(name="stopped")
'''
"""More questions about the same rows, each of which something is wrong with, or which needs its own name."""


def files_and_commands() -> tuple[dict[str, str], list[str]]:
    """What the page says to write, by name, and what it says to call, in order."""
    blocks = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    files = {body.split("\n", 1)[0].removeprefix("# "): body for kind, body in blocks if kind != "sh"}
    return files, [line for kind, body in blocks if kind == "sh" for line in body.splitlines()]


class Workshop:
    """The page's folder, and whatever is done in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files, self.commands = files_and_commands()
        self.done: dict[str, subprocess.CompletedProcess[str]] = {}
        self.first: Mapping[str, Event] = {}
        """How each step of the page's training ended."""
        self.first_events: list[Event] = []
        self.first_log = ""
        own = {name: text for name, text in os.environ.items() if not name.startswith(("SLIPWAY_", "AWS_"))}
        # As after activating the environment that slipway is installed in.
        self.environment = {**own, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
        for name, text in {**self.files, "variants.py": VARIANTS}.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)

    def call(self, line: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """A command of its own, as a user's shell starts it."""
        return subprocess.run(
            line,
            shell=True,
            cwd=self.folder,
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=900,
        )

    def slipway(self, line: str) -> subprocess.CompletedProcess[str]:
        """The same by the command line's front in this process, which imports Feast and MLflow but once."""
        out, err = io.StringIO(), io.StringIO()
        with self.inside(), redirect_stdout(out), redirect_stderr(err):
            code = run(shlex.split(line)[1:])
        return subprocess.CompletedProcess(line, code, out.getvalue(), err.getvalue())

    @contextmanager
    def inside(self) -> Iterator[None]:
        """The project's folder as the current one, and no settings but its own."""
        with pytest.MonkeyPatch.context() as patch:
            for name in [name for name in os.environ if name.startswith(("SLIPWAY_", "AWS_"))]:
                patch.delenv(name)
            patch.chdir(self.folder)
            patch.syspath_prepend(self.folder)
            yield

    def follow(self) -> None:
        """Do what the page says, up to its end; there the platform goes down."""
        for line in self.commands:
            if line != "slipway down":
                self.done[line] = (self.slipway if line.startswith("slipway ") else self.call)(line)
                assert self.done[line].returncode == 0, f"{line}\n{self.done[line].stderr}"
        # Read now: of later runs there are many, and the folders of old ones are removed.
        self.first_events = self.events()
        self.first_log = (self.last_run("train") / "log.txt").read_text()
        self.first = {event.step: event for event in self.first_events if event.state != "started"}

    @property
    def settings(self) -> Settings:
        return load_settings({"SLIPWAY_HOME": str(self.folder / ".slipway")}, directory=self.folder)

    @property
    def objects(self) -> ObjectStore:
        return ObjectStore.from_settings(self.settings)

    @property
    def registry(self) -> Registry:
        return Registry(self.settings)

    def last_run(self, pipeline: str) -> Path:
        """Its folder."""
        return max((self.folder / ".slipway" / "runs").glob(f"*-{pipeline}"))

    def events(self, pipeline: str = "train") -> list[Event]:
        """Of the last of the runs so far."""
        return read_events(self.last_run(pipeline) / "events.jsonl")[0]
