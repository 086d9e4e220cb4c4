"""The access policy over gRPC: asked for every call, with the model and the client's certificate."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.support.certificates import issue, pem
from tests.support.grpc_calls import code_of, infer_request, unary
from tests.support.messages import SERVICE, message
from tests.support.models import write_repository
from tests.support.peers import ROOT
from tests.support.server import Running, running_server

OK, REFUSED = grpc.StatusCode.OK, grpc.StatusCode.UNAUTHENTICATED
ROW = np.ones((1, 4), np.float32)

POLICY = """
import json, os
from slipway.errors import Unauthorized

def judge(caller):
    subject = dict(part[0] for part in (caller.certificate or {}).get("subject", ()))
    name = subject.get("commonName", "")
    with open(os.environ["ASKED"], "a") as file:
        print(json.dumps([caller.action, caller.model, caller.headers.get("who", ""), name]), file=file)
    if caller.headers.get("who") == "nobody":
        raise Unauthorized("nobody may do nothing")
    if caller.model == "two_and_two" and name != "alice" and caller.headers.get("who") != "friend":
        raise Unauthorized("two_and_two is not for everybody")
    if caller.action == "manage" and name != "alice" and caller.headers.get("who") != "friend":
        raise Unauthorized("only friends and alice manage")
"""


class Guarded:
    def __init__(self, server: Running, asked: Path) -> None:
        self.server = server
        self._asked = asked

    def asked(self) -> list[list[str]]:
        """What the policy was asked since the last look."""
        lines = self._asked.read_text().splitlines() if self._asked.exists() else []
        self._asked.write_text("")
        return [json.loads(line) for line in lines]


def _guarded(root: Path, *options: str, wait: bool = True) -> Any:
    (root / "house_rules.py").write_text(POLICY)
    models = write_repository(root / "models", ["logistic", "two_and_two"])
    environment = {"PYTHONPATH": f"{ROOT}:{root}", "ASKED": str(root / "asked")}
    options = ("--access-policy", "house_rules:judge", *options)
    return running_server(models, root / "run", *options, environment=environment, wait=wait)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    root = tmp_path_factory.mktemp("guarded")
    with _guarded(root) as server:
        yield Guarded(server, root / "asked")


@pytest.fixture
def channel(guarded: Guarded) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(guarded.server.grpc_address) as channel:
        guarded.asked()
        yield channel


def requests() -> dict[str, tuple[Any, str, str]]:
    """Every unary RPC with what the policy is to be asked about it."""
    return {
        "ServerMetadata": (message("ServerMetadataRequest")(), "read", ""),
        "ModelReady": (message("ModelReadyRequest")(name="logistic"), "read", "logistic"),
        "ModelMetadata": (message("ModelMetadataRequest")(name="logistic"), "read", "logistic"),
        "ModelInfer": (infer_request("logistic", X=ROW), "infer", "logistic"),
        "RepositoryIndex": (message("RepositoryIndexRequest")(), "read", ""),
        "RepositoryModelLoad": (
            message("RepositoryModelLoadRequest")(model_name="logistic"),
            "manage",
            "logistic",
        ),
        "RepositoryModelUnload": (
            message("RepositoryModelUnloadRequest")(repository_name="logistic"),
            "manage",
            "logistic",
        ),
    }


@pytest.mark.parametrize("method", requests())
def test_every_method_asks_for_every_call(guarded: Guarded, channel: grpc.Channel, method: str) -> None:
    request, action, model = requests()[method]
    # The same header block again and again, which the connection looks up after the first.
    for _ in range(3):
        assert code_of(channel, method, request, metadata=[("who", "nobody")]) == REFUSED
    assert guarded.asked() == [[action, model, "nobody", ""]] * 3
    if action != "manage":
        assert code_of(channel, method, request) == OK
        assert guarded.asked() == [[action, model, "", ""]]


def test_health_of_the_server_is_open_and_that_of_a_model_is_not(
    guarded: Guarded, channel: grpc.Channel
) -> None:
    nobody = [("who", "nobody")]
    assert code_of(channel, "ServerLive", message("ServerLiveRequest")(), metadata=nobody) == OK
    assert code_of(channel, "ServerReady", message("ServerReadyRequest")(), metadata=nobody) == OK
    stub = health_pb2_grpc.HealthStub(channel)
    assert stub.Check(health_pb2.HealthCheckRequest(), metadata=nobody, timeout=60).status == 1
    for ask in (stub.Check, lambda *a, **k: next(stub.Watch(*a, **k))):
        with pytest.raises(grpc.RpcError) as caught:
            ask(health_pb2.HealthCheckRequest(service="logistic"), metadata=nobody, timeout=60)
        assert caught.value.code() == REFUSED
    assert guarded.asked() == [["read", "logistic", "nobody", ""]] * 2


def test_by_model_on_one_connection(guarded: Guarded, channel: grpc.Channel) -> None:
    """One header block, one connection, two models: one is open, the other is not."""
    open_one = infer_request("logistic", X=ROW)
    closed = infer_request("two_and_two", a=np.ones((1, 2), np.float32), b=np.ones((1, 3), np.float32))
    wanted = [OK, REFUSED] * 4
    codes = [code_of(channel, "ModelInfer", request) for _ in range(4) for request in (open_one, closed)]
    assert codes == wanted
    assert code_of(channel, "ModelInfer", closed, metadata=[("who", "friend")]) != REFUSED
    assert [entry[1] for entry in guarded.asked()] == ["logistic", "two_and_two"] * 4 + ["two_and_two"]


def test_a_model_that_one_may_not_use_is_not_loaded_for_one(guarded: Guarded, channel: grpc.Channel) -> None:
    """The refusal comes before anything is looked up: it does not tell whether the model exists."""
    request = infer_request("no-such-model", X=ROW)
    assert code_of(channel, "ModelInfer", request, metadata=[("who", "nobody")]) == REFUSED
    assert code_of(channel, "ModelInfer", request) == grpc.StatusCode.NOT_FOUND


def test_a_stream_is_asked_about_at_every_message(guarded: Guarded, channel: grpc.Channel) -> None:
    stream = channel.stream_stream(
        f"/{SERVICE}/ModelStreamInfer", request_serializer=lambda request: request.SerializeToString()
    )
    allowed, refused = infer_request("logistic", X=ROW), infer_request("two_and_two", X=ROW)
    answers = stream(iter([allowed, allowed]), timeout=60)
    assert len(list(answers)) == 2
    with pytest.raises(grpc.RpcError) as caught:
        list(stream(iter([allowed, refused, allowed]), timeout=60))
    assert caught.value.code() == REFUSED
    assert [entry[1] for entry in guarded.asked()[:4]] == ["logistic"] * 3 + ["two_and_two"]


def test_by_certificate(tmp_path: Path) -> None:
    authority = issue("authority")
    chain, key = pem(issue("localhost", authority))
    (tmp_path / "server.pem").write_bytes(chain)
    (tmp_path / "server.key").write_bytes(key)
    root = pem(authority)[0]
    (tmp_path / "ca.pem").write_bytes(root)
    options = [
        "--tls-certificate", str(tmp_path / "server.pem"), "--tls-key", str(tmp_path / "server.key"),
        "--tls-client-ca", str(tmp_path / "ca.pem"),
    ]  # fmt: skip
    # The REST port speaks TLS too, so that the usual wait over plain HTTP would not end.
    with _guarded(tmp_path, *options, wait=False) as server:
        codes = {}
        for name in ("alice", "mallory"):
            certificate, key = pem(issue(name, authority))
            credentials = grpc.ssl_channel_credentials(root, key, certificate)
            with grpc.secure_channel(f"localhost:{server.grpc}", credentials) as channel:
                grpc.channel_ready_future(channel).result(timeout=60)
                _until_ready(channel)
                request = infer_request(
                    "two_and_two", a=np.ones((1, 2), np.float32), b=np.ones((1, 3), np.float32)
                )
                load = message("RepositoryModelLoadRequest")(model_name="logistic")
                codes[name] = (
                    code_of(channel, "ModelInfer", request) == REFUSED,
                    code_of(channel, "RepositoryModelLoad", load),
                )
        assert codes == {"alice": (False, OK), "mallory": (True, REFUSED)}
        stranger = issue("stranger")
        certificate, key = pem(stranger)
        credentials = grpc.ssl_channel_credentials(root, key, certificate)
        with grpc.secure_channel(f"localhost:{server.grpc}", credentials) as channel:
            live = message("ServerLiveRequest")()
            assert code_of(channel, "ServerLive", live) == grpc.StatusCode.UNAVAILABLE


def _until_ready(channel: grpc.Channel) -> None:
    until = time.monotonic() + 20
    while not unary(channel, "ServerReady")(message("ServerReadyRequest")(), timeout=60).ready:
        assert time.monotonic() < until
        time.sleep(0.05)
