"""What the local runner makes of commands that it cannot fork, of retries, and of steps that fell silent."""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from components.stepping import Event
from pipelines.local import _killed, _tried_once
from pipelines.warm import KILLED, Steps, step_server


def test_kfp_runs_its_commands_by_ours_and_by_its_own_again(tmp_path: Path) -> None:
    from kfp.local import subprocess_task_handler as handler

    kfps_own = handler.run_local_subprocess
    steps = Steps(None, tmp_path / "log")
    with steps.installed():
        assert handler.run_local_subprocess(full_command=["sh", "-c", "exit 7"], env_vars=None) == 7
    assert handler.run_local_subprocess is kfps_own


COMPONENT = ["sh", "-c", 'echo "$0 $1 $2 $ONE"  # ephemeral_component.py', "the source", "--input", "{}"]


def test_elsewhere_than_on_linux_each_step_is_started_by_itself(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with step_server() as server:
        assert server is None
        assert Steps(server, tmp_path / "log").run(COMPONENT, {"ONE": "1"}) == 0
    assert (tmp_path / "log").read_text() == "the source --input {} 1\n"


class Server:
    """Takes note; or is gone."""

    def __init__(self, *, gone: bool = False) -> None:
        self.gone, self.asked, self.interrupted = gone, [], False

    def run(self, source: str, arguments: list[str], environment: dict[str, str], log: Path) -> int:
        if self.gone:
            raise BrokenPipeError
        self.asked.append((source, arguments, environment["ONE"]))
        return 4

    def interrupt(self) -> None:
        self.interrupted = True


def test_what_is_a_component_goes_to_the_server_and_nothing_else(tmp_path: Path) -> None:
    server: Any = Server()
    steps = Steps(server, tmp_path / "log")
    assert steps.run(COMPONENT, {"ONE": "1"}) == 4
    assert server.asked == [("the source", ["--input", "{}"], "1")]
    assert steps.run(["sh", "-c", "exit 3"]) == 3
    gone: Any = Server(gone=True)
    assert Steps(gone, tmp_path / "log").run(COMPONENT, {"ONE": "2"}) == 0
    assert (tmp_path / "log").read_text() == "the source --input {} 2\n"


def test_an_interrupted_run_ends_its_steps_and_starts_no_other(tmp_path: Path) -> None:
    server: Any = Server()
    steps, log = Steps(server, tmp_path / "log"), tmp_path / "log"
    # The shell hands no signal on: the step's whole group must hear of it.
    slow = "import signal, sys, time; print('began', flush=True); time.sleep(60)"
    command = ["sh", "-c", f'{sys.executable} -c "{slow}"; exit 5']
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(steps.run, command)
        until = time.monotonic() + 120
        while time.monotonic() < until and not (log.exists() and "began" in log.read_text()):
            time.sleep(0.02)
        steps.interrupt()
        assert running.result(timeout=120) != 0
    assert "KeyboardInterrupt" in log.read_text()
    assert server.interrupted
    assert steps.run(COMPONENT, {"ONE": "1"}) == KILLED
    assert server.asked == []


def test_a_step_that_was_started_by_itself_ends_with_its_runner(tmp_path: Path) -> None:
    log = tmp_path / "log"
    step = "from components.stepping import step\nimport time\nwith step('slow'):\n    time.sleep(60)"
    runner = f"""
import pathlib, sys
from pipelines.warm import Steps
Steps(None, pathlib.Path({str(log)!r})).run(
    [sys.executable, "-uc", {("print('began')" + chr(10) + step)!r}], {{"SLIPWAY_HOME": {str(tmp_path)!r}}}
)
"""
    process = subprocess.Popen([sys.executable, "-c", runner])
    until = time.monotonic() + 240
    while time.monotonic() < until and not (log.exists() and "began" in log.read_text()):
        time.sleep(0.05)
    # It must have come as far as to watch; it then notices within half a second.
    time.sleep(0.5)
    process.kill()
    process.wait(10)
    while time.monotonic() < until and "KeyboardInterrupt" not in log.read_text():
        time.sleep(0.05)
    assert "KeyboardInterrupt" in log.read_text()


def test_a_step_that_never_told_its_end_is_named() -> None:
    told = [
        Event(step="snapshot", state="started"),
        Event(step="snapshot", state="done"),
        Event(step="train", state="started"),
        Event(step="finish", state="started"),
        Event(step="finish", state="done"),
    ]
    assert _killed(told).startswith("step train was killed")
    assert _killed(told[:2]) == ""


def test_nothing_is_tried_twice_here_and_the_pipeline_for_the_cluster_keeps_its_retries() -> None:
    from pipelines.training import PIPELINES

    def retried(pipeline: object) -> list[str]:
        spec = pipeline.component_spec.implementation.graph  # type: ignore[attr-defined]
        dags = (spec.root.dag, *(component.dag for component in spec.components.values()))
        return sorted(
            name for dag in dags for name, task in dag.tasks.items() if task.HasField("retry_policy")
        )

    for pipeline in PIPELINES.values():
        assert retried(_tried_once(pipeline)) == []
    assert retried(PIPELINES["train"]) == ["evaluate", "register", "snapshot", "train"]
