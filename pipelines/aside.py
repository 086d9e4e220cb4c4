"""What the demo has done beside its main work: each in a process of its own, forked from the step server.

`python -m pipelines.aside WHAT FILE ARGUMENT...` does it and writes to the file what there is to tell, or why
it went wrong.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from pipelines.stepserver import NOW, WARM
from pipelines.warm import StepServer, run_module
from slipway import errors
from slipway.errors import SlipwayError
from slipway.settings import Settings, load_settings


class Told(msgspec.Struct, frozen=True):
    line: str = ""
    """What was done; empty if it went wrong."""
    error: str = ""
    what: str = ""
    where: str | None = None
    fix: str | None = None


def aside(server: StepServer | None, what: str, home: Path, *arguments: str) -> str:
    """Have it done, and wait for it: what it tells. What it raises is raised here."""
    folder = home / "aside"
    folder.mkdir(parents=True, exist_ok=True)
    file, log = folder / f"{what}.json", folder / f"{what}.log"
    file.unlink(missing_ok=True)
    # Feast is what the server imports first; MLflow and scikit-learn come much later.
    when = NOW if what in ("online", "snapshot") else WARM
    code = run_module(server, "pipelines.aside", [what, str(file), *arguments], log, when=when)
    if not file.exists():
        raise SlipwayError(
            f"the demo's part {what!r} ended with {code}",
            where=str(log),
            fix="the log has the whole story; the same command again goes on where this one ended",
        )
    told = msgspec.json.decode(file.read_bytes(), type=Told)
    if told.error:
        raise getattr(errors, told.error, SlipwayError)(told.what, where=told.where, fix=told.fix)
    return told.line


def _tracking(settings: Settings) -> str:
    """The first use makes MLflow's database."""
    from slipway.registry import Registry

    return f"{len(Registry(settings).names())} models"


def _online(settings: Settings) -> str:
    from feature_repo import definitions
    from slipway.features.manage import apply_definitions, materialize

    apply_definitions(settings, definitions(settings))
    return f"{sum(item.rows for item in materialize(settings)):,} entities hold their latest values"


def _snapshot(settings: Settings, start: str, end: str) -> str:
    """Who asks for it later finds it taken."""
    from components.snapshot import Window, take_snapshot
    from slipway.project import load_project

    return take_snapshot(settings, load_project(settings), Window(start, end)).uri


def _broken(settings: Settings, snapshot: str) -> str:
    from pipelines.broken import refused

    return refused(settings, snapshot)


WORK: dict[str, Callable[..., str]] = {
    "tracking": _tracking,
    "online": _online,
    "snapshot": _snapshot,
    "broken": _broken,
}


def main(what: str, file: Path, arguments: Sequence[str]) -> None:
    try:
        told = Told(line=WORK[what](load_settings(), *arguments))
    except SlipwayError as error:
        told = Told(error=type(error).__name__, what=error.what, where=error.where, fix=error.fix)
    partial = file.with_suffix(f".{os.getpid()}")
    partial.write_bytes(msgspec.json.encode(told))
    partial.replace(file)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
