"""What every step of a pipeline does around its work: settings, events, and errors that the front can show.

A step may run in a process, a container or a pod of its own. It tells what happens in two ways: lines on
stdout for whoever reads logs, and, where SLIPWAY_RUN_EVENTS names a file, one JSON line an event for the
command line that started the run.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import msgspec

from slipway.errors import SlipwayError
from slipway.local.launch import identity
from slipway.settings import Settings, load_settings

EVENTS = "SLIPWAY_RUN_EVENTS"
OWNER = "SLIPWAY_RUN_OWNER"
"""Process id and identity of the command that waits for the step, where it cannot end the step itself."""


class Event(msgspec.Struct, frozen=True, kw_only=True):
    step: str
    state: Literal["started", "done", "failed"]
    seconds: float = 0.0
    told: str = ""
    """What it did, in one line; or what went wrong."""
    result: str = ""
    """What the step answered: an address, a version."""
    error: str = ""
    """The class of the error."""
    where: str | None = None
    fix: str | None = None


class Step:
    """Handed to the body of a step, which answers through it."""

    def __init__(self, name: str, settings: Settings) -> None:
        self.name = name
        self.settings = settings
        self.told = ""
        self.result = ""

    def answer(self, result: str, line: str) -> str:
        """What the step answers to the pipeline, and the line that tells people of it."""
        self.result, self.told = result, line
        return result


@contextmanager
def step(name: str) -> Iterator[Step]:
    """Run the body as a step: its begin, its end and its errors are told, and errors pass on."""
    began = time.monotonic()
    _end_with_runner()
    _send(Event(step=name, state="started"))
    try:
        body = Step(name, load_settings())
        yield body
    except SlipwayError as error:
        _fail(name, began, error, error.what, error.where, error.fix)
        # What, where and how to mend it is told; a traceback through kfp's executor adds nothing.
        raise SystemExit(error.exit_code) from None
    except BaseException as error:
        _fail(name, began, error, f"{type(error).__name__}: {error}")
        raise
    seconds = time.monotonic() - began
    _send(Event(step=name, state="done", seconds=seconds, told=body.told, result=body.result))
    print(f"{name}: {body.told or 'done'} ({seconds:.1f} s)", flush=True)


def _fail(
    name: str,
    began: float,
    error: BaseException,
    told: str,
    where: str | None = None,
    fix: str | None = None,
) -> None:
    _send(
        Event(
            step=name,
            state="failed",
            seconds=time.monotonic() - began,
            told=told,
            error=type(error).__name__,
            where=where,
            fix=fix,
        )
    )
    print(f"{name} failed: {error}", file=sys.stderr, flush=True)


def _end_with_runner() -> None:
    """A step must not go on beside that of the next run."""
    number, _, known = os.environ.get(OWNER, "").partition(" ")
    if not number:
        return

    def watch() -> None:
        while identity(int(number)) == known:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=watch, daemon=True).start()


def _send(event: Event) -> None:
    path = os.environ.get(EVENTS)
    if not path:
        return
    # One write in append mode: parallel steps do not tear each other's lines.
    with open(path, "ab", buffering=0) as file:
        file.write(msgspec.json.encode(event) + b"\n")


def read_events(path: str | os.PathLike[str], start: int = 0) -> tuple[list[Event], int]:
    """The events from byte `start` on, and where to read on."""
    try:
        with open(path, "rb") as file:
            file.seek(start)
            text = file.read()
    except FileNotFoundError:
        return [], start
    whole = text[: text.rfind(b"\n") + 1]
    return [msgspec.json.decode(line, type=Event) for line in whole.splitlines()], start + len(whole)
