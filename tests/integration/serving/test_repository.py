"""Models that come, go, change and refuse: one server over folders that the tests write."""

from __future__ import annotations

import re
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.support.contracts import contract, publish, weighted
from tests.support.models import write_model, write_repository
from tests.support.server import Running, running_server


def row(*values: float) -> dict[str, object]:
    return {"inputs": [{"name": "features", "datatype": "FP32", "shape": [1, 3], "data": list(values)}]}


def score(client: httpx.Client, name: str, version: str = "") -> float:
    path = f"/v2/models/{name}/versions/{version}/infer" if version else f"/v2/models/{name}/infer"
    answer = client.post(path, json=row(1, 2, 3))
    assert answer.status_code == 200, answer.text
    return float(answer.json()["outputs"][0]["data"][0])


def states(client: httpx.Client) -> dict[str, tuple[str, str]]:
    index = client.post("/v2/repository/index").json()
    return {f"{entry['name']}/{entry['version']}": (entry["state"], entry["reason"]) for entry in index}


@pytest.fixture
def client(server: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as connected:
        yield connected


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    publish(root / "delays", contract(), version="1")
    publish(root / "delays", contract(run_id="run-2"), model=weighted((2.0, 20.0, 200.0)), version="2")
    publish(root / "digest_named", contract("digest_named"))
    publish(
        root / "wrong_inside",
        contract("wrong_inside"),
        inside=contract("wrong_inside", run_id="x"),
        version="1",
    )
    lost = publish(root / "half_published", contract("half_published"), version="1")
    (lost / "contract.json").unlink()
    touched = publish(root / "touched", contract("touched"))
    (touched / "report.html").write_text("changed afterwards")
    publish(root / "other_graph", contract("other_graph"), model=weighted((1.0, 2.0)), version="1")
    (root / "garbage" / "1").mkdir(parents=True)
    (root / "garbage" / "1" / "model.onnx").write_bytes(b"not onnx")
    write_model(root / "plain", "logistic")
    return root


@pytest.fixture(scope="module")
def server(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running_server(models, tmp_path_factory.mktemp("run")) as running:
        yield running


def test_versions_stand_side_by_side_and_the_newest_is_the_default(client: httpx.Client) -> None:
    assert score(client, "delays", "1") == 321.0
    assert score(client, "delays", "2") == 642.0
    assert score(client, "delays") == 642.0
    assert client.get("/v2/models/delays").json()["versions"] == ["1", "2"]


def test_an_answer_says_where_it_came_from(client: httpx.Client, models: Path) -> None:
    answer = client.post("/v2/models/digest_named/infer", json=row(1, 2, 3))
    digest = next((models / "digest_named").iterdir()).name
    promised = {
        "model_digest": digest,
        "run_id": "run-1",
        "feature_service": "delays_v1@" + "f" * 8,
        "snapshot": "5" * 64,
    }
    assert answer.json()["parameters"] == promised
    headers = {f"x-slipway-{name.replace('_', '-')}": value for name, value in promised.items()}
    assert headers.items() <= dict(answer.headers).items()


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("wrong_inside", "the contract beside the model and the one in its metadata differ"),
        ("half_published", "no contract.json lies beside it"),
        ("touched", "its folder says"),
        ("other_graph", "in the graph"),
        ("garbage", "cannot load it"),
    ],
)
def test_what_does_not_agree_is_not_served(client: httpx.Client, name: str, told: str) -> None:
    ((state, reason),) = [found for key, found in states(client).items() if key.startswith(f"{name}/")]
    assert (state, told in reason) == ("UNAVAILABLE", True), reason
    answer = client.post(f"/v2/models/{name}/infer", json=row(1, 2, 3))
    assert answer.status_code == 503
    assert told in answer.json()["error"]
    # What to do is what helps here: loading it once more would not.
    assert "repository API" not in answer.json()["error"]
    ready = client.get(f"/v2/models/{name}/ready")
    assert (ready.status_code, told in ready.json()["reason"]) == (503, True)
    assert client.get("/v2/health/ready").status_code == 200


def test_unload_and_load(client: httpx.Client) -> None:
    assert client.post("/v2/repository/models/plain/unload").status_code == 200
    assert states(client)["plain/1"] == ("UNAVAILABLE", "unloaded through the repository API")
    body = {"inputs": [{"name": "X", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}
    refused = client.post("/v2/models/plain/infer", json=body)
    assert refused.status_code == 503
    assert refused.json()["error"].endswith("load it through the repository API")
    assert client.post("/v2/repository/models/plain/load").status_code == 200
    assert client.post("/v2/models/plain/infer", json=body).status_code == 200
    assert client.post("/v2/repository/models/nobody/load").status_code == 404


def test_a_model_that_appears_is_loaded_when_asked_for(client: httpx.Client, models: Path) -> None:
    publish(models / "late", contract("late"), version="1")
    assert client.post("/v2/models/late/infer", json=row(1, 2, 3)).status_code == 404
    assert client.post("/v2/repository/models/late/load").status_code == 200
    assert score(client, "late") == 321.0
    shutil.rmtree(models / "late")
    assert client.post("/v2/repository/models/late/load").status_code == 404
    assert client.post("/v2/models/late/infer", json=row(1, 2, 3)).status_code == 404


def test_a_new_version_takes_over_without_a_dropped_request(tmp_path: Path) -> None:
    """Readers never stop while versions 2 to 4 appear, one after another."""
    root = tmp_path / "delays"
    publish(root, contract(), version="1")
    with running_server(root, tmp_path / "run", "--poll-seconds", "0.1") as server:
        seen: list[float] = []
        failures: list[str] = []
        stop = threading.Event()

        def ask() -> None:
            with httpx.Client(base_url=server.url, timeout=60) as client:
                while not stop.is_set():
                    answer = client.post("/v2/models/delays/infer", json=row(1, 2, 3))
                    if answer.status_code == 200:
                        seen.append(answer.json()["outputs"][0]["data"][0])
                    else:
                        failures.append(answer.text)

        readers = [threading.Thread(target=ask) for _ in range(4)]
        for reader in readers:
            reader.start()
        for version in (1, 2, 3, 4):
            if version > 1:
                newer = weighted((1.0 * version, 10.0 * version, 100.0 * version))
                promised = contract(run_id=f"run-{version}")
                staged = publish(tmp_path / "staged", promised, model=newer, version=str(version))
                staged.rename(root / str(version))
            wanted, until = 321.0 * version, time.monotonic() + 60
            while wanted not in seen[-8:] and time.monotonic() < until:
                time.sleep(0.02)
        stop.set()
        for reader in readers:
            reader.join()
        assert not failures
        assert set(seen) == {321.0, 642.0, 963.0, 1284.0}


def test_changed_content_is_reloaded_and_bad_content_is_not(tmp_path: Path) -> None:
    root = tmp_path / "models" / "delays"
    publish(root, contract(), version="1")
    with running_server(root.parent, tmp_path / "run") as server, httpx.Client(base_url=server.url) as client:
        assert score(client, "delays") == 321.0
        shutil.rmtree(root)
        publish(root, contract(), model=weighted((5.0, 5.0, 5.0)), version="1")
        client.post("/v2/repository/models/delays/load").raise_for_status()
        assert score(client, "delays") == 30.0
        (root / "1" / "model.onnx").write_bytes(b"damaged")
        client.post("/v2/repository/models/delays/load")
        assert score(client, "delays") == 30.0
        assert "the new content is refused" in states(client)["delays/1"][1]


def test_a_memory_budget_keeps_the_recently_used(tmp_path: Path) -> None:
    root = tmp_path / "models"
    for number in range(6):
        publish(root / f"m{number}", contract(f"m{number}", run_id="r" * 3000), version="1")
    with (
        running_server(root, tmp_path / "measure", "--load", "none") as server,
        httpx.Client(base_url=server.url) as client,
    ):
        for name in ("m0", "m1"):
            score(client, name)
        lines = [line for line in client.get("/metrics").text.splitlines() if "model_memory_bytes{" in line]
        first, other = (int(line.rpartition(" ")[2]) for line in lines)
    # The first session takes what all share; each counts as what its load was seen to take.
    assert 1 << 20 < other <= first < 8 << 20
    budget = str(first + 5 * other // 2)
    with (
        running_server(root, tmp_path / "run", "--memory-budget", budget, "--load", "none") as server,
        httpx.Client(base_url=server.url) as client,
    ):

        def loaded() -> set[str]:
            return {key[:2] for key, (state, _) in states(client).items() if state == "READY"}

        assert loaded() == set()
        for name in ("m0", "m1", "m2"):
            assert score(client, name) == 321.0
        assert loaded() == {"m0", "m1", "m2"}
        score(client, "m0")
        score(client, "m3")
        assert loaded() == {"m0", "m2", "m3"}
        assert "made room" in states(client)["m1/1"][1]
        for _ in range(3):
            for number in range(6):
                assert score(client, f"m{number}") == 321.0


def test_a_model_that_takes_more_than_there_is_says_how_much(tmp_path: Path) -> None:
    """Its file of 82 kB would fit; the memory of its batches does not."""
    write_repository(tmp_path / "models", ["convolutions", "logistic"])
    with (
        running_server(tmp_path / "models", tmp_path / "run", "--memory-budget", "8M") as server,
        httpx.Client(base_url=server.url) as client,
    ):
        assert states(client)["logistic/1"][0] == "READY"
        state, reason = states(client)["convolutions/1"]
        assert state == "UNAVAILABLE"
        assert int(re.search(r"it needs (\d+) bytes", reason)[1]) > 8 << 20  # type: ignore[index]


def test_many_who_ask_for_one_cold_model_wait_for_one_load(tmp_path: Path) -> None:
    write_model(tmp_path / "models" / "perceptron", "perceptron")
    with running_server(tmp_path / "models", tmp_path / "run", "--load", "none") as server:
        answers: list[int] = []

        def ask() -> None:
            tensor = {"name": "X", "datatype": "FP32", "shape": [1, 1024], "data": np.zeros(1024).tolist()}
            body = {"inputs": [tensor]}
            answers.append(
                httpx.post(f"{server.url}/v2/models/perceptron/infer", json=body, timeout=30).status_code
            )

        threads = [threading.Thread(target=ask) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert answers == [200] * 12
        metrics = httpx.get(f"{server.url}/metrics").text
        assert 'slipway_model_loads_total{model="perceptron",version="1"} 1' in metrics
