"""Running a pipeline on this machine: kfp's own local runner, a process a step, no container.

The steps of several runs start faster within one `pipelines.warm.step_server()`.
"""

from __future__ import annotations

import builtins
import copy
import logging
import os
import shutil
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from components.stepping import EVENTS, Event, read_events
from pipelines.warm import Steps, step_server
from slipway import errors
from slipway.errors import SlipwayError
from slipway.settings import Settings

KEEP_RUNS = 20
"""Folders of artifacts and logs that stay; the models and reports themselves lie on S3."""

Tell = Callable[[Event], None]


class RunResult(msgspec.Struct, frozen=True):
    pipeline: str
    folder: str
    """Artifacts, events and the log."""
    steps: tuple[Event, ...]

    def result(self, step: str) -> str:
        """What a step answered; empty where it did not run."""
        return next((event.result for event in reversed(self.steps) if event.step == step), "")


def import_kfp() -> None:
    """It takes seconds: for whoever has time before a run."""
    with warnings.catch_warnings():
        # It warns of every image without "python" in its name, and of what it will do in later versions.
        warnings.simplefilter("ignore")
        from kfp import local  # noqa: F401

        from pipelines import training  # noqa: F401


def run_local(
    name: str, arguments: Mapping[str, Any], settings: Settings, *, tell: Tell = lambda event: None
) -> RunResult:
    """Run a pipeline to its end. What a step raises is raised here, with what, where and how to mend it."""
    folder = _fresh_folder(Path(settings.home) / "runs", name)
    events, log = folder / "events.jsonl", folder / "log.txt"
    with (
        step_server() as server,
        _environment({EVENTS: str(events), "SLIPWAY_HOME": settings.home}),
        _followed(events, tell),
    ):
        failure = _run(name, arguments, folder, log, Steps(server, log))
    told = read_events(events)[0]
    steps = tuple(event for event in told if event.state != "started")
    failed = next((event for event in steps if event.state == "failed"), None)
    if failed is not None:
        raise _as_error(failed, log) from failure
    if failure is not None:
        raise SlipwayError(
            f"the pipeline {name} ended early: {_killed(told) or failure}",
            where=str(log),
            fix="the log has the whole story; the same command again goes on where this one ended",
        ) from failure
    return RunResult(name, str(folder), steps)


def _killed(told: Sequence[Event]) -> str:
    """Which step began and did not live to tell its end; empty if each did."""
    open_steps = {event.step: event for event in told if event.state == "started"}
    for event in told:
        if event.state != "started":
            open_steps.pop(event.step, None)
    return f"step {next(iter(open_steps))} was killed, perhaps for want of memory" if open_steps else ""


def _run(name: str, arguments: Mapping[str, Any], folder: Path, log: Path, steps: Steps) -> Exception | None:
    """Let kfp run it, with all that it prints in the log; the exception that it raised, if any."""
    # Line by line and at the end of the file: the steps write there too.
    with (
        log.open("a", buffering=1) as file,
        redirect_stdout(file),
        redirect_stderr(file),
        warnings.catch_warnings(),
    ):
        # It warns of every image without "python" in its name, and of what it will do in later versions.
        warnings.simplefilter("ignore")
        from kfp import local

        from pipelines.training import PIPELINES

        local.init(
            runner=local.SubprocessRunner(use_venv=False),
            pipeline_root=str(folder / "artifacts"),
            workspace_root=str(folder / "workspace"),
        )
        level, ordinary_print = logging.root.level, builtins.print
        try:
            with steps.installed(), _interruptible(steps):
                _tried_once(PIPELINES[name])(**arguments)
        except Exception as error:
            return error
        finally:
            logging.root.setLevel(level)
            # kfp indents what is printed during a task, and tasks that overlap leave it so.
            builtins.print = ordinary_print
    return None


@contextmanager
def _interruptible(steps: Steps) -> Iterator[None]:
    """Ctrl-C, and SIGTERM too, end the steps and then the run; a second one does not wait for them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}

    def restore() -> None:
        for number in numbers:
            signal.signal(number, before[number])

    def interrupted(number: int, frame: object) -> None:
        restore()
        steps.interrupt()
        raise KeyboardInterrupt

    for number in numbers:
        signal.signal(number, interrupted)
    try:
        yield
    finally:
        restore()


def _tried_once(pipeline: Any) -> Any:
    """Retries are for pods that are lost. Here kfp would sleep for 45 s over an error that stays one."""
    here = copy.deepcopy(pipeline)
    spec = here.component_spec.implementation.graph
    for dag in (spec.root.dag, *(component.dag for component in spec.components.values())):
        for task in dag.tasks.values():
            task.ClearField("retry_policy")
    return here


def _as_error(event: Event, log: Path) -> SlipwayError:
    kind = getattr(errors, event.error, SlipwayError)
    if not (isinstance(kind, type) and issubclass(kind, SlipwayError)):
        kind = SlipwayError
    ours = kind is not SlipwayError or event.error == "SlipwayError"
    return kind(
        f"step {event.step}: {event.told}",
        where=event.where if ours else str(log),
        fix=event.fix if ours else "this is a defect of the step: its traceback is in the log",
    )


@contextmanager
def _followed(events: Path, tell: Tell) -> Iterator[None]:
    """Tell of events while they happen."""
    done = threading.Event()

    def follow() -> None:
        place = 0
        while True:
            last = done.wait(0.1)
            found, place = read_events(events, place)
            for event in found:
                tell(event)
            if last:
                return

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(timeout=5)


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """kfp's runner hands our environment on to the steps."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _fresh_folder(root: Path, name: str) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for old in sorted(path for path in root.iterdir() if path.is_dir())[: -KEEP_RUNS + 1]:
        shutil.rmtree(old, ignore_errors=True)
    moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%f")
    folder = root / f"{moment}-{name}"
    folder.mkdir()
    return folder
