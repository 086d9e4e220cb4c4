"""Requests by entity (10 features of 1 view on Valkey) beside the same as tensors and a bare MGET.

p50s of what goes over one connection, one after the other; the server's CPU a request; over REST, with the
column in JSON and as binary data, and over gRPC.
"""

from __future__ import annotations

import json
import socket
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import redis

from serving.client.grpc_messages import infer_message
from slipway.contract import Column, FeatureService, ModelContract, TensorInput, TensorOutput, View, ViewField
from slipway.features.keys import KeyMaker
from tests.benchmarks._load_grpc import run_grpc
from tests.support.contracts import publish, weighted
from tests.support.online import write_features
from tests.support.process import cpu_seconds
from tests.support.server import Running, running_server
from tests.valkey import ValkeyServer

FEATURES = tuple(f"f{number}" for number in range(10))
ENTITIES = 5000
ROUNDS = 12
ASKED = 300
"""Of each kind in a round."""
LIMIT = 1.5


def _contract() -> ModelContract:
    view = View(
        name="carrier_delays",
        join_keys={"carrier": "carrier"},
        key_types={"carrier": "String"},
        fields=tuple(ViewField(name, "Float32") for name in FEATURES),
    )
    columns = tuple(Column(name, view.name, default=0.0) for name in FEATURES)
    return ModelContract(
        name="delays",
        inputs=(TensorInput("features", "FP32", (-1, len(FEATURES)), columns),),
        outputs=(TensorOutput("score", "FP32", (-1,)),),
        feature_service=FeatureService("delays_v1", "flights", "f" * 8, (view,), on_unavailable="fail"),
    )


class _Http:
    """One kept connection; requests are bytes made beforehand."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), 10)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, request: bytes) -> bytes:
        self._socket.sendall(request)
        got = self._socket.recv(65536)
        while b"\r\n\r\n" not in got or not got.endswith(b"]}"):
            got += self._socket.recv(65536)
        if got[9:12] != b"200":
            raise RuntimeError(got.decode(errors="replace"))
        return got


def _request(inputs: list[dict[str, object]], data: bytes = b"") -> bytes:
    """`data` of binary tensors."""
    body = json.dumps({"inputs": inputs}).encode()
    length = f"Inference-Header-Content-Length: {len(body)}\r\n" if data else ""
    head = (
        f"POST /v2/models/delays/infer HTTP/1.1\r\nHost: a\r\n{length}"
        f"Content-Length: {len(body) + len(data)}\r\n\r\n"
    )
    return head.encode() + body + data


def _binary_column(name: str) -> bytes:
    data = len(name).to_bytes(4, "little") + name.encode()
    return _request(
        [
            {
                "name": "carrier",
                "datatype": "BYTES",
                "shape": [1],
                "parameters": {"binary_data_size": len(data)},
            }
        ],
        data,
    )


def _grpc_medians(server: Running, names: list[str], values: np.ndarray) -> tuple[float, float, float, float]:
    """p50 and CPU of gRPC calls with tensors, and of such with entities."""
    calls = {
        "tensor": [_message({"features": row[np.newaxis]}) for row in values],
        "entity": [_message({"carrier": np.array([name], object)}) for name in names],
    }
    p50s: dict[str, list[float]] = {kind: [] for kind in calls}
    cpus: dict[str, list[float]] = {kind: [] for kind in calls}
    for _ in range(ROUNDS):
        for kind, messages in calls.items():
            before = cpu_seconds(server.process.pid)
            load = run_grpc(server.grpc, "/inference.GRPCInferenceService/ModelInfer", messages, 1, 1, 0.3)
            if load.failures:
                raise RuntimeError(load.first_failure.decode(errors="replace"))
            cpus[kind].append((cpu_seconds(server.process.pid) - before) / len(load.latencies) * 1e6)
            p50s[kind].append(load.quantile(0.5) * 1e6)
    return (
        statistics.median(p50s["tensor"]),
        statistics.median(cpus["tensor"]),
        statistics.median(p50s["entity"]),
        statistics.median(cpus["entity"]),
    )


def _message(inputs: dict[str, np.ndarray]) -> bytes:
    return infer_message("delays", inputs, None, None, None, None, None)


def _score(answer: bytes) -> float:
    body = json.loads(answer.partition(b"\r\n\r\n")[2])
    return float(body["outputs"][0]["data"][0])


def run() -> None:
    rng = np.random.default_rng(5)
    values = rng.normal(size=(ENTITIES, len(FEATURES))).astype(np.float32)
    names = [f"C{number}" for number in range(ENTITIES)]
    promised = _contract()
    service = promised.feature_service
    if service is None:
        raise AssertionError("the contract above has a feature service")
    (view,) = service.views
    keys = KeyMaker(service.project, view.name, view.join_keys, view.key_types).make(
        {"carrier": names}, ENTITIES
    )
    tensors = [
        _request([{"name": "features", "datatype": "FP32", "shape": [1, len(FEATURES)], "data": row}])
        for row in values.tolist()
    ]
    entities = [
        _request([{"name": "carrier", "datatype": "BYTES", "shape": [1], "data": [name]}]) for name in names
    ]
    binaries = [_binary_column(name) for name in names]
    with tempfile.TemporaryDirectory() as scratch, ValkeyServer(Path(scratch) / "valkey") as store:
        table = dict(
            zip(names, (dict(zip(FEATURES, row, strict=True)) for row in values.tolist()), strict=True)
        )
        write_features(store.port, service, table)
        weights = tuple(float(number + 1) for number in range(len(FEATURES)))
        publish(
            Path(scratch) / "models" / "delays", promised, model=weighted(weights), baseline=None, version="1"
        )
        environment = {"SLIPWAY_ONLINE_URL": store.url, "SLIPWAY_ONLINE_TIMEOUT": "2"}
        with (
            running_server(
                Path(scratch) / "models", Path(scratch) / "run", environment=environment
            ) as server,
            redis.Redis(port=store.port) as client,
        ):
            http = _Http(server.http)
            for number in range(20):
                # Both must be right, and the same, before how fast they are can mean anything.
                if _score(http.ask(tensors[number])) != _score(http.ask(entities[number])):
                    raise RuntimeError("the entity's answer is not that of its features")
                if _score(http.ask(binaries[number])) != _score(http.ask(tensors[number])):
                    raise RuntimeError("a binary column is answered otherwise than one in JSON")
            kinds: dict[str, Callable[[int], object]] = {
                "tensor request": lambda number: http.ask(tensors[number]),
                "MGET (redis-py, hiredis)": lambda number: client.mget([keys[number]]),
                "entity request": lambda number: http.ask(entities[number]),
                "entity request, binary column": lambda number: http.ask(binaries[number]),
            }
            cpu: dict[str, list[float]] = {kind: [] for kind in kinds}
            rounds: dict[str, list[float]] = {kind: [] for kind in kinds}
            for _ in range(ROUNDS):
                picked = rng.integers(0, ENTITIES, ASKED).tolist()
                for kind, once in kinds.items():
                    waits = []
                    used = cpu_seconds(server.process.pid)
                    for number in picked:
                        began = time.perf_counter()
                        once(number)
                        waits.append(time.perf_counter() - began)
                    cpu[kind].append((cpu_seconds(server.process.pid) - used) / ASKED * 1e6)
                    rounds[kind].append(statistics.median(waits) * 1e6)
            grpc = _grpc_medians(server, names, values)
    tensor, mget, entity, _ = rounds.values()
    ratios = [e / (t + m) for t, m, e in zip(tensor, mget, entity, strict=True)]
    print("| 1 row, 1 connection | p50 us | CPU us of the server |\n| --- | ---: | ---: |")
    for kind, medians in rounds.items():
        print(f"| {kind} | {statistics.median(medians):,.0f} | {statistics.median(cpu[kind]):,.0f} |")
    print(f"| tensor call, gRPC | {grpc[0]:,.0f} | {grpc[1]:,.0f} |")
    print(f"| entity call, gRPC | {grpc[2]:,.0f} | {grpc[3]:,.0f} |")
    print(f"\nentity / (tensor + MGET): {statistics.median(ratios):.2f} (limit {LIMIT})")


if __name__ == "__main__":
    run()
