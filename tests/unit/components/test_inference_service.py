"""The InferenceService deployer against a stand-in for the Kubernetes API (no API server installs here).

The stand-in keeps objects, merges applied fields, counts generations as the API does, and plays a script of
statuses in KServe's place.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from kubernetes.client import ApiClient, Configuration

from components.deploy import InferenceServiceDeployer, Release
from components.deploy.inference_service import manifest
from slipway.errors import DeployError

RELEASE = Release(name="delay", digest="d1", uri="s3://slipway/models/delay/d1/", run_id="run-1")
READY = {"conditions": [{"type": "Ready", "status": "True"}], "url": "http://delay.example"}


def accept(url: str, path: str) -> None:
    """A check that passes."""


class Cluster(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.objects: dict[str, dict[str, Any]] = {}
        self.script: list[dict[str, Any]] = [READY]
        self.refuse: tuple[int, str] | None = None
        self.requests: list[tuple[str, str, dict[str, list[str]], str | None]] = []


class Handler(BaseHTTPRequestHandler):
    server: Cluster

    def log_message(self, *args: object) -> None:
        pass

    def answer(self, status: int, body: object) -> None:
        raw = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def handle_any(self) -> None:
        url = urlsplit(self.path)
        self.server.requests.append(
            (self.command, url.path, parse_qs(url.query), self.headers.get("Content-Type"))
        )
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.server.refuse:
            status, message = self.server.refuse
            return self.answer(status, {"kind": "Status", "message": message})
        objects = self.server.objects
        if self.command == "PATCH":
            applied = json.loads(body)
            old = objects.get(url.path, {"metadata": {"generation": 0}, "spec": None})
            same = old["spec"] == applied["spec"]
            generation = old["metadata"]["generation"] + (0 if same else 1)
            applied["metadata"]["generation"] = generation
            applied["status"] = old.get("status", {})
            objects[url.path] = applied
            return self.answer(200, applied)
        found = objects.get(url.path)
        if found is None:
            return self.answer(404, {"kind": "Status", "message": "not found"})
        if self.command == "DELETE":
            del objects[url.path]
            return self.answer(200, {"kind": "Status"})
        script = self.server.script
        status = script.pop(0) if len(script) > 1 else script[0]
        found["status"] = {"observedGeneration": found["metadata"]["generation"], **status}
        return self.answer(200, found)

    do_GET = do_PATCH = do_DELETE = handle_any


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with Cluster() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def connect(cluster: Cluster, **options: Any) -> InferenceServiceDeployer:
    configuration = Configuration(host=f"http://127.0.0.1:{cluster.server_address[1]}")
    configuration.retries = False
    return InferenceServiceDeployer(
        "prod", api=ApiClient(configuration), **({"poll_every": 0.01, "ready_within": 5.0} | options)
    )


def test_a_deployment_is_applied_server_side_and_waited_for(cluster: Cluster) -> None:
    cluster.script = [
        {"observedGeneration": 0},
        {"conditions": [{"type": "PredictorReady", "status": "False", "reason": "Pulling"}]},
        READY,
    ]
    told: list[str] = []
    deployment = connect(cluster, progress=told.append).deploy(RELEASE, accept)
    assert deployment.url == "http://delay.example"
    assert told == ["delay: waiting for KServe to take it up", "delay: PredictorReady: Pulling"]
    patches = [request for request in cluster.requests if request[0] == "PATCH"]
    assert len(patches) == 1
    _, path, query, content_type = patches[0]
    assert path == "/apis/serving.kserve.io/v1beta1/namespaces/prod/inferenceservices/delay"
    assert query == {"fieldManager": ["slipway"], "force": ["true"]}
    assert content_type == "application/apply-patch+yaml"


def test_what_serves_now_is_read_back(cluster: Cluster) -> None:
    deployer = connect(cluster)
    assert deployer.current("delay") is None
    deployer.deploy(RELEASE, accept)
    assert deployer.current("delay") == RELEASE


def refuse(url: str, path: str) -> None:
    raise DeployError(f"wrong answers at {url}{path}")


def test_a_first_deployment_that_answers_wrongly_is_taken_away(cluster: Cluster) -> None:
    deployer = connect(cluster)
    with pytest.raises(DeployError, match=r"wrong answers at http://delay\.example/v2/models/delay"):
        deployer.deploy(RELEASE, refuse)
    assert deployer.current("delay") is None
    assert cluster.objects == {}


def test_a_later_one_gives_way_to_what_served_before(cluster: Cluster) -> None:
    deployer = connect(cluster)
    deployer.deploy(RELEASE, accept)
    worse = Release(name="delay", digest="d2", uri="s3://slipway/models/delay/d2/")
    with pytest.raises(DeployError, match="wrong answers"):
        deployer.deploy(worse, refuse)
    assert deployer.current("delay") == RELEASE


def test_an_old_status_is_not_taken_for_the_new_generation(cluster: Cluster) -> None:
    """Right after the apply, the object still says that the old model is ready."""
    cluster.script = [{"observedGeneration": 0, **READY}]
    with pytest.raises(DeployError, match="waiting for KServe to take it up"):
        connect(cluster, ready_within=0.05).deploy(RELEASE, accept)


def test_ready_with_the_old_model_still_serving_is_not_ready(cluster: Cluster) -> None:
    cluster.script = [{**READY, "modelStatus": {"transitionStatus": "InProgress"}}]
    with pytest.raises(DeployError, match="InProgress"):
        connect(cluster, ready_within=0.05).deploy(RELEASE, accept)


def test_a_model_that_cannot_load_fails_at_once_with_the_reason(cluster: Cluster) -> None:
    cluster.script = [
        {
            "modelStatus": {
                "transitionStatus": "BlockedByFailedLoad",
                "lastFailureInfo": {"reason": "ModelLoadFailed", "message": "contract and digest disagree"},
            }
        }
    ]
    with pytest.raises(DeployError, match="ModelLoadFailed contract and digest disagree"):
        connect(cluster, ready_within=60.0).deploy(RELEASE, accept)


def test_not_ready_in_time_names_the_conditions(cluster: Cluster) -> None:
    cluster.script = [
        {"conditions": [{"type": "PredictorReady", "status": "False", "message": "0/3 nodes available"}]}
    ]
    with pytest.raises(DeployError, match=r"PredictorReady: not yet 0/3 nodes available") as caught:
        connect(cluster, ready_within=0.05).deploy(RELEASE, accept)
    assert caught.value.where == "InferenceService prod/delay"


@pytest.mark.parametrize(
    ("status", "fix"), [(401, "log in again"), (403, "let this account"), (404, "install KServe")]
)
def test_a_refusal_names_the_remedy(cluster: Cluster, status: int, fix: str) -> None:
    cluster.refuse = (status, "no")
    with pytest.raises(DeployError, match=f"answered {status}") as caught:
        connect(cluster).deploy(RELEASE, accept)
    assert caught.value.fix is not None
    assert caught.value.fix.startswith(fix)


def test_a_cluster_that_does_not_answer(cluster: Cluster) -> None:
    deployer = connect(cluster)
    cluster.shutdown()
    cluster.server_close()
    with pytest.raises(DeployError, match="does not answer"):
        deployer.deploy(RELEASE, accept)


def test_the_manifest_owns_the_model_and_nothing_of_the_scaling() -> None:
    spec = manifest(RELEASE, "prod")["spec"]["predictor"]
    assert set(spec) == {"serviceAccountName", "model"}
    assert spec["model"]["storageUri"] == "s3://slipway/models/delay/d1/"
    assert spec["model"]["protocolVersion"] == "v2"
