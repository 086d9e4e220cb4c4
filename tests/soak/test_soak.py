"""Mixed load with loads, unloads, disconnects and a store that dies: no wrong answer, no leak."""

from __future__ import annotations

import asyncio
import random
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import numpy as np
import psutil
import pytest

from serving.client import Answer, AsyncClient, Retry
from serving.client.grpc import AsyncGrpcClient
from slipway.errors import ModelFailed, ModelNotFound, ModelNotReady, ServingError
from tests.conformance.target import json_tensor
from tests.support.contracts import contract, publish
from tests.support.models import DTYPES, write_model, write_repository, zoo
from tests.support.online import write_features
from tests.support.server import Running, running_server
from tests.valkey import ValkeyServer

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]

MODELS = ("logistic", "boosted30", "categories", "two_and_two", "convolutions", "row_mixer", "half", "lookup")
CHURN = ("churn_a", "churn_b", "churn_c")
NAMES = {np.dtype(kind): name for name, (_, kind) in DTYPES.items()}
CARRIERS = {f"C{n}": {"delay_1h": float(n), "delay_24h": float(2 * n)} for n in range(50)}
PAUSE = 0.01
"""Between two requests of one task: the load is to be mixed, not to be a benchmark."""
GROWTH = 12 << 20
"""Bytes that the second half may add; what leaks per request adds far more in half a million."""


class Soak:
    def __init__(self, server: Running, store: ValkeyServer, seconds: float) -> None:
        self.server = server
        self.store = store
        self.until = time.monotonic() + seconds
        self.seconds = seconds
        self.outcomes: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.store_up = True
        self.samples: list[tuple[float, int, int, int]] = []
        self.requests = {
            name: [self._request(name, np.random.default_rng([n, len(name)])) for n in range(40)]
            for name in MODELS
        }

    @staticmethod
    def _request(name: str, rng: np.random.Generator) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        inputs = zoo()[name].sample(rng, int(rng.integers(1, 5)))
        return inputs, zoo()[name].reference(inputs)

    @property
    def running(self) -> bool:
        return time.monotonic() < self.until

    def compare(self, what: str, got: Answer, wanted: dict[str, np.ndarray]) -> None:
        for name, value in wanted.items():
            same = name in got and got[name].shape == value.shape
            if same and value.dtype.kind == "f":
                tolerance = 2e-3 if value.dtype == np.float16 else 1e-5
                same = bool(np.allclose(got[name], value, rtol=tolerance, atol=tolerance, equal_nan=True))
            elif same:
                same = bool(np.array_equal(got[name], value))
            if not same:
                self.wrong.append(f"{what} {name}: {got.get(name)} for {value}")
        self.outcomes[what] += 1

    async def repeat(self, name: str, once: Callable[[random.Random], Awaitable[None]], seed: int) -> None:
        rng = random.Random(seed)
        while self.running:
            try:
                await once(rng)
            except Exception as error:
                # Every expected refusal is taken where it is expected.
                self.wrong.append(f"{name}: {type(error).__name__}: {error}")
                await asyncio.sleep(0.2)
            await asyncio.sleep(PAUSE)

    async def binary(self, client: AsyncClient | AsyncGrpcClient, rng: random.Random) -> None:
        model = rng.choice(MODELS)
        inputs, wanted = rng.choice(self.requests[model])
        self.compare(type(client).__name__, await client.infer(model, inputs), wanted)

    async def bad(self, client: AsyncClient, rng: random.Random) -> None:
        """A request that only the model can refuse, among the good ones of others."""
        try:
            await client.infer("lookup", {"key": np.array([10**6])})
        except (ModelFailed, ServingError) as error:
            self.outcomes[f"refused: {type(error).__name__}"] += 1
        else:
            self.wrong.append("an impossible key was answered")

    async def json(self, rng: random.Random) -> None:
        model = rng.choice(("logistic", "boosted30", "categories"))
        inputs, wanted = rng.choice(self.requests[model])
        body = msgspec.json.encode({"inputs": [json_tensor(n, NAMES[v.dtype], v) for n, v in inputs.items()]})
        reader, writer = await asyncio.open_connection("127.0.0.1", self.server.http)
        head = f"POST /v2/models/{model}/infer HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
        writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        async with asyncio.timeout(10):
            raw = await reader.read()
        writer.close()
        outputs = msgspec.json.decode(raw.partition(b"\r\n\r\n")[2])["outputs"]
        got = {
            item["name"]: np.array(item["data"], DTYPES[item["datatype"]][1]).reshape(item["shape"])
            for item in outputs
        }
        self.compare("JSON", Answer(got), wanted)

    async def entities(self, client: AsyncClient, model: str, rng: random.Random) -> None:
        """The features are those that were stored, or (the store being away) what the contract says."""
        carriers = rng.sample(sorted(CARRIERS), 3)
        distance = np.array([[rng.random()] for _ in carriers], dtype=np.float32)
        columns = {"carrier": np.array(carriers, dtype=object), "distance": distance}
        try:
            answer = await client.infer(model, columns)
        except ServingError as error:
            if model == "strict" and error.status == 503:
                self.outcomes["strict: 503"] += 1
                return
            raise
        stored = [CARRIERS[c]["delay_1h"] + 10 * CARRIERS[c]["delay_24h"] for c in carriers]
        fallen = [-1.0 - 20.0] * len(carriers)
        defaults = answer.parameters.get("feature_defaults", 0)
        for base, kind in ((stored, "stored"), (fallen, "defaults")):
            wanted = np.array(base, np.float32) + 100 * distance[:, 0]
            if np.allclose(answer["score"], wanted, rtol=1e-5) and (defaults > 0) == (kind == "defaults"):
                self.outcomes[f"{model}: {kind}"] += 1
                return
        self.wrong.append(f"{model}: {answer['score']} for {stored}, {answer.parameters}")

    async def churn(self, client: AsyncClient, rng: random.Random) -> None:
        """A model that comes and goes: right, or clearly not there."""
        model = rng.choice(CHURN)
        inputs, wanted = rng.choice(self.requests["two_and_two"])
        try:
            self.compare("churn", await client.infer(model, inputs), wanted)
        except (ModelNotReady, ModelNotFound) as error:
            self.outcomes[f"churn: {type(error).__name__}"] += 1

    async def operate(self, client: AsyncClient, rng: random.Random) -> None:
        model = rng.choice(CHURN)
        try:
            await (client.unload(model) if rng.random() < 0.5 else client.load(model))
        except (ModelNotReady, ModelNotFound) as error:
            self.outcomes[f"operate: {type(error).__name__}"] += 1
        self.outcomes["operate"] += 1
        await asyncio.sleep(0.2)

    async def hang_up(self, rng: random.Random) -> None:
        body = b'{"inputs":[{"name":"X","shape":[1,4],"datatype":"FP32","data":[1,2,3,4]}]}'
        head = b"POST /v2/models/logistic/infer HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body)
        request = (head + body) * rng.choice((1, 5, 30))
        _, writer = await asyncio.open_connection("127.0.0.1", self.server.http)
        writer.write(request[: rng.randrange(1, len(request) + 1)])
        if rng.random() < 0.5:
            linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        await asyncio.sleep(rng.random() * 0.02)
        writer.close()
        self.outcomes["hung up"] += 1

    async def torment_the_store(self) -> None:
        """Killed and started empty, then filled again; frozen and thawed."""
        service = contract().feature_service
        assert service is not None
        rng = random.Random(0)
        step = min(30.0, self.seconds / 6)
        while time.monotonic() + step < self.until:
            await asyncio.sleep(step * 0.5)
            if rng.random() < 0.5:
                self.store.stop()
                await asyncio.sleep(step * 0.25)
                await asyncio.to_thread(self.store.start)
                await asyncio.to_thread(write_features, self.store.port, service, CARRIERS)
            else:
                self.store.freeze()
                await asyncio.sleep(step * 0.25)
                self.store.thaw()
            self.outcomes["store down and up"] += 1
            await asyncio.sleep(step * 0.25)

    async def watch(self) -> None:
        process = psutil.Process(self.server.process.pid)
        while self.running:
            memory = process.memory_info().rss
            self.samples.append((time.monotonic(), memory, process.num_fds(), process.num_threads()))
            await asyncio.sleep(0.5)

    async def run(self) -> None:
        retry = Retry(attempts=1)
        patient = Retry(attempts=4)
        async with (
            AsyncClient(self.server.url, retry=patient) as client,
            AsyncClient(self.server.url, retry=retry) as once,
            AsyncGrpcClient(self.server.grpc_address, retry=patient) as grpc,
        ):
            tasks = [
                *(self.repeat("binary", lambda rng: self.binary(client, rng), n) for n in range(8)),
                *(self.repeat("grpc", lambda rng: self.binary(grpc, rng), n) for n in range(20, 24)),
                *(self.repeat("json", self.json, n) for n in range(30, 33)),
                *(
                    self.repeat("lenient", lambda r: self.entities(once, "lenient", r), n)
                    for n in range(40, 43)
                ),
                *(
                    self.repeat("strict", lambda r: self.entities(once, "strict", r), n)
                    for n in range(50, 52)
                ),
                *(self.repeat("churn", lambda rng: self.churn(once, rng), n) for n in range(60, 62)),
                self.repeat("bad", lambda rng: self.bad(client, rng), 70),
                self.repeat("operate", lambda rng: self.operate(once, rng), 80),
                self.repeat("hang up", self.hang_up, 90),
                self.torment_the_store(),
                self.watch(),
            ]
            await asyncio.gather(*tasks)


async def test_soak(tmp_path: Path, soak_seconds: float) -> None:
    models = write_repository(tmp_path / "models", MODELS)
    for name in CHURN:
        write_model(models / name, "two_and_two")
    publish(models / "lenient", contract("lenient"), version="1")
    publish(models / "strict", contract("strict", store="fail"), version="1")
    service = contract().feature_service
    assert service is not None
    with ValkeyServer(tmp_path / "valkey") as store:
        write_features(store.port, service, CARRIERS)
        environment = {"SLIPWAY_ONLINE_URL": store.url, "SLIPWAY_ONLINE_TIMEOUT": "0.2"}
        with running_server(models, tmp_path / "run", environment=environment) as server:
            soak = Soak(server, store, soak_seconds)
            await soak.run()
            async with AsyncClient(server.url) as client:
                # All is well again: the store is back, and so must be the features.
                deadline = time.monotonic() + 10
                before = soak.outcomes["strict: stored"]
                while soak.outcomes["strict: stored"] == before and time.monotonic() < deadline:
                    await soak.entities(client, "strict", random.Random(1))
            assert server.process.poll() is None
    print(f"\n{soak_seconds:g} s:", dict(soak.outcomes))
    assert not soak.wrong, (len(soak.wrong), soak.wrong[:5])
    assert soak.outcomes["strict: stored"] > before
    for kind in ("AsyncClient", "AsyncGrpcClient", "JSON", "lenient: stored", "lenient: defaults", "churn"):
        assert soak.outcomes[kind] > 0, f"{kind} never happened: {soak.outcomes}"
    second = soak.samples[len(soak.samples) // 2 :]
    early, late = second[: len(second) // 4], second[-len(second) // 4 :]
    memory = [np.median([sample[1] for sample in part]) for part in (early, late)]
    print(f"resident: {memory[0] / 1e6:.1f} MB at half time, {memory[1] / 1e6:.1f} MB at the end")
    assert memory[1] - memory[0] < GROWTH
    for place in (2, 3):  # open files, threads
        assert (
            max(s[place] for s in late) <= max(s[place] for s in soak.samples[: len(soak.samples) // 2]) + 8
        )
