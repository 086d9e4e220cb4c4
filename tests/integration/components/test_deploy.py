"""Register and deploy on this machine: a real S3 server, a real registry, a real runtime."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

from components.deploy import deploy
from components.register import Registered, register
from slipway.contract import (
    BASELINE_FILE,
    CONTRACT_FILE,
    METADATA_KEY,
    MODEL_FILE,
    REPORT_FILE,
    GateResult,
    ModelContract,
    TensorInput,
    TensorOutput,
)
from slipway.errors import ContractError, ContractMismatch, DeployError, GateNotPassed, ObjectCorrupt
from slipway.local import Platform
from slipway.objects import ObjectStore
from slipway.registry import Registry
from slipway.settings import Settings, load_settings
from slipway.smoke import SMOKE_FILE, SmokeTensor, SmokeTest

PASSED = GateResult(gate="data", verdict="pass", reason="enough rows")


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """A platform of its own: these tests start and stop its runtime."""
    home = tmp_path_factory.mktemp("deploy") / "home"
    platform = Platform(home)
    try:
        platform.up()
        yield load_settings({"SLIPWAY_HOME": str(home)}, directory=home)
    finally:
        platform.down()


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    return request.node.name.replace("[", "-").replace("]", "")


def write_version(
    folder: Path,
    name: str,
    factor: float,
    *,
    answers: float | None = None,
    gates: tuple[GateResult, ...] = (PASSED,),
    inside: ModelContract | None = None,
) -> Path:
    """The five files of a model that multiplies by `factor`; `answers` is what its smoke test expects."""
    folder.mkdir(parents=True)
    contract = ModelContract(
        name=name,
        inputs=(TensorInput(name="x", dtype="FP32", shape=(-1, 1)),),
        outputs=(TensorOutput(name="y", dtype="FP32", shape=(-1, 1)),),
        gates=gates,
    )
    values = [onnx.helper.make_tensor_value_info(label, onnx.TensorProto.FLOAT, [None, 1]) for label in "xy"]
    weight = onnx.numpy_helper.from_array(np.array([factor], np.float32), "w")
    node = onnx.helper.make_node("Mul", ["x", "w"], ["y"])
    graph = onnx.helper.make_graph([node], "g", values[:1], values[1:], [weight])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    onnx.helper.set_model_props(model, {METADATA_KEY: (inside or contract).to_json().decode()})
    onnx.save(model, folder / MODEL_FILE)
    expected = factor if answers is None else answers
    smoke = SmokeTest(
        inputs=(SmokeTensor("x", "FP32", (2, 1), (1.0, 2.0)),),
        outputs=(SmokeTensor("y", "FP32", (2, 1), (expected, 2 * expected)),),
    )
    (folder / CONTRACT_FILE).write_bytes(contract.to_json())
    (folder / BASELINE_FILE).write_text('{"rows": 0, "features": []}')
    (folder / REPORT_FILE).write_text("<html>")
    (folder / SMOKE_FILE).write_bytes(smoke.to_json())
    return folder


def put_to_work(settings: Settings, registered: Registered) -> str:
    version = Registry(settings).find(registered.name, registered.digest)
    return deploy(settings, version, who="ann", why="test").url


def ask(url: str, value: float) -> float:
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [value]}]}
    request = urllib.request.Request(f"{url}/infer", json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)["outputs"][0]["data"][0]


def test_a_version_is_published_once_registered_once_and_serves(
    settings: Settings, tmp_path: Path, name: str
) -> None:
    folder = write_version(tmp_path / "v1", name, 3.0)
    first = register(settings, folder, who="ann")
    again = register(settings, folder, who="ann")
    assert (first.created, again.created) == (True, False)
    assert (first.version, again.version) == (1, 1)
    assert first.uri == settings.uri("models", name, first.digest) + "/"
    stored = {
        info.uri.removeprefix(first.uri) for info in ObjectStore.from_settings(settings).list(first.uri)
    }
    assert stored == {MODEL_FILE, CONTRACT_FILE, BASELINE_FILE, REPORT_FILE, SMOKE_FILE}

    url = put_to_work(settings, first)
    assert ask(url, 5.0) == 15.0
    # Whoever reads the settings now finds the server.
    known = load_settings({"SLIPWAY_HOME": settings.home}, directory=tmp_path).serving.url
    assert url.startswith(f"{known}/v2/models/")
    platform = Platform.of(settings)
    before = [server.pid for server in platform.status().servers]
    assert len(before) == 3
    assert [server.pid for server in platform.up().servers] == before
    champion = Registry(settings).champion(name)
    assert champion is not None
    assert champion.digest == first.digest
    assert put_to_work(settings, first) == url


def test_a_later_version_takes_over_and_a_rollback_brings_the_former_back(
    settings: Settings, tmp_path: Path, name: str
) -> None:
    versions = [
        register(settings, write_version(tmp_path / str(factor), name, factor)) for factor in (2, 3, 4)
    ]
    for factor, version in zip((2, 3, 4), versions, strict=True):
        assert ask(put_to_work(settings, version), 1.0) == factor
    former = Registry(settings).former_champion(name)
    assert former.digest == versions[1].digest
    deployed = deploy(settings, former, who="eve", why="alarms")
    assert ask(deployed.url, 1.0) == 3.0
    assert (deployed.version, deployed.replaced) == (2, 3)
    # The first version has made room: only the one that serves and the one before it stay at hand.
    kept = {path.name for path in (Platform.of(settings).models / name).iterdir()}
    assert kept == {versions[1].digest, versions[2].digest}


def test_wrong_answers_put_the_old_version_back(settings: Settings, tmp_path: Path, name: str) -> None:
    good = register(settings, write_version(tmp_path / "good", name, 2.0))
    url = put_to_work(settings, good)
    bad = register(settings, write_version(tmp_path / "bad", name, 3.0, answers=2.0))
    with pytest.raises(DeployError, match=r"y\[0\]: 3.0, expected 2.0"):
        put_to_work(settings, bad)
    assert ask(url, 1.0) == 2.0
    champion = Registry(settings).champion(name)
    assert champion is not None
    assert champion.digest == good.digest
    assert [path.name for path in (Platform.of(settings).models / name).iterdir()] == [good.digest]


def test_a_first_version_that_fails_leaves_nothing_behind(
    settings: Settings, tmp_path: Path, name: str
) -> None:
    bad = register(settings, write_version(tmp_path / "bad", name, 3.0, answers=2.0))
    with pytest.raises(DeployError):
        put_to_work(settings, bad)
    assert Registry(settings).champion(name) is None
    assert list((Platform.of(settings).models / name).iterdir()) == []


def test_a_tampered_prefix_is_not_served(settings: Settings, tmp_path: Path, name: str) -> None:
    version = register(settings, write_version(tmp_path / "v", name, 3.0))
    ObjectStore.from_settings(settings).put(f"{version.uri}{REPORT_FILE}", b"another report")
    with pytest.raises(ObjectCorrupt, match="its files have the digest"):
        put_to_work(settings, version)
    assert Registry(settings).champion(name) is None


def test_a_runtime_that_was_killed_is_started_again(settings: Settings, tmp_path: Path, name: str) -> None:
    first = register(settings, write_version(tmp_path / "v1", name, 2.0))
    put_to_work(settings, first)
    platform = Platform.of(settings)
    platform.down()
    second = register_after_up(settings, write_version(tmp_path / "v2", name, 3.0))
    assert ask(put_to_work(settings, second), 1.0) == 3.0


def register_after_up(settings: Settings, folder: Path) -> Registered:
    Platform.of(settings).up()
    return register(settings, folder)


@pytest.mark.parametrize("verdict", ["fail", "inconclusive"])
def test_what_did_not_pass_is_not_registered(
    settings: Settings, tmp_path: Path, name: str, verdict: str
) -> None:
    gate = GateResult(gate="quality", verdict=verdict, reason="worse")
    with pytest.raises(GateNotPassed, match=f"quality: {verdict}, worse"):
        register(settings, write_version(tmp_path / "v", name, 1.0, gates=(PASSED, gate)))
    with pytest.raises(GateNotPassed, match="no gate was asked"):
        register(settings, write_version(tmp_path / "w", name, 1.0, gates=()))
    assert name not in Registry(settings).names()
    assert list(ObjectStore.from_settings(settings).list(settings.uri("models", name))) == []


def test_files_that_do_not_belong_together_are_not_registered(
    settings: Settings, tmp_path: Path, name: str
) -> None:
    folder = write_version(tmp_path / "v", name, 1.0)
    other = ModelContract(name=name, inputs=(), outputs=())
    with pytest.raises(ContractMismatch, match="differ"):
        register(settings, write_version(tmp_path / "w", name, 1.0, inside=other))
    (folder / SMOKE_FILE).unlink()
    with pytest.raises(ContractError, match=f"missing: {SMOKE_FILE}"):
        register(settings, folder)


def test_the_champion_of_the_registry_is_what_serves(settings: Settings, tmp_path: Path, name: str) -> None:
    """The alias cannot be moved (the registry is gone): the former version serves again."""
    good = register(settings, write_version(tmp_path / "good", name, 2.0))
    url = put_to_work(settings, good)
    better = register(settings, write_version(tmp_path / "better", name, 3.0))
    version = Registry(settings).find(name, better.digest)
    with pytest.raises(Exception, match="a reason is needed"):
        deploy(settings, version, who="ann", why=" ")
    assert ask(url, 1.0) == 2.0
