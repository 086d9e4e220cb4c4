"""A run that is stopped in the middle of any step: the same command finishes it, and makes nothing twice."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from components.stepping import Event
from components.tracking import experiment, open_tracking
from pipelines.local import RunResult
from slipway.contract import CONTRACT_FILE, prefix_digest
from slipway.errors import SlipwayError
from slipway.local import Platform
from tests.support.workshop import HOOKS, TRAIN, Workshop

STEPS = ["snapshot", "train", "evaluate", "verify", "register", "deploy"]
MIDDLE = {
    # Each time all is there but what makes it count.
    "snapshot": "write 3",  # the manifest
    "train": "write 4",  # the last of the candidate's files, and then its record
    "evaluate": "write 2",  # the evaluation, after its report
    "verify": "write 6",  # the record, after the version's files
    "register": "move 1",  # the alias, after the version
    "deploy": "move 1",  # the alias, after the new version serves
}


def published(workshop: Workshop, name: str) -> list[str]:
    """The versions on S3 that readers see; each must be whole."""
    objects, root = workshop.objects, workshop.settings.uri("models", name) + "/"
    files: dict[str, dict[str, str]] = {}
    for info in objects.list(root):
        digest, _, file = info.uri.removeprefix(root).partition("/")
        head = objects.head(info.uri)
        assert head is not None
        files.setdefault(digest, {})[file] = head.digest or ""
    seen = {digest: held for digest, held in files.items() if CONTRACT_FILE in held}
    for digest, held in seen.items():
        assert prefix_digest(held) == digest
    return list(seen)


def versions(workshop: Workshop, name: str) -> list[int]:
    registry = workshop.registry
    return [item.version for item in registry.versions(name)] if name in registry.names() else []


def steps(told: list[Event], state: str) -> list[str]:
    return [event.step for event in told if event.state == state and event.step != "finish"]


def open_runs(workshop: Workshop) -> int:
    """MLflow runs that say they are at work."""
    client = open_tracking(workshop.settings)
    where = experiment(client, workshop.settings).experiment_id
    return len(client.search_runs([where], "attributes.status = 'RUNNING'"))


def nothing_half_done(workshop: Workshop, name: str, step: str) -> None:
    """After `step` was stopped in its middle, when those before it had ended well."""
    made = step in ("register", "deploy")
    assert versions(workshop, name) == ([1] if made else [])
    assert workshop.registry.champion(name) is None
    assert len(published(workshop, name)) == made


def finished(workshop: Workshop, name: str, result: RunResult) -> None:
    assert result.result("register") == f"{name}:1"
    assert versions(workshop, name) == [1]
    (digest,) = published(workshop, name)
    champion = workshop.registry.champion(name)
    assert champion is not None
    assert champion.digest == digest
    assert set(champion.aliases) == {"champion", "challenger"}
    served = Platform(workshop.folder / ".slipway").models / name
    assert [path.name for path in served.iterdir()] == [digest]
    assert open_runs(workshop) == 0


def test_a_step_that_was_killed_in_its_middle_is_finished_by_the_same_command(
    inside: Workshop, train, told: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    """kill -9, in each step in turn: each run finishes what the one before it left."""
    # A window of its own, so that there is a snapshot to take.
    asked = {"project": "variants:KILLED", "end": "2024-04-26"}
    places = list(MIDDLE.items())
    for step, place in [*places[:2], ("train", "write 5"), *places[2:]]:
        at = STEPS.index(step)
        told.clear()
        monkeypatch.setenv("KILL_AT", f"{step} {place}")
        with pytest.raises(SlipwayError, match=f"step {step} was killed"):
            train(**asked)
        assert steps(told, "started") == STEPS[: at + 1]
        assert steps(told, "done") == STEPS[:at]
        nothing_half_done(inside, "killed", step)
        assert open_runs(inside) == 0
        finish = told[-1]
        assert finish.step == "finish"
        assert ("1 MLflow runs of killed steps ended" in finish.told) == (place == "write 4")

    told.clear()
    monkeypatch.delenv("KILL_AT")
    result = train(**asked)
    assert steps(told, "done") == STEPS
    finished(inside, "killed", result)


WAYS = {
    # Ctrl-C reaches all that the terminal started, and `kill` the command alone. Every step is killed above;
    # here it is every way, each in a step with other things to leave behind.
    "snapshot": (os.killpg, signal.SIGINT),
    "train": (os.kill, signal.SIGTERM),
    "verify": (os.kill, signal.SIGKILL),
    "deploy": (os.killpg, signal.SIGKILL),
}
WAITS = 240.0


def processes_of(mark: str) -> dict[int, str]:
    """What lives of all that was started with this in its environment, and not by the platform."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            state = (place / "stat").read_text().rpartition(")")[2].split()[0]
            if state != "Z" and mark.encode() in (place / "environ").read_bytes():
                found[int(place.name)] = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    return found


def gates_are_asked(mark: str) -> bool:
    """The runtime that they ask has been started."""
    return any("slipway-verify-" in line for line in processes_of(mark).values())


def until(reached: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAITS
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_whole_command_stopped_in_each_way(inside: Workshop, train) -> None:
    """`slipway run train` as a user starts it: however it is stopped, no process of it stays."""
    asked = {"project": "variants:STOPPED", "end": "2024-04-25"}
    command = ["slipway", "run", "train", "--start", TRAIN["start"], "--config", TRAIN["config"]]
    command += [f"--{name}={text}" for name, text in asked.items()]
    for step, (send, number) in WAYS.items():
        mark, held = f"stopped-in-{step}", inside.folder / f"held-{step}"
        hold = {} if step == "verify" else {"HOLD_AT": f"{step} {MIDDLE[step]}"}
        environment = {**inside.environment, **hold, "PYTHONPATH": str(HOOKS), "HOLD_FILE": str(held)}
        with subprocess.Popen(
            command,
            cwd=inside.folder,
            env={**environment, "MARK": mark},
            start_new_session=True,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            until(lambda mark=mark, held=held, hold=hold: held.exists() if hold else gates_are_asked(mark))
            assert process.poll() is None
            send(process.pid, number)
            _, said = process.communicate(timeout=WAITS)
        until(lambda mark=mark: not processes_of(mark))
        if number == signal.SIGKILL:
            assert process.returncode == -signal.SIGKILL
        else:
            assert process.returncode == 130
            assert "the same command again goes on where this one ended" in said
            assert open_runs(inside) == 0
        nothing_half_done(inside, "stopped", step)
    finished(inside, "stopped", train(**asked))
