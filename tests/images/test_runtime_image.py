"""The runtime's image: it answers as ONNX Runtime does, with no more than a cluster would let it have."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.request
from pathlib import Path

import grpc
import numpy as np
import pytest

from tests.conformance.target import json_tensor
from tests.images.conftest import TOOL, Start, call
from tests.support.grpc_calls import infer_request, unary
from tests.support.models import write_repository, zoo
from tests.support.process import free_ports

pytestmark = pytest.mark.images
IMAGE = "slipway-runtime"
SHELLS = ("/bin/sh", "/bin/bash", "/bin/dash", "/usr/bin/sh", "/usr/bin/bash", "/usr/bin/dash")


def _ready(url: str, name: str) -> None:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        try:
            with urllib.request.urlopen(f"{url}/v2/health/ready", timeout=2) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(call("logs", name))


def test_it_serves_read_only_without_a_shell_a_capability_or_a_name(tmp_path: Path, start: Start) -> None:
    models = write_repository(tmp_path / "models", ["boosted30", "logistic"])
    http, grpc_port = free_ports(2)
    nothing = tmp_path / "nothing"
    nothing.touch()
    options = [f"--volume={models}:/mnt/models:ro", "--cpus=0.5", "--memory=256m"]
    # Whatever shell the base brings cannot be started.
    has = call("run", "--rm", "--entrypoint=python", IMAGE, "-c", _WHICH, *SHELLS).split()
    options += [f"--volume={nothing}:{shell}:ro" for shell in has]
    ports = ("--http-port", str(http), "--grpc-port", str(grpc_port))
    name = start(IMAGE, options, "--model-dir", "/mnt/models", *ports)
    url = f"http://127.0.0.1:{http}"
    _ready(url, name)

    model = zoo()["boosted30"]
    inputs = model.sample(np.random.default_rng(3), 5)
    want = model.reference(inputs)
    body = {"inputs": [json_tensor(key, "FP32", value) for key, value in inputs.items()]}
    request = urllib.request.Request(f"{url}/v2/models/boosted30/infer", json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=10) as answer:
        outputs = {output["name"]: output["data"] for output in json.load(answer)["outputs"]}
    np.testing.assert_allclose(outputs["probabilities"], want["probabilities"].ravel(), rtol=1e-6)
    with grpc.insecure_channel(f"127.0.0.1:{grpc_port}") as channel:
        got = unary(channel, "ModelInfer")(infer_request("boosted30", **inputs), timeout=10)
    np.testing.assert_allclose(
        np.frombuffer(got.raw_output_contents[1], np.float32), want["probabilities"].ravel(), rtol=1e-6
    )

    inside = call("exec", name, "python", "-c", _WHO)
    assert inside.split() == ["65532", "65532", "0" * 16, "read-only"]
    assert json.loads(call("inspect", name))[0]["State"]["Running"]
    call("stop", "--time=20", name)
    assert json.loads(call("inspect", name))[0]["State"]["ExitCode"] == 0
    said = [json.loads(line)["message"] for line in _logs(name)]
    assert said[-2:] == ["draining: no new requests", "gone"]
    assert all(line.startswith(("REST on", "gRPC on", "draining", "gone")) for line in said), said


def test_a_folder_that_is_not_there_is_named_and_nothing_stays_up(start: Start) -> None:
    name = start(IMAGE, [], "--model-dir=/mnt/elsewhere", "--http-port=0", "--grpc-port=-1")
    assert int(call("wait", name, timeout=30)) not in (0, 137, 139)
    assert "/mnt/elsewhere" in "".join(_logs(name))


def _logs(name: str) -> list[str]:
    done = subprocess.run([*TOOL, "logs", name], capture_output=True, text=True, timeout=30)
    return (done.stdout + done.stderr).splitlines()


_WHICH = "import os, sys; print(*(p for p in sys.argv[1:] if os.path.isfile(p) and not os.path.islink(p)))"
_WHO = """
import os
effective = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("CapEff"))
try:
    open("/app/written", "w")
    root = "writable"
except OSError as error:
    root = "read-only" if error.errno == 30 else "not permitted"
print(os.getuid(), os.getgid(), effective, root)
"""
