"""The ONNX runtime as a server of the platform: it runs once a model has been deployed here."""

from __future__ import annotations

import http.client
import os
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

import msgspec

from slipway.local.home import Home, Secrets
from slipway.local.ports import HOST
from slipway.local.servers import NotReady, Server

MODELS = "models"


class ModelServer(Server):
    name = "serving"
    software = "Slipway runtime"
    package = "slipway[serving]"
    # What a process of ours is recognised by: the interpreter behind the links of a virtual environment.
    program = Path(sys.executable).resolve().name
    ports = ("serving", "serving_grpc")
    # Requests in flight are answered first.
    stop_grace = 30.0

    def models(self, home: Home) -> Path:
        """One folder a model, in it one a version."""
        return home.data(self.name) / MODELS

    def wanted(self, home: Home) -> bool:
        models = self.models(home)
        return models.is_dir() and any(models.iterdir())

    def executable(self) -> Path:
        if find_spec("onnxruntime") is None or find_spec("serving.runtime") is None:
            raise self.not_installed()
        # Not resolved: the link is what tells Python its environment.
        return Path(sys.executable)

    def configure(self, home: Home, secrets: Secrets, ports: Mapping[str, int]) -> Sequence[str]:
        options = {
            "model-dir": MODELS,
            "http-host": HOST,
            "http-port": ports["serving"],
            "grpc-port": ports["serving_grpc"],
        }
        # It reads the online store's address and password where everybody does.
        self._home = str(home.path)
        return ["-m", "serving.runtime", *(f"--{name}={value}" for name, value in options.items())]

    def environment(self) -> dict[str, str]:
        ours = {name: value for name, value in os.environ.items() if name.startswith("SLIPWAY_")}
        python = {name: os.environ[name] for name in ("PYTHONPATH", "HOME") if name in os.environ}
        return {**super().environment(), **python, **ours, "SLIPWAY_HOME": self._home}

    def check(self, secrets: Secrets, ports: Mapping[str, int], timeout: float) -> str:
        connection = http.client.HTTPConnection(HOST, ports["serving"], timeout=timeout)
        try:
            connection.request("GET", "/v2")
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise NotReady(f"the runtime does not answer: {error}") from error
        finally:
            connection.close()
        if answer.status != 200:
            raise NotReady(f"the runtime answers {answer.status}")
        return str(msgspec.json.decode(body).get("version", "unknown"))

    def endpoint(self, ports: Mapping[str, int]) -> str:
        return f"http://{HOST}:{ports['serving']}"
