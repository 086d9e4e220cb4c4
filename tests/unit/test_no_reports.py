"""Nothing of ours reports to the makers of the libraries it stands on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support.models import zoo

_PROGRAMS_OF_CI = ("CI", "GITHUB_ACTIONS", "JENKINS_URL", "PYTEST_CURRENT_TEST", "RUNBOT_WORKER_ID")


def _python(code: str, home: Path, **variables: str) -> str:
    # MLflow is silent by itself where it sees a CI; that must not make the test pass.
    kept = {key: value for key, value in os.environ.items() if key not in _PROGRAMS_OF_CI}
    for name in ("ORT_DISABLE_TELEMETRY", "MLFLOW_DISABLE_TELEMETRY", "XDG_CACHE_HOME"):
        kept.pop(name, None)
    environment = kept | {"HOME": str(home)} | variables
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_model_is_loaded_and_run_without_a_trace_in_the_home_folder(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    model = tmp_path / "model.onnx"
    model.write_bytes(zoo()["logistic"].content)
    code = f"""
import numpy, serving.runtime.model, onnxruntime
session = onnxruntime.InferenceSession({str(model)!r}, providers=["CPUExecutionProvider"])
print(session.run(None, {{"X": numpy.zeros((3, 4), "float32")}})[0].shape)
"""
    assert _python(code, home) == "(3,)"
    assert list(home.rglob("*")) == []


def test_mlflow_reports_to_nobody(tmp_path: Path) -> None:
    code = """
import os, components
from mlflow.telemetry.utils import is_telemetry_disabled
print(is_telemetry_disabled())
del os.environ["MLFLOW_DISABLE_TELEMETRY"]
print(is_telemetry_disabled())
"""
    assert _python(code, tmp_path).split() == ["True", "False"]


def test_who_wants_to_report_may(tmp_path: Path) -> None:
    names = ["ORT_DISABLE_TELEMETRY", "MLFLOW_DISABLE_TELEMETRY"]
    code = f"import os, slipway; print(*(os.environ[name] for name in {names}))"
    assert _python(code, tmp_path) == "1 true"
    assert _python(code, tmp_path, ORT_DISABLE_TELEMETRY="0", MLFLOW_DISABLE_TELEMETRY="false") == "0 false"
