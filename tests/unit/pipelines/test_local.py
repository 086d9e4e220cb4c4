"""What the local runner makes of commands that it cannot fork, of retries, and of steps that fell silent."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from components.stepping import Event
from pipelines.local import _killed, _tried_once
from pipelines.warm import step_server, warm_steps


def test_elsewhere_than_on_linux_kfp_starts_its_own_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    from kfp.local import subprocess_task_handler as handler

    monkeypatch.setattr(sys, "platform", "darwin")
    cold = handler.run_local_subprocess
    with step_server() as server, warm_steps(server, Path("log")):
        assert server is None
        assert handler.run_local_subprocess is cold


def test_a_command_that_is_no_python_component_is_kfps_own_business(monkeypatch: pytest.MonkeyPatch) -> None:
    from kfp.local import subprocess_task_handler as handler

    asked: list[list[str]] = []
    monkeypatch.setattr(
        handler, "run_local_subprocess", lambda full_command, env_vars=None: asked.append(full_command) or 7
    )

    class Server:
        def run(self, source: str, arguments: list[str], environment: dict[str, str], log: Path) -> int:
            assert (source, arguments) == ("the source", ["--executor_input", "{}"])
            assert environment["ONE"] == "1"
            return 4

    with warm_steps(Server(), Path("log")):  # type: ignore[arg-type]
        assert handler.run_local_subprocess(full_command=["echo"], env_vars=None) == 7
        script = 'printf "%s" "$0" > "$program_path/ephemeral_component.py"'
        command = ["sh", "-c", script, "the source", "--executor_input", "{}"]
        assert handler.run_local_subprocess(full_command=command, env_vars={"ONE": "1"}) == 4
    assert asked == [["echo"]]


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
