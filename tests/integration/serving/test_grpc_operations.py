"""gRPC in operation: metrics, ids and traces, limits, deadlines, entities, and the end of a server."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import h2.config
import h2.connection
import h2.events
import httpx
import numpy as np
import pytest

from slipway.contract import Column, FeatureService, ModelContract, TensorInput, TensorOutput, View, ViewField
from tests.integration.serving.test_operations import TRACE, long_run, metric, wait_for_depth
from tests.support.contracts import publish, weighted
from tests.support.grpc_calls import code_of, infer_request, metadata_of, unary
from tests.support.messages import message
from tests.support.models import write_model, write_repository, write_spinner, zoo
from tests.support.server import Running, running_server
from tests.valkey import ValkeyServer

Code = grpc.StatusCode
ROW = np.ones((1, 4), np.float32)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    root = tmp_path_factory.mktemp("grpc")
    models = write_repository(root / "models", ["logistic", "perceptron"])
    write_spinner(models / "spinner")
    options = ("--max-connections", "6", "--max-header", "4K", "--max-body", "1M", "--concurrency", "1")
    with running_server(models, root / "run", *options) as running:
        yield running


@pytest.fixture(scope="module")
def long(server: Running) -> int:
    return long_run(server)


@pytest.fixture
def channel(server: Running) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.grpc_address) as channel:
        yield channel


def slow_rows(rows: int) -> Any:
    return infer_request("perceptron", X=np.zeros((rows, 1024), np.float32))


def spin(times: int) -> Any:
    return infer_request("spinner", times=np.array([times]))


def errors(server: Running, kind: str, model: str) -> float:
    return metric(server.url, "slipway_request_errors_total", protocol="grpc", kind=kind, model=model)


def test_errors_and_connections_are_counted(server: Running, channel: grpc.Channel, long: int) -> None:
    counted = [("InvalidRequest", "logistic"), ("ModelNotFound", ""), ("Unimplemented", "")]
    before = [errors(server, *kind) for kind in counted]
    bad_shape = infer_request("logistic", X=np.ones((1, 5), np.float32))
    assert code_of(channel, "ModelInfer", bad_shape) == Code.INVALID_ARGUMENT
    # Callers choose this name, so it must not become a label of its own.
    assert code_of(channel, "ModelInfer", infer_request("made-up", X=ROW)) == Code.NOT_FOUND
    assert code_of(channel, "ModelInfer", spin(long), timeout=0.05) == Code.DEADLINE_EXCEEDED
    missing = channel.unary_unary("/inference.GRPCInferenceService/Nothing")
    with pytest.raises(grpc.RpcError):
        missing(b"", timeout=60)
    assert [errors(server, *kind) for kind in counted] == [number + 1 for number in before]
    assert metric(server.url, "slipway_connections", protocol="grpc") >= 1
    assert metric(server.url, "slipway_connections", protocol="rest") >= 1


def test_every_answer_has_an_id_of_its_own(channel: grpc.Channel) -> None:
    request = infer_request("logistic", X=ROW)
    found = [metadata_of(channel, "ModelInfer", request)[1]["x-request-id"] for _ in range(5)]
    assert len(set(found)) == 5
    for given in ("mine", "mine-2", "mine"):
        _, told = metadata_of(channel, "ModelInfer", request, metadata=[("x-request-id", given)])
        assert told["x-request-id"] == given
    bad = infer_request("logistic", X=np.ones((1, 5), np.float32))
    assert metadata_of(channel, "ModelInfer", bad, metadata=[("x-request-id", "b")])[1]["x-request-id"] == "b"


def test_a_trace_goes_on_with_a_new_span_for_every_call(channel: grpc.Channel) -> None:
    request = infer_request("logistic", X=ROW)
    spans = set()
    for _ in range(4):  # the same header block, which the connection knows after the first
        _, told = metadata_of(channel, "ModelInfer", request, metadata=[("traceparent", TRACE)])
        assert told["traceparent"][:36] == TRACE[:36]
        spans.add(told["traceparent"][36:52])
    assert len(spans) == 4
    assert TRACE[36:52] not in spans
    _, told = metadata_of(channel, "ModelInfer", request)
    assert "traceparent" not in told


def test_the_timeout_parameter_is_a_deadline(channel: grpc.Channel, long: int) -> None:
    request = spin(long)
    request.parameters["timeout"].int64_param = 10_000
    assert code_of(channel, "ModelInfer", request, timeout=120) == Code.DEADLINE_EXCEEDED
    request.parameters["timeout"].string_param = "soon"
    assert code_of(channel, "ModelInfer", request) == Code.INVALID_ARGUMENT
    stream = channel.stream_stream(
        "/inference.GRPCInferenceService/ModelStreamInfer",
        request_serializer=lambda request: request.SerializeToString(),
    )
    request.parameters["timeout"].int64_param = 10_000
    (late, fine) = list(stream(iter([request, infer_request("logistic", X=ROW)]), timeout=120))
    assert b"no answer within" in late or b"deadline" in late
    assert b"label" in fine


def test_work_that_nobody_waits_for_is_dropped(server: Running, channel: grpc.Channel, long: int) -> None:
    """One run at a time: calls that wait behind a long one are cancelled, and never run."""
    wait_for_depth(server, 0)
    before = metric(server.url, "slipway_requests_total", model="spinner")
    running = unary(channel, "ModelInfer").future(spin(long), timeout=120)
    wait_for_depth(server, 1)
    calls = [unary(channel, "ModelInfer").future(spin(1), timeout=120) for _ in range(12)]
    wait_for_depth(server, 13)
    for call in calls:
        call.cancel()
    assert np.frombuffer(running.result().raw_output_contents[0], np.int64).tolist() == [long]
    wait_for_depth(server, 0)
    assert metric(server.url, "slipway_requests_total", model="spinner") - before == 1


def test_headers_and_messages_have_the_limits_of_the_options(server: Running, channel: grpc.Channel) -> None:
    request = infer_request("logistic", X=ROW)
    assert code_of(channel, "ModelInfer", request, metadata=[("a", "x" * 3000)]) == Code.OK
    with grpc.insecure_channel(server.grpc_address, [("grpc.max_metadata_size", 1 << 20)]) as other:
        code = code_of(other, "ModelInfer", request, metadata=[("a", "x" * 5000)])
    assert code == Code.RESOURCE_EXHAUSTED
    large = infer_request("perceptron", X=np.zeros((300, 1024), np.float32))
    before = errors(server, "PayloadTooLarge", "")
    assert code_of(channel, "ModelInfer", large) == Code.RESOURCE_EXHAUSTED
    assert errors(server, "PayloadTooLarge", "") == before + 1


def test_more_connections_than_may_be_open_are_told_so(server: Running) -> None:
    sockets = []
    try:
        for _ in range(10):
            sock = socket.create_connection(("127.0.0.1", server.grpc), 10)
            sock.settimeout(30)
            sock.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0)))
            sockets.append(sock)
        last = b""
        while piece := sockets[-1].recv(4096):
            last += piece
        assert b"too many open connections" in last
    finally:
        for sock in sockets:
            sock.close()
    with grpc.insecure_channel(server.grpc_address) as channel:
        assert code_of(channel, "ServerLive", message("ServerLiveRequest")(), wait_for_ready=True) == Code.OK


def test_whoever_speaks_no_grpc_is_answered_when_the_request_is_whole(server: Running) -> None:
    """A real HTTP/2 client of another make."""
    connection = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
    with socket.create_connection(("127.0.0.1", server.grpc), 10) as sock:
        connection.initiate_connection()
        head = [(":method", "POST"), (":scheme", "http"), (":path", "/v2"), (":authority", "a")]
        connection.send_headers(1, head)
        connection.send_data(1, b"part")
        sock.sendall(connection.data_to_send())
        found: list[Any] = []
        sock.settimeout(0.3)
        with contextlib.suppress(TimeoutError):
            while True:
                found += connection.receive_data(sock.recv(4096))
        sock.settimeout(30)
        assert not [event for event in found if isinstance(event, h2.events.ResponseReceived)]
        connection.send_data(1, b"rest", end_stream=True)
        sock.sendall(connection.data_to_send())
        while not [event for event in found if isinstance(event, h2.events.StreamEnded)]:
            found += connection.receive_data(sock.recv(4096))
    (answer,) = [event for event in found if isinstance(event, h2.events.ResponseReceived)]
    assert dict(answer.headers)[":status"] == "415"


def test_an_unloaded_model_does_not_answer(tmp_path: Path) -> None:
    """The frame of its messages is well known by then."""
    models = write_repository(tmp_path / "models", ["logistic"])
    with (
        running_server(models, tmp_path / "run") as server,
        grpc.insecure_channel(server.grpc_address) as channel,
    ):
        request = infer_request("logistic", X=ROW)
        for verb, wanted in (("", Code.OK), ("Unload", Code.UNAVAILABLE), ("Load", Code.OK)):
            if verb:
                order = message(f"RepositoryModel{verb}Request")(model_name="logistic")
                assert code_of(channel, f"RepositoryModel{verb}", order) == Code.OK
            assert {code_of(channel, "ModelInfer", request) for _ in range(15)} == {wanted}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    with ValkeyServer(tmp_path_factory.mktemp("valkey")) as running:
        yield running


def test_entities_of_one_frame_get_their_own_answers(store: ValkeyServer, tmp_path: Path) -> None:
    """One INT64 column is as long for every entity: the next message differs in the number alone."""
    from slipway.features.keys import KeyMaker
    from slipway.features.packing import Packing

    view = View(
        name="route_delays",
        join_keys={"route": "route"},
        key_types={"route": "Int64"},
        fields=(ViewField("delay", "Float32"),),
    )
    service = FeatureService("routes_v1", "flights", "f" * 8, (view,), on_unavailable="fail")
    contract = ModelContract(
        name="routes",
        inputs=(TensorInput("features", "FP32", (-1, 1), (Column("delay", "route_delays", default=-1.0),)),),
        outputs=(TensorOutput("score", "FP32", (-1,)),),
        feature_service=service,
    )
    packing = Packing([("delay", "Float32")], view.key_types, where=view.name)
    now = np.array([int(time.time() * 1e6)])
    import redis

    with redis.Redis(port=store.port) as client:
        for route in range(8):
            (blob,) = packing.pack({"delay": (np.array([route * 10.0], np.float32), None)}, now, now)
            (key,) = KeyMaker(service.project, view.name, view.join_keys, view.key_types).make(
                {"route": [route]}, 1
            )
            assert key is not None
            client.set(key, blob)
    publish(tmp_path / "models" / "routes", contract, model=weighted((1.0,)), baseline=None, version="1")
    environment = {"SLIPWAY_ONLINE_URL": store.url}
    with (
        running_server(tmp_path / "models", tmp_path / "run", environment=environment) as server,
        grpc.insecure_channel(server.grpc_address) as channel,
    ):
        scores = []
        for route in range(8):
            answer = unary(channel, "ModelInfer")(
                infer_request("routes", route=np.array([route])), timeout=10
            )
            scores.append(np.frombuffer(answer.raw_output_contents[0], np.float32)[0])
    assert scores == [route * 10.0 for route in range(8)]


def test_sigterm_under_load_on_both_ports_fails_nothing(tmp_path: Path) -> None:
    """Two replicas, one ends: clients of both kinds go on with the other, and no request fails."""
    models = tmp_path / "models"
    write_model(models / "perceptron", "perceptron")
    write_model(models / "logistic", "logistic")
    body = json.dumps(
        {"inputs": [{"name": "X", "datatype": "FP32", "shape": [1, 4], "data": [1, 1, 1, 1]}]}
    ).encode()
    done = threading.Event()
    failures: list[str] = []
    answered = {"rest": 0, "grpc": 0, "slow": 0}
    with (
        running_server(models, tmp_path / "one") as leaving,
        running_server(models, tmp_path / "two") as staying,
    ):

        def ask_grpc(name: str, request: Any) -> None:
            target = f"ipv4:{leaving.grpc_address},{staying.grpc_address}"
            options = [("grpc.lb_policy_name", "round_robin"), ("grpc.use_local_subchannel_pool", 1)]
            with grpc.insecure_channel(target, options) as channel:
                while not done.is_set():
                    code = code_of(channel, "ModelInfer", request, timeout=60)
                    if code != Code.OK:
                        failures.append(f"{name}: {code}")
                    answered[name] += 1

        def ask_rest() -> None:
            # As a balancer does: a connection that is refused, or closed before it was asked, is no failure.
            urls = [leaving.url, staying.url]
            with httpx.Client(timeout=60) as client:
                while not done.is_set():
                    for url in list(urls):
                        try:
                            answer = client.post(f"{url}/v2/models/logistic/infer", content=body)
                        except (httpx.ConnectError, httpx.ReadError, httpx.RemoteProtocolError):
                            if url != leaving.url:
                                failures.append(f"rest: {url} is gone")
                            urls.remove(url)
                            continue
                        if answer.status_code != 200:
                            failures.append(f"rest: {answer.status_code}")
                        answered["rest"] += 1

        threads = [threading.Thread(target=ask_rest) for _ in range(2)]
        threads += [threading.Thread(target=ask_grpc, args=("grpc", infer_request("logistic", X=ROW)))]
        threads += [threading.Thread(target=ask_grpc, args=("slow", slow_rows(20))) for _ in range(2)]
        for thread in threads:
            thread.start()
        until = time.monotonic() + 120
        while min(answered.values()) <= 10 and time.monotonic() < until:
            time.sleep(0.1)
        leaving.process.send_signal(signal.SIGTERM)
        # Sooner than the 25 s after which it would cut off what is still open.
        code = leaving.process.wait(20)
        time.sleep(0.3)
        done.set()
        for thread in threads:
            thread.join()
    assert failures == []
    assert min(answered.values()) > 10, answered
    assert code == 0


def test_a_call_that_does_not_end_is_told_why_when_the_grace_period_is_over(tmp_path: Path) -> None:
    models = write_repository(tmp_path / "models", ["logistic"])
    with (
        running_server(models, tmp_path / "run", "--drain-seconds", "1") as server,
        grpc.insecure_channel(server.grpc_address) as channel,
    ):
        stop = threading.Event()

        def requests() -> Iterator[Any]:
            yield infer_request("logistic", X=ROW)
            stop.wait(20)

        stream = channel.stream_stream(
            "/inference.GRPCInferenceService/ModelStreamInfer",
            request_serializer=lambda request: request.SerializeToString(),
        )
        answers = stream(requests(), timeout=30)
        assert b"label" in next(answers)
        server.process.send_signal(signal.SIGTERM)
        with pytest.raises(grpc.RpcError) as caught:
            next(answers)
        stop.set()
        assert (caught.value.code(), "shutting down" in caught.value.details()) == (Code.UNAVAILABLE, True)
        assert server.process.wait(60) == 0


async def test_many_connections_share_runs(tmp_path: Path) -> None:
    """Eight connections that ask at once: fewer runs than requests, and everybody gets his own answer."""
    models = write_repository(tmp_path / "models", ["boosted30"])
    model = zoo()["boosted30"]
    rng = np.random.default_rng(31)
    samples = [model.sample(rng, 1) for _ in range(40)]
    with running_server(models, tmp_path / "run") as server:
        wrong: list[int] = []
        connected, asked = threading.Barrier(9), threading.Barrier(9)

        def ask(number: int) -> None:
            local = [("grpc.use_local_subchannel_pool", 1)]
            with grpc.insecure_channel(server.grpc_address, local) as channel:
                code_of(channel, "ServerLive", message("ServerLiveRequest")())
                connected.wait(timeout=30)
                calls = [
                    (at, unary(channel, "ModelInfer").future(infer_request("boosted30", **samples[at])))
                    for at in range(number, 40, 8)
                ]
                asked.wait(timeout=30)
                for at, call in calls:
                    answer = call.result(timeout=60)
                    got = np.frombuffer(answer.raw_output_contents[1], np.float32)
                    want = model.reference(samples[at])["probabilities"].ravel()
                    if not np.allclose(got, want, rtol=1e-5):
                        wrong.append(at)

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        connected.wait(timeout=30)
        # Held still while they ask, so that it finds all of their calls when it goes on, however fast it is.
        server.process.send_signal(signal.SIGSTOP)
        try:
            asked.wait(timeout=30)
            time.sleep(0.5)  # grpc's own threads write to the sockets
        finally:
            server.process.send_signal(signal.SIGCONT)
        for thread in threads:
            thread.join()
        assert wrong == []
        assert metric(server.url, "slipway_rows_total", model="boosted30") == 40
        assert metric(server.url, "slipway_runs_total", model="boosted30") <= 20
