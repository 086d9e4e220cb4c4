"""Asking a server of the Open Inference Protocol, in the little that a deployment needs."""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, urlsplit

import msgspec

from slipway.errors import DeployError
from slipway.smoke import SmokeTensor, SmokeTest, differences

TIMEOUT = 30.0


class ServerAnswer(msgspec.Struct, frozen=True):
    status: int
    body: bytes

    @property
    def error(self) -> str:
        try:
            return str(msgspec.json.decode(self.body)["error"])
        except (msgspec.MsgspecError, KeyError, TypeError):
            return self.body[:300].decode(errors="replace") or f"status {self.status}"


def request(url: str, method: str, path: str, body: Any = None) -> ServerAnswer:
    """One request with a timeout; DeployError when nobody answers."""
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=TIMEOUT)
    try:
        raw = None if body is None else msgspec.json.encode(body)
        headers = {} if raw is None else {"Content-Type": "application/json"}
        connection.request(method, parts.path.rstrip("/") + path, raw, headers)
        answer = connection.getresponse()
        return ServerAnswer(answer.status, answer.read())
    except (OSError, http.client.HTTPException) as error:
        raise DeployError(
            f"the server does not answer: {error}",
            where=url,
            fix="`slipway status` and `slipway logs serving` say why",
        ) from error
    finally:
        connection.close()


def model_path(name: str, version: str = "") -> str:
    path = f"/v2/models/{quote(name, safe='')}"
    return f"{path}/versions/{quote(version, safe='')}" if version else path


def check_answers(url: str, path: str, smoke: SmokeTest, *, tolerance: float = 0.0) -> None:
    """Ask the known questions; DeployError names every answer that is not the known one."""
    question = {
        "inputs": [msgspec.to_builtins(tensor) for tensor in smoke.inputs],
        "outputs": [{"name": tensor.name} for tensor in smoke.outputs],
    }
    answer = request(url, "POST", f"{path}/infer", question)
    if answer.status != 200:
        raise DeployError(f"the smoke test was answered {answer.status}: {answer.error}", where=url + path)
    found = {
        tensor["name"]: SmokeTensor(
            tensor["name"], tensor["datatype"], tuple(tensor["shape"]), tuple(tensor["data"])
        )
        for tensor in msgspec.json.decode(answer.body)["outputs"]
    }
    wrong = differences(smoke.outputs, found, tolerance=tolerance)
    if wrong:
        raise DeployError(
            f"{len(wrong)} of the smoke test's answers are wrong: " + "; ".join(wrong[:5]),
            where=url + path,
            fix="the server runs another model or another onnxruntime than the one that was verified",
        )


def wait_until(ready: Callable[[], str | None], *, within: float, where: str) -> None:
    """Poll until `ready` answers None; what it answers else is why not."""
    deadline = time.monotonic() + within
    while (reason := ready()) is not None:
        if time.monotonic() > deadline:
            raise DeployError(f"not ready after {within:.0f} s: {reason}", where=where)
        time.sleep(0.05)
