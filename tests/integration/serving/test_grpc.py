"""gRPC: our own client's numbers, NVIDIA's client, and how both fronts speak of the same fault."""

from __future__ import annotations

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from serving.client import Client, Retry
from serving.client.grpc import AsyncGrpcClient, GrpcClient
from slipway.errors import InvalidRequest, ModelNotFound, ServerUnreachable, ServingError
from tests.integration.serving.test_numbers import expect_same
from tests.integration.serving.test_real_clients import CLIENTS, MODELS, run, write_inputs
from tests.integration.serving.test_real_clients import expect_same as expect_same_text
from tests.support.models import ZooModel, zoo
from tests.support.process import closed_port
from tests.support.server import Running

every_model = pytest.mark.parametrize("model", zoo().values(), ids=list(zoo()))


@every_model
def test_grpc_is_what_onnxruntime_answers(zoo_server: Running, model: ZooModel) -> None:
    rng = np.random.default_rng(17)
    with GrpcClient(zoo_server.grpc_address) as client:
        for rows in (1, 3, 40):
            inputs = model.sample(rng, rows)
            expect_same(client.infer(model.name, inputs), model.reference(inputs))


async def test_64_strangers_at_once_across_all_models(zoo_server: Running) -> None:
    rng = np.random.default_rng(18)
    models = list(zoo().values())
    requests = [(models[n % len(models)], models[n % len(models)].sample(rng, 1 + n % 3)) for n in range(192)]
    async with AsyncGrpcClient(zoo_server.grpc_address) as client:
        answers = await asyncio.gather(*(client.infer(model.name, inputs) for model, inputs in requests))
    for (model, inputs), answer in zip(requests, answers, strict=True):
        assert answer.model_name == model.name
        for name, value in model.reference(inputs).items():
            if value.dtype.kind == "f":
                tolerance = 2e-3 if value.dtype == np.float16 else 1e-5
                np.testing.assert_allclose(answer[name], value, rtol=tolerance, atol=tolerance)
            else:
                np.testing.assert_array_equal(answer[name], value)


def test_both_fronts_say_the_same(zoo_server: Running) -> None:
    inputs = zoo()["categories"].sample(np.random.default_rng(19), 4)
    with Client(zoo_server.url) as rest, GrpcClient(zoo_server.grpc_address) as grpc:
        one = rest.infer("categories", inputs, id="a", outputs=["label"])
        other = grpc.infer("categories", inputs, id="a", outputs=["label"])
        assert rest.metadata("categories") == grpc.metadata("categories")
        assert {state.name for state in rest.models()} == {state.name for state in grpc.models()}
        assert grpc.live()
        assert grpc.ready()
        assert grpc.ready("categories")
        assert not grpc.ready("no_such_model")
    assert list(one) == list(other) == ["label"]
    np.testing.assert_array_equal(one["label"], other["label"])
    assert (one.receipt, one.id, one.model_version) == (other.receipt, other.id, other.model_version)


@pytest.mark.parametrize(
    ("model", "inputs", "error", "says"),
    [
        ("no_such_model", {"x": np.ones(1)}, ModelNotFound, "no_such_model"),
        ("logistic", {"X": np.ones((1, 4))}, InvalidRequest, "X"),
        ("logistic", {"X": np.ones((1, 5), np.float32)}, InvalidRequest, "X"),
        ("logistic", {"Y": np.ones((1, 4), np.float32)}, InvalidRequest, "Y"),
        ("two_and_two", {"a": np.ones((1, 2), np.float32)}, InvalidRequest, "b"),
    ],
)
def test_a_fault_is_the_same_error_over_both(
    zoo_server: Running, model: str, inputs: dict[str, np.ndarray], error: type[ServingError], says: str
) -> None:
    with Client(zoo_server.url) as rest, GrpcClient(zoo_server.grpc_address) as grpc:
        for client in (rest, grpc):
            with pytest.raises(error, match=says):
                client.infer(model, inputs)


def test_one_client_for_many_threads(zoo_server: Running) -> None:
    model = zoo()["boosted30"]
    rng = np.random.default_rng(20)
    requests = [model.sample(rng, 2) for _ in range(100)]
    with GrpcClient(zoo_server.grpc_address) as client, ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda inputs: client.infer("boosted30", inputs), requests))
    for inputs, answer in zip(requests, answers, strict=True):
        wanted = model.reference(inputs)["probabilities"]
        np.testing.assert_allclose(answer["probabilities"], wanted, rtol=1e-5)


def test_nobody_there() -> None:
    retry = Retry(attempts=2, first=0.01)
    with (
        closed_port() as port,
        GrpcClient(f"127.0.0.1:{port}", retry=retry) as client,
        pytest.raises(ServerUnreachable, match=f"127.0.0.1:{port}"),
    ):
        client.infer("logistic", {"X": np.ones((1, 4), np.float32)}, timeout=60)


def test_tritonclient_grpc(zoo_server: Running, tmp_path: Path) -> None:
    wanted = write_inputs(tmp_path, MODELS)
    out = run(sys.executable, CLIENTS / "triton_grpc.py", zoo_server.grpc_address, tmp_path)
    expect_same_text(out, wanted, {"raw"})
