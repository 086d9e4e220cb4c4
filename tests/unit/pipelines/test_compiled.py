"""What goes to a cluster: the compiled files, read as KFP and Kubernetes read them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines import compiled, steps
from pipelines.compiled import FOLDER, compile_all, stale, write
from pipelines.training import CONFIG_MAP, PIPELINES, SECRET
from slipway.cli import main
from slipway.errors import SettingsError, SlipwayError
from slipway.settings import load_settings

CACHED = {"train", "trial"}
NOT_RETRIED = {"verify", "deploy", "choose", "finish", "published"}
SPECS = {"pipelineSpec", "platformSpec"}
VERSION_FIELDS = SPECS | {"codeSourceURL", "description", "displayName", "pipelineName", "pipelineSpecURI"}
NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return compile_all(steps.IMAGE)


@pytest.fixture(params=PIPELINES)
def spec(request: pytest.FixtureRequest, files: dict[str, bytes]) -> dict[str, Any]:
    # The second document is the Kubernetes-specific part.
    return next(yaml.safe_load_all(files[f"{request.param}.yaml"]))


@pytest.fixture(params=PIPELINES)
def platform(request: pytest.FixtureRequest, files: dict[str, bytes]) -> dict[str, Any]:
    _, document = yaml.safe_load_all(files[f"{request.param}.yaml"])
    return document


def tasks(spec: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """All tasks that run a container, in every sub-graph."""
    found: dict[str, dict[str, Any]] = {}
    graphs = [spec["root"]["dag"], *(item["dag"] for item in spec["components"].values() if "dag" in item)]
    for graph in graphs:
        for name, task in graph["tasks"].items():
            if "executorLabel" in spec["components"][task["componentRef"]["name"]]:
                found[name] = task
    return found


def step_of(task: str) -> str:
    return re.sub(r"-\d+$", "", task).removesuffix("-version")


def containers(spec: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        name.removeprefix("exec-"): item["container"]
        for name, item in spec["deploymentSpec"]["executors"].items()
    }


def test_two_compilations_are_equal_byte_for_byte(files: dict[str, bytes]) -> None:
    assert compile_all(steps.IMAGE) == files
    assert sorted(files) == sorted(
        f"{name}{end}" for name in PIPELINES for end in (".yaml", ".kubernetes.yaml")
    )


def test_the_files_in_the_repository_are_up_to_date(files: dict[str, bytes]) -> None:
    assert stale(files, FOLDER) == []


def test_writing_changes_what_differs_and_nothing_else(files: dict[str, bytes], tmp_path: Path) -> None:
    folder = tmp_path / "new"
    assert write(files, folder) == sorted(files)
    assert write(files, folder) == []
    (folder / "train.yaml").write_text("old")
    (folder / "former.yaml").write_text("of a pipeline that is gone")
    (folder / "sweep.yaml").unlink()
    assert stale(files, folder) == ["former.yaml", "sweep.yaml", "train.yaml"]
    assert write(files, folder) == ["former.yaml", "sweep.yaml", "train.yaml"]
    assert not (folder / "former.yaml").exists()
    assert stale(files, folder) == []


def test_another_image_than_that_of_the_steps_is_refused() -> None:
    with pytest.raises(SlipwayError, match="not other@sha256"):
        compile_all("other@sha256:0")


def test_an_image_named_by_a_tag_is_compiled_and_warned_of(tmp_path: Path) -> None:
    """In a process of its own: the steps take their image when they are imported."""
    image = "registry.example/steps:1.2"
    done = subprocess.run(
        [
            Path(sys.executable).with_name("slipway"),
            "compile",
            "--image",
            image,
            "--output",
            tmp_path,
            "--json",
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert f"{image} is named by a tag" in done.stderr
    assert sorted(json.loads(done.stdout)["files"]) == sorted(path.name for path in tmp_path.iterdir())
    assert f"image: {image}" in (tmp_path / "train.yaml").read_text()


def test_an_image_named_by_its_digest_is_not_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    image = "registry.example/steps@sha256:" + "0" * 64
    monkeypatch.setenv("SLIPWAY_PIPELINES_IMAGE", "another")
    monkeypatch.setattr(compiled, "compile_all", lambda chosen: {"train.yaml": chosen.encode()})
    assert main(["compile", "--image", image, "--output", str(tmp_path)]) == 0
    assert capsys.readouterr().err == ""
    assert (tmp_path / "train.yaml").read_text() == os.environ["SLIPWAY_PIPELINES_IMAGE"] == image


def test_every_parameter_reads_well_in_the_form(spec: dict[str, Any]) -> None:
    parameters = spec["root"]["inputDefinitions"]["parameters"]
    kinds = {"start": "STRING", "end": "STRING", "project": "STRING", "version": "STRING", "why": "STRING"}
    kinds |= {"config": "STRING", "online": "BOOLEAN", "configs": "LIST"}
    assert spec["pipelineInfo"]["description"].endswith(".")
    for name, parameter in parameters.items():
        assert parameter["parameterType"] == kinds[name]
        assert "defaultValue" in parameter, name
        assert len(parameter["description"]) > 15, name


def test_the_defaults_are_good_for_their_steps(files: dict[str, bytes]) -> None:
    from components.snapshot import Window
    from components.train.step import read_config

    for name in PIPELINES:
        parameters = next(yaml.safe_load_all(files[f"{name}.yaml"]))["root"]["inputDefinitions"]["parameters"]
        start, end = Window(parameters["start"]["defaultValue"], parameters["end"]["defaultValue"]).moments()
        assert start < end
        texts = [parameters["config"]["defaultValue"]] if "config" in parameters else []
        for text in texts + parameters.get("configs", {"defaultValue": []})["defaultValue"]:
            assert read_config(text).model.kind in ("boosting", "logistic")


def test_a_configuration_that_is_none_is_refused() -> None:
    from components.train.step import read_config

    with pytest.raises(SettingsError, match="not a training configuration"):
        read_config('{"model": {"kind": "forest"}}')


def test_only_what_depends_on_its_arguments_alone_is_cached(spec: dict[str, Any]) -> None:
    found = {
        step_of(name): task["cachingOptions"].get("enableCache", False) for name, task in tasks(spec).items()
    }
    assert found == {step: step in CACHED for step in found}


def test_a_lost_pod_is_tried_again_where_that_is_right(spec: dict[str, Any]) -> None:
    for name, task in tasks(spec).items():
        if step_of(name) in NOT_RETRIED:
            assert "retryPolicy" not in task, name
        else:
            policy = task["retryPolicy"]
            assert (policy["maxRetryCount"], policy["backoffDuration"], policy["backoffFactor"]) == (
                2,
                "15s",
                2.0,
            )


def test_every_step_asks_for_what_it_needs_and_has_a_limit(spec: dict[str, Any]) -> None:
    for name, container in containers(spec).items():
        resources = container["resources"]
        assert 0 < resources["cpuRequest"] <= 4, name
        assert resources["memoryRequest"] == resources["memoryLimit"] > 0, name
        assert "cpuLimit" not in resources, name


def test_every_step_runs_the_given_image_and_installs_nothing(spec: dict[str, Any]) -> None:
    for name, container in containers(spec).items():
        assert container["image"] == steps.IMAGE, name
        assert not re.search(r"\bpip\b|PIP_", " ".join(container["command"] + container["args"])), name


def test_every_step_gets_settings_that_exist_from_the_cluster(platform: dict[str, Any]) -> None:
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    for name, executor in executors.items():
        (settings,), (credentials,) = executor["configMapAsEnv"], executor["secretAsEnv"]
        assert settings["configMapNameParameter"]["runtimeValue"]["constant"] == CONFIG_MAP, name
        assert credentials["secretNameParameter"]["runtimeValue"]["constant"] == SECRET, name
        assert settings["optional"]
        assert credentials["optional"]
        # A name that settings do not know would stop every step.
        plain = {item["envVar"]: _example(item["envVar"]) for item in settings["keyToEnv"]}
        secret = {item["envVar"]: _example(item["envVar"]) for item in credentials["keyToEnv"]}
        assert load_settings(plain | secret).profile == "kind"
        assert {"SLIPWAY_S3_SECRET_KEY", "SLIPWAY_ONLINE_URL", "SLIPWAY_FEATURES_REGISTRY"} <= set(secret)


def _example(variable: str) -> str:
    return "kind" if variable == "SLIPWAY_PROFILE" else "text"


def test_the_sweep_is_bounded_and_ends_in_the_line_of_train(files: dict[str, bytes]) -> None:
    spec = next(yaml.safe_load_all(files["sweep.yaml"]))
    loops = [
        task
        for item in spec["components"].values()
        for task in item.get("dag", {}).get("tasks", {}).values()
        if "parameterIterator" in task
    ]
    assert [task["iteratorPolicy"]["parallelismLimit"] for task in loops] == [4]
    plain = next(yaml.safe_load_all(files["train.yaml"]))
    assert set(tasks(spec)) == set(tasks(plain)) | {"trial", "choose"}


def test_the_exit_handler_runs_whatever_happened(spec: dict[str, Any]) -> None:
    finish = spec["root"]["dag"]["tasks"]["finish"]
    assert finish["triggerPolicy"]["strategy"] == "ALL_UPSTREAM_TASKS_COMPLETED"
    assert finish["dependentTasks"] == ["exit-handler-1"]


@pytest.mark.parametrize("name", PIPELINES)
def test_the_objects_are_what_kubernetes_takes(files: dict[str, bytes], name: str) -> None:
    pipeline, version = yaml.safe_load_all(files[f"{name}.kubernetes.yaml"])
    assert (pipeline["kind"], version["kind"]) == ("Pipeline", "PipelineVersion")
    assert {pipeline["apiVersion"], version["apiVersion"]} == {"pipelines.kubeflow.org/v2beta1"}
    for made in (pipeline, version):
        assert NAME.fullmatch(made["metadata"]["name"])
    assert version["spec"]["pipelineName"] == pipeline["metadata"]["name"] == f"slipway-{name}"
    spec, platform = yaml.safe_load_all(files[f"{name}.yaml"])
    assert version["spec"]["pipelineSpec"] == spec
    assert version["spec"]["platformSpec"] == platform
    json.dumps(version)
    # What the custom resource definitions of KFP 2.14 and later know: an API server drops all else unseen.
    assert set(pipeline) == set(version) == {"apiVersion", "kind", "metadata", "spec"}
    assert set(pipeline["spec"]) <= {"description", "displayName"}
    assert set(version["spec"]) <= VERSION_FIELDS
    assert all(
        isinstance(version["spec"][name], str) for name in VERSION_FIELDS - SPECS & set(version["spec"])
    )


@pytest.mark.parametrize("name", PIPELINES)
def test_the_files_are_messages_of_kfps_own_protocol_field_by_field(
    files: dict[str, bytes], name: str
) -> None:
    from google.protobuf import json_format
    from kfp.kubernetes import kubernetes_executor_config_pb2
    from kfp.pipeline_spec.pipeline_spec_pb2 import PipelineSpec, PlatformSpec

    spec, platform = yaml.safe_load_all(files[f"{name}.yaml"])
    read = json_format.ParseDict(spec, PipelineSpec(), ignore_unknown_fields=False)
    assert read.schema_version == "2.1.0"
    assert json_format.MessageToDict(read) == spec
    settings = json_format.ParseDict(platform, PlatformSpec(), ignore_unknown_fields=False)
    executors = settings.platforms["kubernetes"].deployment_spec.executors
    known = {label.removeprefix("exec-") for label in spec["deploymentSpec"]["executors"]}
    assert {label.removeprefix("exec-") for label in executors} <= known
    for content in executors.values():
        plain = json_format.MessageToDict(content)
        config = kubernetes_executor_config_pb2.KubernetesExecutorConfig()
        assert json_format.MessageToDict(json_format.ParseDict(plain, config)) == plain


def test_other_content_is_another_version(files: dict[str, bytes]) -> None:
    again = dict(compiled._compile("train", PIPELINES["evaluate"]))
    names = [
        list(yaml.safe_load_all(found["train.kubernetes.yaml"]))[1]["metadata"]["name"]
        for found in (files, again)
    ]
    assert names[0] != names[1]
