"""The image of the steps: each of the compiled training runs in a container of its own, as KFP starts it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from slipway.local import Platform
from tests.images.conftest import RESTRICTED, call
from tests.support.workshop import TRAIN, Workshop

pytestmark = pytest.mark.images
IMAGE = "slipway-components"
COMPILED = Path(__file__).parents[2] / "pipelines" / "compiled" / "train.yaml"
STEPS = ("snapshot", "train", "evaluate", "verify", "register")
"""Deploy is left out: here it would start the server within its own container; a cluster has another way."""


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    made = Workshop(tmp_path_factory.mktemp("workshop"))
    try:
        for line in made.commands:
            if line.startswith("slipway run"):
                break
            done = (made.slipway if line.startswith("slipway ") else made.call)(line)
            assert done.returncode == 0, f"{line}\n{done.stderr}"
        yield made
    finally:
        Platform(made.folder / ".slipway").down()


@pytest.mark.timeout(900)
def test_the_compiled_training_runs_step_by_step_in_containers(workshop: Workshop, tmp_path: Path) -> None:
    spec = next(yaml.safe_load_all(COMPILED.read_text()))
    given = {"project": "workshop.project:PROJECT", "online": True, "why": "containers", **TRAIN}
    answered: dict[str, str] = {}
    for name in STEPS:
        answered[name] = _step(spec, name, given | _inputs(answered), workshop, tmp_path / name)
    version = workshop.registry.find("machine-failure", "challenger")
    assert version.version == 1
    contract = json.loads(workshop.objects.get(f"{version.uri}/contract.json"))
    baked = call("run", "--rm", *RESTRICTED, "--entrypoint=printenv", IMAGE, "GIT_COMMIT")
    assert contract["origin"]["git_commit"] == baked
    assert {gate["verdict"] for gate in contract["gates"]} == {"pass"}


def _inputs(answered: dict[str, str]) -> dict[str, str]:
    """Each step's answer under the name that the next ones have for it."""
    names = {"snapshot": "snapshot", "train": "candidate", "evaluate": "evaluation", "verify": "verified"}
    return {names[step]: value for step, value in answered.items()}


def _step(spec: dict[str, Any], name: str, given: dict[str, Any], workshop: Workshop, folder: Path) -> str:
    component = spec["components"][f"comp-{name}"]
    container = spec["deploymentSpec"]["executors"][component["executorLabel"]]["container"]
    wanted = component["inputDefinitions"]["parameters"]
    outputs = component["outputDefinitions"]
    folder.mkdir()
    folder.chmod(0o777)
    executor_input = {
        "inputs": {"parameterValues": {key: given[key] for key in wanted}},
        "outputs": {
            "parameters": {key: {"outputFile": f"{folder}/{key}"} for key in outputs["parameters"]},
            "artifacts": {
                key: {"artifacts": [{"name": key, "type": kind["artifactType"], "uri": f"{folder}/{key}"}]}
                for key, kind in outputs.get("artifacts", {}).items()
            },
            "outputFile": f"{folder}/executor_output.json",
        },
    }
    command = [*container["command"], *container["args"]]
    command = [json.dumps(executor_input) if part == "{{$}}" else part for part in command]
    # What lies in files on a laptop and behind addresses on a cluster: tracking and the feature registry.
    home = workshop.folder / ".slipway"
    call_options = [f"--env={key}={value}" for key, value in _settings(workshop).items()]
    for path in (workshop.folder, home, *home.glob("*.db*")):
        path.chmod(0o777)
    volumes = [f"--volume={path}:{path}" for path in (workshop.folder, folder)]
    call(
        "run", "--rm", *RESTRICTED, "--tmpfs=/tmp", *volumes, *call_options,
        f"--workdir={workshop.folder}", f"--entrypoint={command[0]}", IMAGE, *command[1:],
    )  # fmt: skip
    told = json.loads((folder / "executor_output.json").read_text())
    assert set(told.get("artifacts", {})) == set(outputs.get("artifacts", {}))
    for artifact in outputs.get("artifacts", {}):
        kind = outputs["artifacts"][artifact]["artifactType"]["schemaTitle"]
        if kind not in ("system.Metrics", "system.ClassificationMetrics"):
            assert (folder / artifact).stat().st_size > 0, artifact
    return str(told["parameterValues"]["Output"])


def _settings(workshop: Workshop) -> dict[str, str]:
    done = workshop.slipway("slipway features env")
    assert done.returncode == 0, done.stderr
    exported = dict(
        line.removeprefix("export ").split("=", 1)
        for line in done.stdout.splitlines()
        if line.startswith("export ")
    )
    # As on a cluster, where no state folder tells what the environment does not.
    exported |= {"SLIPWAY_PROFILE": "kind", "SLIPWAY_HOME": "/tmp/none"}
    return {**exported, "PYTHONPATH": f"/app{os.pathsep}{workshop.folder}"}
