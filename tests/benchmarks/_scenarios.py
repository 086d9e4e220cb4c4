"""What is asked of the servers: the same requests, made once, for all of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from serving.client.grpc_messages import infer_message
from tests.benchmarks._load import Load, http_request, run_http
from tests.benchmarks._load_grpc import Head, client_head, run_grpc
from tests.conformance.target import binary_tensor, json_tensor
from tests.support.messages import message
from tests.support.models import zoo
from tests.support.peers import Peer, Ports

DISTINCT = 256
"""Different requests in rotation, so that no server can remember answers."""
_METHOD = "/inference.GRPCInferenceService/ModelInfer"


@dataclass(frozen=True)
class Scenario:
    name: str
    title: str
    models: tuple[str, ...]
    """The zoo's model, under as many names as are asked in turn."""
    start: Callable[[Peer, Ports, float], Load]
    serves: Callable[[Peer], bool] = lambda peer: True

    def write(self, folder: Path) -> Path:
        for name in self.models:
            (folder / name).mkdir(parents=True, exist_ok=True)
            (folder / name / "model.onnx").write_bytes(zoo()[_original(name)].content)
        return folder


def _original(name: str) -> str:
    return name.split("-")[0]


def _inputs(model: str, rows: int) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(21)
    return [zoo()[model].sample(rng, rows) for _ in range(DISTINCT)]


def _json_bodies(model: str, rows: int) -> list[bytes]:
    return [
        json.dumps({"inputs": [json_tensor(n, "FP32", v) for n, v in inputs.items()]}).encode()
        for inputs in _inputs(model, rows)
    ]


def _json(name: str, title: str, model: str, connections: int, rows: int = 1, copies: int = 1) -> Scenario:
    names = (model,) if copies == 1 else tuple(f"{model}-{number:02}" for number in range(copies))
    bodies: list[bytes] = []

    def start(peer: Peer, ports: Ports, seconds: float) -> Load:
        if not bodies:
            bodies.extend(_json_bodies(model, rows))
        requests = [
            http_request(peer.infer.format(model=names[number % len(names)]), body)
            for number, body in enumerate(bodies)
        ]
        return run_http(ports.http, requests, connections, seconds)

    return Scenario(name, title, names, start, lambda peer: peer.many_models or copies == 1)


def _binary(name: str, title: str, model: str, connections: int, rows: int = 1) -> Scenario:
    def start(peer: Peer, ports: Ports, seconds: float) -> Load:
        requests = []
        for inputs in _inputs(model, rows):
            tensors, blocks = zip(*(binary_tensor(n, "FP32", v) for n, v in inputs.items()), strict=True)
            head: dict[str, Any] = {"inputs": list(tensors), "parameters": {"binary_data_output": True}}
            text = json.dumps(head).encode()
            headers = (
                f"Inference-Header-Content-Length: {len(text)}\r\nContent-Type: application/octet-stream\r\n"
            )
            requests.append(http_request(peer.infer.format(model=model), text + b"".join(blocks), headers))
        return run_http(ports.http, requests, connections, seconds)

    return Scenario(name, title, (model,), start, lambda peer: peer.name in ("slipway", "kserve", "triton"))


def _typed(model: str, inputs: dict[str, np.ndarray]) -> bytes:
    """Contents in fields of their type, as clients without raw contents send them."""
    request = message("ModelInferRequest")(model_name=model)
    for name, value in inputs.items():
        tensor = request.inputs.add(name=name, datatype="FP32", shape=value.shape)
        tensor.contents.fp32_contents.extend(value.ravel().tolist())
    return bytes(request.SerializeToString())


def _raw(model: str, inputs: dict[str, np.ndarray]) -> bytes:
    return infer_message(model, inputs, None, None, None, None, None)


_DEADLINE_HEAD = client_head(_METHOD, 0, own=False)


def _like_grpcio(number: int) -> bytes:
    return _DEADLINE_HEAD


def _with_ids(number: int) -> bytes:
    return client_head(_METHOD, number, own=True)


def _grpc(
    name: str,
    title: str,
    model: str,
    connections: int,
    streams: int,
    encode: Callable[[str, dict[str, np.ndarray]], bytes] = _raw,
    head: Head | None = None,
) -> Scenario:
    def start(peer: Peer, ports: Ports, seconds: float) -> Load:
        messages = [encode(model, inputs) for inputs in _inputs(model, 1)]
        return run_grpc(ports.grpc, _METHOD, messages, connections, streams, seconds, head=head)

    return Scenario(name, title, (model,), start, lambda peer: peer.grpc)


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        _json("json-1", "GB-30, 1 row, JSON, 1 connection", "boosted30", 1),
        _json("json-16", "GB-30, 1 row, JSON, 16 connections", "boosted30", 16),
        _json("json-64", "GB-30, 1 row, JSON, 64 connections", "boosted30", 64),
        _binary("binary-16", "GB-30, 1 row, binary, 16 connections", "boosted30", 16),
        _json("rows-32", "GB-30, 32 rows, JSON, 16 connections", "boosted30", 16, rows=32),
        _binary("rows-32-binary", "GB-30, 32 rows, binary, 16 connections", "boosted30", 16, rows=32),
        _grpc("grpc-4x4", "GB-30, 1 row, gRPC, 4 connections x 4 streams", "boosted30", 4, 4),
        _grpc("grpc-typed", "GB-30, 1 row, gRPC, typed contents, 4 x 4", "boosted30", 4, 4, _typed),
        _grpc(
            "grpc-deadline", "GB-30, 1 row, gRPC with a deadline, 4 x 4", "boosted30", 4, 4, head=_like_grpcio
        ),
        _grpc(
            "grpc-ids",
            "GB-30, 1 row, gRPC with deadline, id and trace, 4 x 4",
            "boosted30",
            4,
            4,
            head=_with_ids,
        ),
        _grpc("grpc-1x1", "GB-30, 1 row, gRPC, 1 connection x 1 stream", "boosted30", 1, 1),
        _json("mlp", "MLP of 1.5 ms, 1 row, JSON, 16 connections", "perceptron", 16),
        _json("cnn", "CNN 28x28, 1 row, JSON, 16 connections", "convolutions", 16),
        _json("models-50", "50 x GB-30 in turn, JSON, 16 connections", "boosted30", 16, copies=50),
    )
}
