"""kill -9 in the middle of any step, then the same command again: it finishes, and nothing is there twice."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from components.stepping import Event, read_events
from slipway.contract import CONTRACT_FILE, prefix_digest
from slipway.errors import SlipwayError
from slipway.local import Platform
from tests.support.workshop import TRAIN, Workshop

pytestmark = pytest.mark.xdist_group("pipelines")

STEPS = ["snapshot", "train", "evaluate", "verify", "register", "deploy"]
MIDDLE = {
    # Each time all is there but what makes it count.
    "snapshot": "write 3",  # the manifest
    "train": "write 5",  # the record, after the candidate's files
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


@pytest.mark.parametrize("step", STEPS)
def test_a_step_that_was_killed_in_its_middle_is_finished_by_the_same_command(
    inside: Workshop, train, told: list[Event], monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    name = f"killed-{step}"
    # A window of its own for the snapshot: the others find theirs.
    asked = {"project": f"variants:KILLED_{step}"} | ({"end": "2024-04-26"} if step == "snapshot" else {})
    monkeypatch.setenv("KILL_AT", f"{step} {MIDDLE[step]}")
    with pytest.raises(SlipwayError, match=f"step {step} was killed"):
        train(**asked)
    monkeypatch.delenv("KILL_AT")
    at = STEPS.index(step)
    assert steps(told, "started") == STEPS[: at + 1]
    assert steps(told, "done") == STEPS[:at]
    assert versions(inside, name) == ([1] if step in ("register", "deploy") else [])
    assert inside.registry.champion(name) is None
    assert len(published(inside, name)) == (step in ("register", "deploy"))

    told.clear()
    result = train(**asked)
    assert steps(told, "done") == STEPS
    assert result.result("register") == f"{name}:1"
    assert versions(inside, name) == [1]
    (digest,) = published(inside, name)
    champion = inside.registry.champion(name)
    assert champion is not None
    assert champion.digest == digest
    assert set(champion.aliases) == {"champion", "challenger"}
    served = Platform(inside.folder / ".slipway").models / name
    assert [path.name for path in served.iterdir()] == [digest]


def processes_of(group: int) -> list[int]:
    found = []
    for place in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = place.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            found.append(int(place.parent.name))
    return found


def test_the_whole_command_killed_while_the_gates_are_asked(inside: Workshop, train) -> None:
    """`slipway run train` as a user starts it, and all of it dies at once: step, runtime, runner."""
    runs = inside.folder / ".slipway" / "runs"
    before = set(runs.iterdir())
    asked = {"config": '{"model": {"kind": "logistic", "strength": 0.8}}', "project": "variants:SWEPT"}
    command = ["slipway", "run", "train", "--start", TRAIN["start"], "--end", TRAIN["end"]]
    command += [f"--{name}={text}" for name, text in asked.items()]
    with subprocess.Popen(
        command, cwd=inside.folder, env=inside.environment, start_new_session=True, stderr=subprocess.DEVNULL
    ) as process:
        deadline = time.monotonic() + 120
        while True:
            assert time.monotonic() < deadline
            assert process.poll() is None
            new = set(runs.iterdir()) - before
            told = read_events(new.pop() / "events.jsonl")[0] if new else []
            if told and (told[-1].step, told[-1].state) == ("verify", "started"):
                break
            time.sleep(0.05)
        assert len(processes_of(process.pid)) >= 3
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)
    deadline = time.monotonic() + 10
    while processes_of(process.pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert versions(inside, "swept") == []
    assert train(**asked).result("register") == "swept:1"
    assert versions(inside, "swept") == [1]
