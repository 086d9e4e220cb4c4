"""What clients do on the wire: compression, bombs, small windows, floods, pings, goodbyes, deadlines."""

from __future__ import annotations

import gzip
import struct
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from tests.integration.serving.test_grpc_operations import spin
from tests.integration.serving.test_operations import long_run, metric, wait_for_depth
from tests.support.grpc_calls import code_of, infer_request, metadata_of, unary
from tests.support.http2_client import Http2Client
from tests.support.messages import message
from tests.support.models import write_repository, write_spinner, zoo
from tests.support.server import Running, running_server

Code = grpc.StatusCode
OK, INVALID, EXHAUSTED, INTERNAL = 0, 3, 8, 13
ROW = np.array([[0.5, -1.0, 2.0, 0.25]], np.float32)
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    root = tmp_path_factory.mktemp("wire")
    models = write_repository(root / "models", ["logistic", "half", "categories", "every_dtype"])
    write_spinner(models / "spinner")
    with running_server(models, root / "run", "--max-body", "1M", "--concurrency", "1") as running:
        yield running


@pytest.fixture(scope="module")
def long(server: Running) -> int:
    return long_run(server)


@pytest.fixture
def channel(server: Running) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.grpc_address) as channel:
        yield channel


def logistic(row: np.ndarray = ROW) -> Any:
    return infer_request("logistic", X=row)


def probabilities(content: bytes) -> np.ndarray:
    answer = message("ModelInferResponse").FromString(content)
    return _raw_probabilities(answer)


def _raw_probabilities(answer: Any) -> np.ndarray:
    return np.frombuffer(answer.raw_output_contents[1], np.float32).reshape(-1, 3)


def wanted(row: np.ndarray) -> np.ndarray:
    return zoo()["logistic"].reference({"X": row})["probabilities"]


@pytest.mark.parametrize("kind", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_a_client_that_compresses_gets_the_same_numbers(server: Running, kind: grpc.Compression) -> None:
    rows = np.random.default_rng(1).normal(size=(2000, 4)).astype(np.float32)
    with grpc.insecure_channel(server.grpc_address, compression=kind) as channel:
        answer = unary(channel, "ModelInfer")(logistic(rows), timeout=60)
    np.testing.assert_allclose(_raw_probabilities(answer), wanted(rows), rtol=1e-5)


@pytest.mark.parametrize("size", [(1 << 20) + 1, 100 << 20])
def test_a_bomb_is_given_up_where_it_passes_the_limit(server: Running, size: int) -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    bomb = b"".join(packer.compress(bytes(1 << 20)) for _ in range(size >> 20))
    bomb += packer.compress(bytes(size % (1 << 20))) + packer.flush()
    assert len(bomb) < 1 << 20
    before = metric(server.url, "process_resident_memory_bytes")
    with Http2Client(server.grpc) as client:
        bad = client.call(bomb, "ModelInfer", ("grpc-encoding", "gzip"), flag=b"\1")
        good = client.call(
            gzip.compress(logistic().SerializeToString()),
            "ModelInfer",
            ("grpc-encoding", "gzip"),
            flag=b"\1",
        )
        client.flush()
        refused, answered = client.until(bad, good)
    assert refused.status == EXHAUSTED
    assert "this server takes 1048576" in refused.headers["grpc-message"]
    np.testing.assert_allclose(probabilities(answered.message), wanted(ROW), rtol=1e-5)
    assert metric(server.url, "process_resident_memory_bytes") - before < 64 << 20


@pytest.mark.parametrize(
    ("encoding", "content", "says"),
    [
        ("gzip", b"no gzip", "no gzip"),
        ("gzip", gzip.compress(b"x" * 100, mtime=0)[:-6], "cut off"),
        ("deflate", zlib.compress(b"") + b"more", "something follows"),
        ("identity", b"x", "does not say how"),
    ],
)
def test_broken_compression_is_named(server: Running, encoding: str, content: bytes, says: str) -> None:
    with Http2Client(server.grpc) as client:
        stream = client.call(content, "ModelInfer", ("grpc-encoding", encoding), flag=b"\1")
        client.flush()
        (answer,) = client.until(stream)
    assert (answer.status, says in answer.headers["grpc-message"]) == (INTERNAL, True)


def test_a_client_of_another_make_gets_right_answers(server: Running) -> None:
    """200 calls at once on one connection, all different."""
    rows = np.random.default_rng(2).normal(size=(200, 1, 4)).astype(np.float32)
    with Http2Client(server.grpc) as client:
        streams = [client.call(logistic(row)) for row in rows]
        client.flush()
        answers = client.until(*streams)
    for row, answer in zip(rows, answers, strict=True):
        assert (answer.headers[":status"], answer.status) == ("200", OK)
        assert answer.headers["content-type"] == "application/grpc"
        np.testing.assert_allclose(probabilities(answer.message), wanted(row), rtol=1e-5)
    assert len({answer.headers["x-request-id"] for answer in answers}) == 200
    assert len({answer.headers["x-slipway-model-digest"] for answer in answers}) == 1


def test_a_reader_with_a_tiny_window_gets_all_of_it(server: Running) -> None:
    rows = np.random.default_rng(3).normal(size=(300, 4)).astype(np.float32)
    with Http2Client(server.grpc, window=100) as client, Http2Client(server.grpc) as other:
        slow = client.call(logistic(rows))
        client.flush()
        quick = other.call(logistic())
        other.flush()
        other.until(quick)
        (answer,) = client.until(slow)
        # Calls of a known pattern too: their answers do not fit into the window.
        many = [client.call(logistic()) for _ in range(20)]
        client.flush()
        answers = client.until(*many)
    assert answer.parts > 40
    np.testing.assert_allclose(probabilities(answer.message), wanted(rows), rtol=1e-5)
    for each in answers:
        assert each.parts > 1
        np.testing.assert_allclose(probabilities(each.message), wanted(ROW), rtol=1e-5)


def test_pings_every_ten_milliseconds_are_answered(server: Running) -> None:
    with Http2Client(server.grpc) as client:
        for _ in range(100):
            client.h2.ping(b"are you?")
            client.flush()
            time.sleep(0.01)
        stream = client.call(logistic())
        client.flush()
        client.until(stream)
        while client.pings < 100:
            client.read()
        assert client.goaway is None


def test_a_flood_of_resets_ends_that_connection_and_no_other(server: Running, channel: grpc.Channel) -> None:
    assert code_of(channel, "ModelInfer", logistic()) == Code.OK
    with Http2Client(server.grpc) as client:
        for _ in range(40):
            for _ in range(50):
                client.h2.reset_stream(client.call(logistic(), end=False), 8)
            try:
                client.flush()
            except OSError:
                break
        while client.goaway is None and not client.closed:
            client.read()
    assert client.goaway is not None
    assert client.goaway.error_code == 11  # ENHANCE_YOUR_CALM
    assert code_of(channel, "ModelInfer", logistic()) == Code.OK


def test_a_client_that_says_goodbye_gets_what_it_asked_for(server: Running) -> None:
    with Http2Client(server.grpc) as client:
        stream = client.call(spin(50))
        client.flush()
        client.h2.close_connection()
        goodbye = client.h2.data_to_send()
        # h2 itself reads nothing after its goodbye, so the frames are looked at by themselves.
        client.socket.sendall(goodbye)
        received = b""
        while piece := client.socket.recv(1 << 16):
            received += piece
    kinds = []
    at = 0
    while at < len(received):
        kinds.append((received[at + 3], int.from_bytes(received[at + 5 : at + 9], "big")))
        at += 9 + int.from_bytes(received[at : at + 3], "big")
    assert (0, stream) in kinds
    assert (1, stream) in kinds


def test_metadata_of_64_kilobytes(server: Running, tmp_path: Path) -> None:
    large = [("a", "x" * (64 << 10))]
    options = [("grpc.max_metadata_size", 1 << 20)]
    with grpc.insecure_channel(server.grpc_address, options) as channel:
        told, trailers = metadata_of(channel, "ModelInfer", logistic(), metadata=large)
        assert told is None
        assert code_of(channel, "ModelInfer", logistic(), metadata=large) == Code.RESOURCE_EXHAUSTED
        assert code_of(channel, "ModelInfer", logistic()) == Code.OK
        assert trailers is not None
    models = write_repository(tmp_path / "models", ["logistic"])
    with (
        running_server(models, tmp_path / "run", "--max-header", "128K") as wide,
        grpc.insecure_channel(wide.grpc_address, options) as channel,
    ):
        assert code_of(channel, "ModelInfer", logistic(), metadata=large) == Code.OK


def test_fp16_and_texts_typed_and_raw(channel: grpc.Channel) -> None:
    rng = np.random.default_rng(4)
    half = zoo()["half"].sample(rng, 3)
    request = message("ModelInferRequest")(model_name="half")
    ((name, value),) = half.items()
    request.inputs.add(name=name, datatype="FP16", shape=value.shape)
    request.raw_input_contents.append(value.tobytes())
    answer = unary(channel, "ModelInfer")(request, timeout=60)
    for (output, reference), raw in zip(
        zoo()["half"].reference(half).items(), answer.raw_output_contents, strict=True
    ):
        got = np.frombuffer(raw, reference.dtype).reshape(reference.shape)
        np.testing.assert_allclose(got, reference, rtol=2e-3, err_msg=output)
    # The protocol has no typed contents for FP16: said so, not guessed.
    del request.raw_input_contents[:]
    request.inputs[0].contents.fp32_contents.extend(value.ravel().tolist())
    assert code_of(channel, "ModelInfer", request) == Code.INVALID_ARGUMENT
    texts = zoo()["categories"].sample(rng, 3)
    raw_request, typed_request = (message("ModelInferRequest")(model_name="categories") for _ in range(2))
    for name, value in texts.items():
        datatype = {"O": "BYTES", "U": "BYTES", "f": "FP32", "i": "INT64"}[value.dtype.kind]
        shape = value.shape
        raw_request.inputs.add(name=name, datatype=datatype, shape=shape)
        typed = typed_request.inputs.add(name=name, datatype=datatype, shape=shape)
        flat = value.ravel().tolist()
        if datatype == "BYTES":
            encoded = [str(text).encode() for text in flat]
            raw_request.raw_input_contents.append(
                b"".join(struct.pack("<I", len(text)) + text for text in encoded)
            )
            typed.contents.bytes_contents.extend(encoded)
        else:
            raw_request.raw_input_contents.append(value.tobytes())
            getattr(typed.contents, {"FP32": "fp32_contents", "INT64": "int64_contents"}[datatype]).extend(
                flat
            )
    one, other = (unary(channel, "ModelInfer")(item, timeout=60) for item in (raw_request, typed_request))
    assert list(one.raw_output_contents) == list(other.raw_output_contents)
    reference = zoo()["categories"].reference(texts)
    numbers = {tensor.name: raw for tensor, raw in zip(one.outputs, one.raw_output_contents, strict=True)}
    for name, value in reference.items():
        if value.dtype.kind == "f":
            np.testing.assert_allclose(np.frombuffer(numbers[name], value.dtype), value.ravel(), rtol=1e-5)


def test_calls_of_one_frame_with_deadlines_ids_and_traces_get_their_own(channel: grpc.Channel) -> None:
    """What differs from call to call is in the headers; the rest is known after the first of them."""
    rows = np.random.default_rng(5).normal(size=(40, 1, 4)).astype(np.float32)
    for number, row in enumerate(rows):
        trace = f"00-{number + 1:032x}-{number + 1:016x}-01"
        metadata = [("x-request-id", f"id-{number}"), ("traceparent", trace), ("team", f"t{number % 3}")]
        answer, told = metadata_of(
            channel, "ModelInfer", logistic(row), metadata=metadata[: number % 4], timeout=5 + number % 5
        )
        np.testing.assert_allclose(_raw_probabilities(answer), wanted(row), rtol=1e-5)
        if number % 4:
            assert told["x-request-id"] == f"id-{number}"
        if number % 4 > 1:
            assert told["traceparent"][:36] == trace[:36]
            assert told["traceparent"][36:52] != trace[36:52]


def test_a_bad_deadline_is_named_though_the_call_is_like_those_before(server: Running) -> None:
    with Http2Client(server.grpc) as client:
        good = [client.call(logistic(), "ModelInfer", ("grpc-timeout", "5S")) for _ in range(20)]
        client.flush()
        assert {answer.status for answer in client.until(*good)} == {OK}
        bad = client.call(logistic(), "ModelInfer", ("grpc-timeout", "soon"))
        also = client.call(logistic(), "ModelInfer", ("some-bin", "***"))
        fine = client.call(logistic(), "ModelInfer", ("grpc-timeout", "6S"))
        client.flush()
        answers = client.until(bad, also, fine)
    assert [answer.status for answer in answers] == [INVALID, INTERNAL, OK]
    assert "soon" in answers[0].headers["grpc-message"]
    assert "some-bin" in answers[1].headers["grpc-message"]


def test_work_past_its_deadline_is_dropped_and_told_in_time(
    server: Running, channel: grpc.Channel, long: int
) -> None:
    """One run at a time: what waits behind a long one is never run."""
    wait_for_depth(server, 0)
    for _ in range(12):  # the frame is well known by then
        assert code_of(channel, "ModelInfer", spin(1), timeout=60) == Code.OK
    before = metric(server.url, "slipway_requests_total", model="spinner")
    running = unary(channel, "ModelInfer").future(spin(long), timeout=120)
    wait_for_depth(server, 1)
    waiting = [unary(channel, "ModelInfer").future(spin(1), timeout=0.2 + at / 100) for at in range(8)]
    assert [call.code() for call in waiting] == [Code.DEADLINE_EXCEEDED] * 8
    assert not running.done()
    answer = running.result()
    assert np.frombuffer(answer.raw_output_contents[0], np.int64).tolist() == [long]
    assert metric(server.url, "slipway_requests_total", model="spinner") - before == 1


def test_a_stream_that_is_cancelled_drops_its_work(server: Running, channel: grpc.Channel, long: int) -> None:
    wait_for_depth(server, 0)
    before = metric(server.url, "slipway_requests_total", model="spinner")
    stream = channel.stream_stream(STREAM, request_serializer=lambda request: request.SerializeToString())
    calls = stream(iter([spin(long), *[spin(1)] * 20]), timeout=120)
    wait_for_depth(server, 21)
    calls.cancel()
    wait_for_depth(server, 0)
    assert metric(server.url, "slipway_requests_total", model="spinner") - before == 1
    assert code_of(channel, "ModelInfer", spin(2), timeout=60) == Code.OK
