"""Health that changes, reflection, several workers, tokens, and the access log, over gRPC."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf import json_format, message_factory
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from tests.integration.serving.test_operations import TRACE, metric
from tests.support.grpc_calls import code_of, infer_request, unary
from tests.support.messages import SERVICE, message
from tests.support.models import write_repository, zoo
from tests.support.server import Running, running_server

Code = grpc.StatusCode
ROW = np.array([[0.5, -1.0, 2.0, 0.25]], np.float32)
SERVING, NOT_SERVING, SERVICE_UNKNOWN = 1, 2, 3


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    root = tmp_path_factory.mktemp("services")
    models = write_repository(root / "models", ["logistic"])
    with running_server(models, root / "run", "--access-log", "true") as running:
        yield running


@pytest.fixture
def channel(server: Running) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.grpc_address) as channel:
        yield channel


def logistic() -> Any:
    return infer_request("logistic", X=ROW)


def order(verb: str) -> tuple[str, Any]:
    return f"RepositoryModel{verb}", message(f"RepositoryModel{verb}Request")(model_name="logistic")


def test_watch_tells_every_change_until_the_server_drains(tmp_path: Path) -> None:
    models = write_repository(tmp_path / "models", ["logistic"])
    with (
        running_server(models, tmp_path / "run") as server,
        grpc.insecure_channel(server.grpc_address) as channel,
    ):
        stub = health_pb2_grpc.HealthStub(channel)
        watches = {
            name: stub.Watch(health_pb2.HealthCheckRequest(service=name), timeout=60)
            for name in ("", "logistic", "nothing")
        }
        assert {name: next(watch).status for name, watch in watches.items()} == {
            "": SERVING,
            "logistic": SERVING,
            "nothing": SERVICE_UNKNOWN,
        }
        assert code_of(channel, *order("Unload")) == Code.OK
        assert next(watches["logistic"]).status == NOT_SERVING
        assert code_of(channel, *order("Load")) == Code.OK
        assert next(watches["logistic"]).status == SERVING
        server.process.send_signal(signal.SIGTERM)
        # The unload was of one model: the server itself has nothing to tell before its end.
        assert next(watches["logistic"]).status == NOT_SERVING
        for watch in watches.values():
            with pytest.raises(grpc.RpcError) as caught:
                list(watch)
            assert caught.value.code() == Code.UNAVAILABLE
        assert server.process.wait(60) == 0


def test_reflection_is_enough_for_a_client_without_proto_files(channel: grpc.Channel) -> None:
    """As grpcio-reflection's own client reads it; then a call with what it found."""
    database = ProtoReflectionDescriptorDatabase(channel)
    assert set(database.get_services()) >= {SERVICE, "grpc.health.v1.Health"}
    pool = DescriptorPool(database)
    service = pool.FindServiceByName(SERVICE)
    methods = {method.name: method for method in service.methods}
    assert set(methods) == {
        "ServerLive",
        "ServerReady",
        "ServerMetadata",
        "ModelReady",
        "ModelMetadata",
        "ModelInfer",
        "ModelStreamInfer",
        "RepositoryIndex",
        "RepositoryModelLoad",
        "RepositoryModelUnload",
    }
    assert methods["ModelStreamInfer"].client_streaming
    assert methods["ModelStreamInfer"].server_streaming
    asked = message_factory.GetMessageClass(methods["ModelInfer"].input_type)()
    told = message_factory.GetMessageClass(methods["ModelInfer"].output_type)
    tensor = {"name": "X", "datatype": "FP32", "shape": [1, 4]}
    tensor["contents"] = {"fp32_contents": ROW.ravel().tolist()}
    json_format.ParseDict({"model_name": "logistic", "inputs": [tensor]}, asked)
    call = channel.unary_unary(
        f"/{SERVICE}/ModelInfer",
        request_serializer=lambda request: request.SerializeToString(),
        response_deserializer=told.FromString,
    )
    answer = call(asked, timeout=60)
    assert [output.name for output in answer.outputs] == ["label", "probabilities"]
    got = np.frombuffer(answer.raw_output_contents[1], np.float32)
    np.testing.assert_allclose(
        got, zoo()["logistic"].reference({"X": ROW})["probabilities"].ravel(), rtol=1e-5
    )
    assert answer.parameters["model_digest"].string_param


def grpcurl(server: Running, *arguments: str, data: dict[str, Any] | None = None) -> str:
    command = [shutil.which("grpcurl") or "grpcurl", "-plaintext", "-max-time", "20"]
    if data is not None:
        command += ["-d", json.dumps(data)]
    ran = subprocess.run(
        [*command, server.grpc_address, *arguments], capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_the_lines_of_the_documentation_by_grpcurl(server: Running, channel: grpc.Channel) -> None:
    """Where grpcurl is not installed, what it asks (reflection v1) is asked by grpcio."""
    tensor = {"name": "X", "datatype": "FP32", "shape": ["1", "4"]}
    body = {"model_name": "logistic", "inputs": [{**tensor, "contents": {"fp32_contents": ROW[0].tolist()}}]}
    if shutil.which("grpcurl") is None:
        v1 = channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
        (answer,) = v1(iter([b"\x3a\x00"]), timeout=60)
        for name in (SERVICE, "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"):
            assert name.encode() in answer
        return
    assert grpcurl(server, "list").split() == sorted(
        [
            SERVICE,
            "grpc.health.v1.Health",
            "grpc.reflection.v1.ServerReflection",
            "grpc.reflection.v1alpha.ServerReflection",
        ]
    )
    assert "rpc ModelInfer (" in grpcurl(server, "describe", SERVICE)
    told = json.loads(grpcurl(server, f"{SERVICE}/ModelMetadata", data={"name": "logistic"}))
    assert told["inputs"] == [{"name": "X", "datatype": "FP32", "shape": ["-1", "4"]}]
    answer = json.loads(grpcurl(server, f"{SERVICE}/ModelInfer", data=body))
    assert [output["name"] for output in answer["outputs"]] == ["label", "probabilities"]
    assert len(answer["rawOutputContents"]) == 2
    assert json.loads(grpcurl(server, "grpc.health.v1.Health/Check", data={"service": "logistic"})) == {
        "status": "SERVING"
    }


def lines_of(server: Running, path: str) -> list[dict[str, Any]]:
    """The access log's lines of one method; they are written five times a second."""
    found: list[dict[str, Any]] = []
    until = time.monotonic() + 60
    while not found and time.monotonic() < until:
        time.sleep(0.3)
        lines = [json.loads(line) for line in server.log.read_text().splitlines() if line.startswith("{")]
        found = [line for line in lines if line["message"] == f"gRPC /{path}"]
    return found


def test_calls_are_in_the_access_log(server: Running, channel: grpc.Channel) -> None:
    metadata = [("x-request-id", "told"), ("traceparent", TRACE)]
    for _ in range(12):  # calls of a known pattern are logged too
        assert code_of(channel, "ModelInfer", logistic()) == Code.OK
    assert code_of(channel, "ModelInfer", logistic(), metadata=metadata) == Code.OK
    bad = infer_request("logistic", X=np.ones((1, 5), np.float32))
    assert code_of(channel, "ModelInfer", bad, metadata=[("x-request-id", "bad")]) == Code.INVALID_ARGUMENT
    assert code_of(channel, "ModelReady", message("ModelReadyRequest")(name="nope")) in (
        Code.OK,
        Code.NOT_FOUND,
    )
    assert lines_of(server, f"{SERVICE}/ModelReady")
    lines = lines_of(server, f"{SERVICE}/ModelInfer")
    by_id = {line["request_id"]: line for line in lines}
    assert len(by_id) == len(lines) >= 14
    told = by_id["told"]
    assert (told["grpc_status"], told["model"], told["trace_id"]) == ("OK", "logistic", TRACE.split("-")[1])
    assert told["logger"] == "slipway.access"
    assert 0 < told["microseconds"] < 10_000_000
    assert "status" not in told
    assert (by_id["bad"]["grpc_status"], by_id["bad"]["model"]) == ("INVALID_ARGUMENT", "logistic")
    # Our own client counts as any: nothing is said of REST twice.
    assert not [line for line in lines if line["grpc_status"] not in ("OK", "INVALID_ARGUMENT")]


def test_tokens_of_a_file(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("first-token\nsecond-token\n")
    models = write_repository(tmp_path / "models", ["logistic"])
    with (
        running_server(models, tmp_path / "run", "--token-file", str(tokens)) as server,
        grpc.insecure_channel(server.grpc_address) as channel,
    ):

        def codes(method: str, request: Any, token: str) -> set[grpc.StatusCode]:
            metadata = [("authorization", f"Bearer {token}")] if token else []
            # More than it takes to make a pattern of them: every call of it is asked about.
            return {code_of(channel, method, request, metadata=metadata) for _ in range(12)}

        live = message("ServerLiveRequest")()
        for method, request, open_to_all in (
            ("ModelInfer", logistic(), False),
            (*order("Load"), False),
            ("ServerLive", live, True),
        ):
            refused = {Code.OK} if open_to_all else {Code.UNAUTHENTICATED}
            assert codes(method, request, "second-token") == {Code.OK}
            assert codes(method, request, "wrong") == refused
            assert codes(method, request, "") == refused
            assert codes(method, request, "first-token") == {Code.OK}
        assert metric(server.url, "slipway_request_errors_total", kind="Unauthorized", protocol="grpc") == 48
        stub = health_pb2_grpc.HealthStub(channel)
        assert stub.Check(health_pb2.HealthCheckRequest(), timeout=60).status == SERVING


def test_several_workers_answer_and_obey(tmp_path: Path) -> None:
    models = write_repository(tmp_path / "models", ["logistic"])
    options = [("grpc.use_local_subchannel_pool", 1)]
    with running_server(models, tmp_path / "run", "--workers", "2") as server:
        until = time.monotonic() + 60
        while metric(server.url, "slipway_model_loads_total", model="logistic") < 2:
            assert time.monotonic() < until, "not every worker has loaded the model"
            time.sleep(0.05)
        children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
        workers = [int(pid) for pid in children.read_text().split()]
        assert len(workers) == 2
        # The kernel gives connections to the workers by their port: of many, each gets some.
        channels = [grpc.insecure_channel(server.grpc_address, options) for _ in range(16)]
        try:
            rows = np.random.default_rng(6).normal(size=(16, 1, 4)).astype(np.float32)
            for channel, row in zip(channels, rows, strict=True):
                for _ in range(3):
                    answer = unary(channel, "ModelInfer")(infer_request("logistic", X=row), timeout=60)
                    got = np.frombuffer(answer.raw_output_contents[1], np.float32)
                    wanted = zoo()["logistic"].reference({"X": row})["probabilities"].ravel()
                    np.testing.assert_allclose(got, wanted, rtol=1e-5)
            assert metric(server.url, "slipway_requests_total", model="logistic") == 48
            assert metric(server.url, "slipway_connections", protocol="grpc") == 16
            assert code_of(channels[0], *order("Unload")) == Code.OK
            assert {code_of(channel, "ModelInfer", logistic()) for channel in channels} == {Code.UNAVAILABLE}
            assert code_of(channels[5], *order("Load")) == Code.OK
            assert {code_of(channel, "ModelInfer", logistic()) for channel in channels} == {Code.OK}
            # One dies: those who were with it ask again, and the others notice nothing.
            os.kill(workers[0], signal.SIGKILL)
            while str(workers[0]) in children.read_text().split():
                time.sleep(0.01)
            request = logistic()
            codes = [code_of(channel, "ModelInfer", request, wait_for_ready=True) for channel in channels]
            assert codes.count(Code.OK) >= 1
            assert {code_of(channel, "ModelInfer", request, wait_for_ready=True) for channel in channels} == {
                Code.OK
            }
        finally:
            for channel in channels:
                channel.close()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 0
