"""The decoders by themselves: a request or a refusal, never another exception; the fast path is exact."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import numpy as np
import pytest

from serving.client.calls import Reply, read_answer
from serving.client.grpc_messages import read_answer as read_grpc_answer
from serving.runtime.codec_json import decode_request
from serving.runtime.codec_v1 import decode_predict
from serving.runtime.fastpath import FastReader
from serving.runtime.messages import InferRequest
from serving.runtime.model import Model
from slipway.errors import ServingError
from tests.fuzz.campaign import Campaign
from tests.fuzz.conftest import Front
from tests.fuzz.test_rest_front import binary, bodies
from tests.support.messages import message
from tests.support.mutate import inputs

pytestmark = [pytest.mark.fuzz, pytest.mark.timeout(14400)]


def _nobody(request: InferRequest, result: object) -> None:
    raise AssertionError("decoding must not answer")


def _bits(request: InferRequest) -> list[tuple[Any, ...]]:
    return [
        (t.name, t.datatype, tuple(t.shape), t.data if isinstance(t.data, list) else bytes(t.data))
        for t in request.inputs
    ]


FAST = ["logistic", "lookup", "categories", "two_and_two", "half"]


def _meaning(request: InferRequest) -> tuple[Any, ...]:
    outputs = [(output.name, output.binary) for output in request.outputs or ()]
    return _bits(request), request.id, outputs, request.parameters


def _reader(front: Front, model_name: str) -> tuple[Model, FastReader]:
    model = front.engine.find(model_name)
    assert model is not None
    return model, FastReader(model.extras["reader"].answers)


def _compare(model: Model, reader: FastReader, sent: bytes, json_length: int | None = None) -> bool:
    """Both readers on one body; whether the fast one took it."""
    row = reader.row(sent, 0, json_length)
    quick = reader.read(model, sent, json_length, _nobody, 0.0, None)
    try:
        slow = decode_request(sent, model, _nobody, json_length)
        model.admit(slow)
    except ServingError:
        slow = None
    if row is not None:
        assert slow is not None, f"the row was taken from what the general path refuses: {sent!r}"
        (tensor,) = slow.inputs
        assert row[1] == bytes(tensor.data), sent
        assert (row[0].key, row[0].shape, slow.rows) == (slow.key, tensor.shape, 1), sent
        assert row[2] == (b',"id":' + msgspec.json.encode(slow.id) if slow.id else b""), sent
    if quick is not None:
        assert slow is not None, f"the fast path took what the general path refuses: {sent!r}"
        assert _meaning(quick) == _meaning(slow), sent
        assert (quick.rows, quick.key) == (slow.rows, slow.key), sent
        return True
    if slow is not None:
        reader.learn(sent, json_length, slow)
    return False


@pytest.mark.parametrize("model_name", FAST)
async def test_the_fast_path_reads_what_the_general_path_reads(
    front: Front, campaign: Campaign, model_name: str
) -> None:
    """Whatever the fast reader accepts, the general reader must accept with the same bits."""
    model, reader = _reader(front, model_name)
    taken = 0
    tricky = [
        b'{"id":"\\"data\\":[1,2]","inputs":[{"name":"X","shape":[1,4],"datatype":"FP32","data":[1,2,3,4]}]}',
        b'{"inputs":[{"name":"X","data":[1,2,3,4],"shape":[1,4],"datatype":"FP32"}]}',
        b'{"inputs":[{"parameters":{"data":[1]},"name":"X","shape":[1,4],"datatype":"FP32","data":[1,2,3,4]}]}',
        b'{"inputs":[{"name":"key","shape":[2],"datatype":"INT64","data":[1,2]}]}',
        b'{"inputs":[{"name":"key","shape":[2],"datatype":"INT64","data":[1,2],"data":[3,4]}]}',
        b'{"inputs":[{"name":"key","shape":[1],"datatype":"INT64","data":[0],"data":[0]}]}',
        b'{"id":"a","inputs":[{"name":"key","shape":[1],"datatype":"INT64","data":[0]}],"id":"a"}',
        b'","inputs":[{"name":"key","shape":[1],"datatype":"INT64","data":[0]}]}',
        b'{"inputs":[{"name":"X","shape":[1,4],"datatype":"FP32","data":[[1,2,3,4]]}]}',
        b'{"parameters":{"binary_data_output":{"binary_data":"yes"}},"inputs":[{"name":"X","shape":[1,4],'
        b'"datatype":"FP32","data":[1,2,3,4]}]}',
        b'{"inputs":[{"name":"carrier","shape":[1,1],"datatype":"BYTES","data":["a]"]},{"name":"hour",'
        b'"shape":[1,1],"datatype":"INT64","data":[1]},{"name":"distance","shape":[1,1],"datatype":"FP32",'
        b'"data":[[2]]}]}',
    ]
    for sent in campaign.inputs([*bodies(model_name), *tricky], seed=31):
        taken += _compare(model, reader, sent)
    assert taken > 0, "the fast path was never taken, so nothing was compared"


@pytest.mark.parametrize("model_name", ["logistic", "two_and_two", "every_dtype", "categories"])
async def test_the_fast_path_reads_binary_tensors_as_the_general_path_does(
    front: Front, campaign: Campaign, model_name: str
) -> None:
    model, reader = _reader(front, model_name)
    taken = 0
    body, length = binary(model_name)
    named = body.replace(b"{", b'{"id":"a-1",', 1)
    for number, sent in enumerate(campaign.inputs([body, named], seed=37)):
        at = sent.rfind(b"}", 0, length + 20) + 1 if number % 2 else length
        taken += _compare(model, reader, sent, at)
    # Texts and bools have to be looked at, so their frames are not learnt.
    assert (taken > 0) == (model_name in ("logistic", "two_and_two"))


@pytest.mark.parametrize("model_name", ["logistic", "every_dtype", "categories"])
async def test_json_and_binary(front: Front, campaign: Campaign, model_name: str) -> None:
    model = front.engine.find(model_name)
    assert model is not None
    body, length = binary(model_name)
    for number, sent in enumerate(campaign.inputs([*bodies(model_name), body], seed=32)):
        try:
            decode_request(sent, model, _nobody, None if number % 3 else length)
        except ServingError as error:
            assert error.status in (400, 413), error
            assert error.what


async def test_v1(front: Front, campaign: Campaign) -> None:
    seeds = {
        "logistic": [
            b'{"instances": [[1.0, 2.0, 3.0, 4.0], [1, 2, 3, 4]]}',
            b'{"inputs": {"X": [[1, 2, 3, 4]]}}',
        ],
        "two_and_two": [
            b'{"instances": [{"a": [1, 2], "b": [3, 4]}]}',
            b'{"inputs": {"a": [[1, 2]], "b": [[3, 4]]}, "signature_name": "x"}',
        ],
        "categories": [b'{"instances": [{"carrier": ["UA"], "hour": [3], "distance": [1.5]}]}'],
    }
    for name, bodies_ in seeds.items():
        model = front.engine.find(name)
        assert model is not None
        for sent in campaign.inputs(bodies_, seed=33, share=3):
            try:
                decode_predict(sent, model, _nobody)
            except ServingError as error:
                assert error.status == 400, error


def test_the_clients_reading_of_rest(campaign: Campaign) -> None:
    """A client must survive whatever calls itself a server."""
    output = {"name": "y", "datatype": "FP32", "shape": [2], "data": [1.5, 2.5]}
    texts = {"name": "t", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 6}}
    plain = json.dumps({"model_name": "m", "outputs": [output], "parameters": {"a": 1}}).encode()
    mixed = json.dumps({"model_name": "m", "outputs": [texts]}).encode()
    for sent in campaign.inputs([plain, mixed + b"\x02\x00\x00\x00ab"], seed=34):
        for headers in ({}, {"inference-header-content-length": str(len(mixed))}):
            try:
                answer = read_answer(Reply(200, headers, sent))
            except ServingError as error:
                assert error.what
            else:
                assert all(isinstance(value, np.ndarray) for value in answer.values())


def test_the_clients_reading_of_grpc(campaign: Campaign) -> None:
    built = message("ModelInferResponse")(model_name="m", model_version="1", id="i")
    built.outputs.add(name="y", datatype="FP32", shape=[1, 2])
    built.outputs.add(name="t", datatype="BYTES", shape=[1])
    built.parameters["a"].int64_param = -5
    built.raw_output_contents.extend([np.ones(2, np.float32).tobytes(), b"\x01\x00\x00\x00a"])
    typed = message("ModelInferResponse")(model_name="m")
    typed.outputs.add(name="y", datatype="INT64", shape=[2]).contents.int64_contents.extend([1, -2])
    typed.outputs.add(name="z", datatype="FP64", shape=[1]).contents.fp64_contents.append(1.5)
    for sent in campaign.inputs([built.SerializeToString(), typed.SerializeToString()], seed=35):
        try:
            answer = read_grpc_answer(sent)
        except ServingError as error:
            assert error.what
        else:
            assert all(isinstance(value, np.ndarray) for value in answer.values())


def test_the_mutator_breaks_things() -> None:
    """Fuzzing that only makes good input, or only garbage, would prove nothing."""
    seed = b'{"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1.5]}]}'
    good = 0
    for sent in inputs([seed], 1000, seed=36):
        try:
            msgspec.json.decode(sent)
            good += 1
        except (msgspec.MsgspecError, UnicodeDecodeError):
            pass
    assert 50 < good < 700
