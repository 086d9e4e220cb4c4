"""Every answer, through every protocol, is what onnxruntime answers when it is called directly."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from serving.client import AsyncClient, Client
from tests.conformance.target import Target, json_tensor
from tests.support.models import DTYPES, ZooModel, zoo
from tests.support.server import Running

NAMES = {np.dtype(kind): name for name, (_, kind) in DTYPES.items()}
every_model = pytest.mark.parametrize("model", zoo().values(), ids=list(zoo()))


def expect_same(got: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray]) -> None:
    """The same bits, types and shapes."""
    assert set(got) == set(wanted)
    for name, value in wanted.items():
        assert got[name].dtype == value.dtype, name
        assert got[name].shape == value.shape, name
        np.testing.assert_array_equal(got[name], value, err_msg=name, strict=True)


def json_payload(inputs: Mapping[str, np.ndarray]) -> dict[str, Any]:
    return {"inputs": [json_tensor(n, NAMES[v.dtype], v) for n, v in inputs.items()]}


def json_outputs(body: bytes | Mapping[str, Any]) -> dict[str, np.ndarray]:
    content = json.loads(body) if isinstance(body, bytes) else body
    return {
        item["name"]: np.array(item["data"], dtype=DTYPES[item["datatype"]][1]).reshape(item["shape"])
        for item in content["outputs"]
    }


@every_model
def test_json_is_what_onnxruntime_answers(zoo_server: Running, model: ZooModel) -> None:
    target = Target(zoo_server.url, None)
    rng = np.random.default_rng(11)
    for rows in (1, 2, 17):
        inputs = model.sample(rng, rows)
        answer = target.infer(model.name, json_payload(inputs)).ok()
        expect_same(json_outputs(answer), model.reference(inputs))
    target.close()


@every_model
def test_binary_is_what_onnxruntime_answers(zoo_server: Running, model: ZooModel) -> None:
    rng = np.random.default_rng(12)
    with Client(zoo_server.url) as client:
        for rows in (1, 3, 40):
            inputs = model.sample(rng, rows)
            expect_same(client.infer(model.name, inputs), model.reference(inputs))


@every_model
async def test_64_strangers_at_once_each_get_their_own_answer(zoo_server: Running, model: ZooModel) -> None:
    """Distinct requests that the server may run together: the bits are those of each alone."""
    rng = np.random.default_rng(13)
    requests = [model.sample(rng, int(rng.integers(1, 4))) for _ in range(64)]
    async with AsyncClient(zoo_server.url) as client:
        answers = await asyncio.gather(*(client.infer(model.name, inputs) for inputs in requests))
    for inputs, answer in zip(requests, answers, strict=True):
        expect_same(answer, model.reference(inputs))


async def test_64_strangers_at_once_across_all_models(zoo_server: Running) -> None:
    rng = np.random.default_rng(14)
    models = list(zoo().values())
    requests = [(models[n % len(models)], models[n % len(models)].sample(rng, 1 + n % 3)) for n in range(192)]
    async with AsyncClient(zoo_server.url) as client:
        answers = await asyncio.gather(*(client.infer(model.name, inputs) for model, inputs in requests))
    for (model, inputs), answer in zip(requests, answers, strict=True):
        assert answer.model_name == model.name
        expect_same(answer, model.reference(inputs))


async def test_a_bad_request_among_64_fails_alone(zoo_server: Running) -> None:
    """The model itself fails on some of those that run together: only they may be told so."""
    from slipway.errors import ServingError

    keys = [5000 if n % 8 == 3 else n for n in range(64)]
    async with AsyncClient(zoo_server.url) as client:
        answers = await asyncio.gather(
            *(client.infer("lookup", {"key": np.array([key])}) for key in keys), return_exceptions=True
        )
    for key, answer in zip(keys, answers, strict=True):
        if key == 5000:
            assert isinstance(answer, ServingError), answer
        else:
            assert not isinstance(answer, BaseException), answer
            assert answer["value"].tolist() == [key * 1.5]
