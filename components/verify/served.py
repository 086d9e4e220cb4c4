"""The runtime that will serve the model, started for the length of the parity checks."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import numpy as np
from numpy.typing import NDArray

from components.deploy.ask import request
from components.inputs import Tensors
from slipway.contract import CONTRACT_FILE, MODEL_FILE, ModelContract
from slipway.errors import DeployError, ServerFailed

START_WITHIN = 60.0
ROWS_IN_A_REQUEST = 64


def plain(value: Any) -> Any:
    """JSON has no NaN: a missing number is null there."""
    if isinstance(value, str):
        return value
    number = float(value)
    return number if np.isfinite(number) else None


def tensors_as_json(contract: ModelContract, rows: Tensors) -> list[dict[str, Any]]:
    return [
        {
            "name": tensor.name,
            "datatype": tensor.dtype,
            "shape": list(rows[tensor.name].shape),
            "data": [plain(value) for value in rows[tensor.name].ravel()],
        }
        for tensor in contract.inputs
    ]


def ask(url: str, contract: ModelContract, rows: Tensors) -> NDArray[np.float64]:
    """The model's first output for these rows, by the Open Inference Protocol's JSON."""
    count = len(next(iter(rows.values())))
    answers: list[float] = []
    for at in range(0, count, ROWS_IN_A_REQUEST):
        part = {name: matrix[at : at + ROWS_IN_A_REQUEST] for name, matrix in rows.items()}
        path = f"/v2/models/{quote(contract.name, safe='')}/infer"
        response = request(url, "POST", path, {"inputs": tensors_as_json(contract, part)})
        if response.status != 200:
            raise DeployError(f"answered {response.status}: {response.error}", where=url + path)
        outputs = msgspec.json.decode(response.body)["outputs"]
        data = next(item["data"] for item in outputs if item["name"] == contract.outputs[0].name)
        answers += [float("nan") if value is None else float(value) for value in data]
    return np.array(answers)


@contextlib.contextmanager
def serve(model: bytes, contract: ModelContract) -> Iterator[str]:
    """The address of a runtime of our own that serves this one model; stopped at the end."""
    with tempfile.TemporaryDirectory(prefix="slipway-verify-") as folder:
        place = Path(folder, "model")
        place.mkdir()
        (place / MODEL_FILE).write_bytes(model)
        (place / CONTRACT_FILE).write_bytes(contract.to_json())
        port = _free_port()
        with Path(folder, "log").open("w+") as log:
            process = subprocess.Popen(  # noqa: S603 - our own module, our own arguments
                [
                    *_tied_to_us(),
                    *(sys.executable, "-m", "serving.runtime"),
                    *("--model-dir", str(place), "--model-name", contract.name),
                    *("--http-host", "127.0.0.1", "--http-port", str(port), "--grpc-port", "-1"),
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
            )
            try:
                url = f"http://127.0.0.1:{port}"
                _wait(process, url, Path(folder, "log"))
                yield url
            finally:
                process.terminate()
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


def _tied_to_us() -> list[str]:
    """What to put before a command that must not outlive this process, even if that is killed."""
    return [sys.executable, "-I", "-S", "-c", _TIED, str(os.getpid())] if sys.platform == "linux" else []


_TIED = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL: it outlives exec
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_WITHIN
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(DeployError):
            if request(url, "GET", "/v2/health/ready").status == 200:
                return
        time.sleep(0.05)
    told = log.read_text(errors="replace").strip().splitlines()[-3:]
    raise ServerFailed(
        f"the runtime did not get ready within {START_WITHIN:.0f} s: {' | '.join(told) or 'it said nothing'}",
        where=url,
        fix="see that the serving extra is installed (pip install 'slipway[serving]')",
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
