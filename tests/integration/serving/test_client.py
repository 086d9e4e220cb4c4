"""Our own client against our own server."""

from __future__ import annotations

import ast
import asyncio
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from serving.client import AsyncClient, Client
from slipway.errors import InvalidRequest, ModelNotFound, ServingError
from tests.support.models import zoo
from tests.support.server import Running


def test_lists_become_what_the_model_eats(zoo_server: Running) -> None:
    """As one types it into a notebook: plain lists, no dtypes, no shapes."""
    with Client(zoo_server.url) as client:
        answer = client.infer(
            "categories", {"carrier": ["UA", "B6"], "hour": [17, 6], "distance": [1400, 200.5]}
        )
    wanted = zoo()["categories"].reference(
        {
            "carrier": np.array([["UA"], ["B6"]], dtype=object),
            "hour": np.array([[17], [6]]),
            "distance": np.array([[1400], [200.5]], dtype=np.float32),
        }
    )
    np.testing.assert_array_equal(answer["label"], wanted["label"])
    np.testing.assert_array_equal(answer["probabilities"], wanted["probabilities"])


def test_the_answer_carries_id_version_and_receipt(zoo_server: Running) -> None:
    with Client(zoo_server.url) as client:
        answer = client.infer("half", {"x": np.ones((1, 4), np.float16)}, id="n1", parameters={"note": "a"})
        version = client.metadata("half").versions[0]
    assert answer.id == "n1"
    assert answer.model_version == version
    assert len(answer.receipt.model_digest or "") == 64
    assert answer.receipt.run_id is None


def test_only_the_outputs_asked_for(zoo_server: Running) -> None:
    with Client(zoo_server.url) as client:
        inputs = {n: np.ones((2, 2), np.float32) for n in "ab"}
        answer = client.infer("two_and_two", inputs, outputs=["difference"])
    assert list(answer) == ["difference"]
    assert answer["difference"].tolist() == [[0, 0], [0, 0]]


def test_what_there_is(zoo_server: Running) -> None:
    with Client(zoo_server.url) as client:
        assert client.live()
        assert client.ready()
        assert client.ready("half")
        assert not client.ready("no_such_model")
        assert {entry.name for entry in client.models(only_ready=True)} == set(zoo())
        assert client.metadata("half").inputs[0].datatype == "FP16"
        assert "binary_tensor_data" in client.server()["extensions"]


def test_unload_and_load(zoo_server: Running) -> None:
    x = {"X": np.ones((1, 5))}
    with Client(zoo_server.url) as client:
        client.unload("doubles")
        assert not client.ready("doubles")
        with pytest.raises(ServingError, match="doubles"):
            client.infer("doubles", x, timeout=2)
        client.load("doubles")
        assert client.infer("doubles", x)["variable"].shape == (1, 1)


def test_a_wrong_call_says_what_is_wrong(zoo_server: Running) -> None:
    with Client(zoo_server.url) as client:
        with pytest.raises(ModelNotFound, match="no_such_model"):
            client.infer("no_such_model", {"x": np.ones(1)})
        with pytest.raises(InvalidRequest, match="X"):
            client.infer("logistic", {"X": np.ones((1, 4), dtype=np.float64)})
        with pytest.raises(InvalidRequest, match="input 'hour': cannot be read as INT64"):
            client.infer("categories", {"carrier": ["UA"], "hour": ["noon"], "distance": [1]})


def test_one_client_for_many_threads(zoo_server: Running) -> None:
    model = zoo()["boosted30"]
    rng = np.random.default_rng(3)
    requests = [model.sample(rng, 2) for _ in range(100)]
    with Client(zoo_server.url) as client, ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda inputs: client.infer("boosted30", inputs), requests))
    for inputs, answer in zip(requests, answers, strict=True):
        np.testing.assert_allclose(
            answer["probabilities"], model.reference(inputs)["probabilities"], rtol=1e-5
        )


async def test_the_asynchronous_client_answers_alike(zoo_server: Running) -> None:
    inputs = zoo()["categories"].sample(np.random.default_rng(4), 5)
    with Client(zoo_server.url) as client:
        wanted = await asyncio.to_thread(client.infer, "categories", inputs)
    async with AsyncClient(zoo_server.url) as client:
        got = await client.infer("categories", inputs)
        assert await client.live()
        assert await client.ready("categories")
        assert {entry.name for entry in await client.models()} == set(zoo())
    for name in wanted:
        np.testing.assert_array_equal(got[name], wanted[name])
    assert got.receipt == wanted.receipt


def test_the_client_needs_only_numpy_and_msgspec() -> None:
    code = (
        "import sys, serving.client; roots = {name.partition('.')[0] for name in sys.modules};"
        "third = roots - set(sys.stdlib_module_names) - {'__main__'};"
        "print(sorted(name for name in third if not name.startswith('_')))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    # typing_extensions is msgspec's, where it is installed.
    found = set(ast.literal_eval(ran.stdout)) - {"typing_extensions"}
    assert found == {"msgspec", "numpy", "serving", "slipway"}
