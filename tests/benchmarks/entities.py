"""Requests by entity (10 features of 1 view on Valkey) beside the same as tensors and a bare MGET: p50s."""

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

from slipway.contract import Column, FeatureService, ModelContract, TensorInput, TensorOutput, View, ViewField
from slipway.features.keys import KeyMaker
from tests.support.contracts import publish, weighted
from tests.support.online import write_features
from tests.support.server import running_server
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


def _request(inputs: list[dict[str, object]]) -> bytes:
    body = json.dumps({"inputs": inputs}).encode()
    head = f"POST /v2/models/delays/infer HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


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
            kinds: dict[str, Callable[[int], object]] = {
                "tensor request": lambda number: http.ask(tensors[number]),
                "MGET (redis-py, hiredis)": lambda number: client.mget([keys[number]]),
                "entity request": lambda number: http.ask(entities[number]),
            }
            rounds: dict[str, list[float]] = {kind: [] for kind in kinds}
            for _ in range(ROUNDS):
                picked = rng.integers(0, ENTITIES, ASKED).tolist()
                for kind, once in kinds.items():
                    waits = []
                    for number in picked:
                        began = time.perf_counter()
                        once(number)
                        waits.append(time.perf_counter() - began)
                    rounds[kind].append(statistics.median(waits) * 1e6)
    tensor, mget, entity = rounds.values()
    ratios = [e / (t + m) for t, m, e in zip(tensor, mget, entity, strict=True)]
    print("| 1 row, 1 connection | p50 us |\n| --- | ---: |")
    for kind, medians in rounds.items():
        print(f"| {kind} | {statistics.median(medians):,.0f} |")
    print(f"\nentity / (tensor + MGET): {statistics.median(ratios):.2f} (limit {LIMIT})")


if __name__ == "__main__":
    run()
