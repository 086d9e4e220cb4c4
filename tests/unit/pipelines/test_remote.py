"""Submitting with kfp's own client to a server that speaks the part of the KFP API that it uses."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import kfp_server_api
import pytest

from pipelines import local as local_module
from pipelines import remote
from pipelines.remote import submit
from slipway.cli import main
from slipway.errors import SlipwayError
from slipway.settings import Pipelines, Settings

SETTINGS = Settings(pipelines=Pipelines(namespace="team-a"))
HEALTH = "/apis/v2beta1/healthz"
EXPERIMENTS = "/apis/v2beta1/experiments"
RUNS = "/apis/v2beta1/runs"
MODELS = {"experiments": kfp_server_api.V2beta1Experiment, "runs": kfp_server_api.V2beta1Run}
"""What the server takes, as the client that is generated from its API definition knows it."""


class Kfp(ThreadingHTTPServer):
    """Takes and refuses what the API server does; a list without entries is an empty object."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen: list[tuple[str, str, Any]] = []
        self.experiments: list[dict[str, str]] = []
        self.multi_user = True
        self.headers: dict[str, str] = {}
        """Wanted of each request."""
        self.refuse = 0
        self.hold = threading.Event()
        self.hold.set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Refusal(Exception):
    def __init__(self, status: int, code: int, message: str) -> None:
        self.status, self.code, self.message = status, code, message


class Handler(BaseHTTPRequestHandler):
    server: Kfp

    def do_GET(self) -> None:
        self._answer(None)

    def do_POST(self) -> None:
        self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def _answer(self, body: Any) -> None:
        kfp, parts = self.server, urlsplit(self.path)
        kfp.seen.append((f"{self.command} {parts.path}", parts.query, body))
        kfp.hold.wait(20)
        status, found = 200, {}
        try:
            found = self._found(f"{self.command} {parts.path}", parse_qs(parts.query), body)
        except Refusal as no:
            status = no.status
            details = [{"@type": "type.googleapis.com/google.rpc.Status", "message": no.message}]
            found = {"error": no.message, "code": no.code, "message": no.message, "details": details}
        text = json.dumps(found).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def _found(self, asked: str, query: dict[str, list[str]], body: Any) -> dict[str, Any]:
        kfp = self.server
        if any(self.headers.get(name) != value for name, value in kfp.headers.items()):
            raise Refusal(401, 16, "Request header error: there is no user identity header.")
        if kfp.refuse:
            raise Refusal(kfp.refuse, 7, "user cannot create runs")
        if asked == f"GET {HEALTH}":
            return {"multi_user": True} if kfp.multi_user else {}
        if asked == f"GET {EXPERIMENTS}":
            self._check_namespace(query.get("namespace", [""])[0])
            (wanted,) = json.loads(query["filter"][0])["predicates"]
            assert (wanted["operation"], wanted["key"]) == (1, "display_name")  # EQUALS
            found = [item for item in kfp.experiments if item["display_name"] == wanted["stringValue"]]
            return {"experiments": found, "total_size": len(found)} if found else {}
        if asked == f"POST {EXPERIMENTS}":
            self._check_fields("experiments", body)
            self._check_namespace(body.get("namespace") or "")
            kfp.experiments.append({**body, "experiment_id": "e-1", "storage_state": "AVAILABLE"})
            return dict(kfp.experiments[-1])
        if asked == f"POST {RUNS}":
            self._check_fields("runs", body)
            if body["experiment_id"] not in {item["experiment_id"] for item in kfp.experiments}:
                raise Refusal(404, 5, "Experiment not found")
            known = body["pipeline_spec"]["pipeline_spec"]["root"]["inputDefinitions"]["parameters"]
            unknown = sorted(set(body["runtime_config"]["parameters"]) - set(known))
            if unknown:
                raise Refusal(400, 3, f"parameter {unknown[0]} is not found in the pipeline's root inputs")
            return {**body, "run_id": "r-7", "state": "PENDING", "created_at": "2026-01-01T00:00:00Z"}
        raise Refusal(404, 5, "Not Found")

    def _check_fields(self, kind: str, body: dict[str, Any]) -> None:
        unknown = sorted(set(body) - set(MODELS[kind].attribute_map.values()))
        if unknown:
            raise Refusal(400, 3, f"unknown field {unknown[0]!r}")

    def _check_namespace(self, namespace: str) -> None:
        if namespace and not self.server.multi_user:
            raise Refusal(400, 3, "In single-user mode, ListExperiment cannot filter by namespace.")
        if self.server.multi_user and not namespace:
            raise Refusal(400, 3, "Invalid resource references for experiment. Expect one namespace.")

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


@pytest.fixture
def kfp() -> Iterator[Kfp]:
    server = Kfp()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.hold.set()
    server.shutdown()
    server.server_close()


def test_a_run_is_submitted_with_the_parameters_of_a_local_one(
    kfp: Kfp, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = {"start": "2013-01-02", "end": "2013-02-01", "online": False}
    submitted = submit("train", arguments, SETTINGS, kfp.url + "/")
    assert (submitted.pipeline, submitted.run_id) == ("train", "r-7")
    assert submitted.url == f"{kfp.url}/#/runs/details/r-7"
    # What kfp prints must not mix with our own answer.
    assert capsys.readouterr().out == ""
    asked = [line for line, _, _ in kfp.seen]
    assert asked == [f"GET {HEALTH}", f"GET {EXPERIMENTS}", f"POST {EXPERIMENTS}", f"POST {RUNS}"]
    assert parse_qs(kfp.seen[1][1])["namespace"] == ["team-a"]
    experiment, run = kfp.seen[2][2], kfp.seen[3][2]
    assert (experiment["display_name"], experiment["namespace"]) == ("slipway", "team-a")
    assert run["experiment_id"] == "e-1"
    assert run["runtime_config"]["parameters"] == arguments
    spec = run["pipeline_spec"]["pipeline_spec"]
    assert spec["pipelineInfo"]["name"] == "slipway-train"
    assert set(spec["deploymentSpec"]["executors"]) >= {"exec-train", "exec-deploy"}
    assert "kubernetes" in run["pipeline_spec"]["platform_spec"]["platforms"]
    # Caching as it was compiled, step by step.
    tasks = spec["components"]["comp-exit-handler-1"]["dag"]["tasks"]
    cached = {name for name, task in tasks.items() if task["cachingOptions"].get("enableCache")}
    assert cached == {"train"}


@pytest.mark.parametrize("namespace", ["team-a", "kubeflow", ""])
def test_a_kfp_of_one_user_is_asked_without_a_namespace_which_it_would_refuse(
    kfp: Kfp, namespace: str
) -> None:
    kfp.multi_user = False
    settings = Settings(pipelines=Pipelines(namespace=namespace))
    assert submit("train", {"start": "2013-01-02"}, settings, kfp.url).run_id == "r-7"
    assert "namespace" not in kfp.experiments[0] or not kfp.experiments[0]["namespace"]


def test_a_token_and_cookies_go_along(kfp: Kfp) -> None:
    kfp.headers = {"Authorization": "Bearer t-1", "Cookie": "authservice_session=abc"}
    with pytest.raises(SlipwayError, match=r"KFP answered 401: .*no user identity header\.") as caught:
        submit("train", {}, SETTINGS, kfp.url)
    assert "SLIPWAY_PIPELINES_TOKEN" in str(caught.value.fix)
    known = Pipelines(namespace="team-a", token="t-1", cookies="authservice_session=abc")
    assert submit("train", {}, Settings(pipelines=known), kfp.url).run_id == "r-7"


def test_a_parameter_that_the_pipeline_has_not_is_refused_by_the_server(kfp: Kfp) -> None:
    with pytest.raises(SlipwayError, match=r"KFP answered 400: .*parameter begin is not found"):
        submit("train", {"begin": "2013-01-02"}, SETTINGS, kfp.url)


@pytest.mark.parametrize(
    ("pipeline", "line"),
    [
        ("evaluate", ["evaluate", "--version", "3"]),
        ("judge", ["evaluate", "--preset", "tidymodels"]),
        ("train", ["train", "--config", "{}", "--no-online"]),
    ],
)
def test_each_verb_submits_its_pipeline_with_the_arguments_of_a_local_run(
    kfp: Kfp, monkeypatch: pytest.MonkeyPatch, tmp_path: Any, pipeline: str, line: list[str]
) -> None:
    from slipway.local import Platform

    monkeypatch.setenv("SLIPWAY_HOME", str(tmp_path))
    given: list[tuple[str, Any]] = []

    def local(name: str, arguments: Any, settings: Settings, *, tell: Any) -> Any:
        given.append((name, arguments))
        return local_module.RunResult(name, "", ())

    monkeypatch.setattr(local_module, "run_local", local)
    monkeypatch.setattr(Platform, "require", lambda self: None)
    assert main(["run", *line]) == 0
    assert main(["run", *line, "--on", kfp.url]) == 0
    sent = kfp.seen[-1][2]
    assert sent["pipeline_spec"]["pipeline_spec"]["pipelineInfo"]["name"] == f"slipway-{pipeline}"
    assert given == [(pipeline, sent["runtime_config"]["parameters"])]


def test_the_experiment_is_made_once(kfp: Kfp) -> None:
    submit("evaluate", {}, SETTINGS, kfp.url)
    submit("evaluate", {}, SETTINGS, kfp.url)
    assert [line for line, _, _ in kfp.seen].count(f"POST {EXPERIMENTS}") == 1


def test_the_command_line_answers_with_one_json_document(
    kfp: Kfp, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setenv("SLIPWAY_HOME", str(tmp_path))
    choices = '{"leaves": [15, 31]}'
    code = main(["run", "sweep", "--choices", choices, "--no-online", "--on", kfp.url, "--json"])
    assert code == 0
    assert json.loads(capsys.readouterr().out)["run_id"] == "r-7"
    sent = kfp.seen[-1][2]["runtime_config"]["parameters"]
    assert [json.loads(text)["model"]["leaves"] for text in sent["configs"]] == [15, 31]
    assert sent["online"] is False


def test_a_refusal_is_told_with_the_words_of_the_server(kfp: Kfp) -> None:
    kfp.refuse = 403
    with pytest.raises(
        SlipwayError, match=r": KFP answered 403: Forbidden user cannot create runs"
    ) as caught:
        submit("train", {}, SETTINGS, kfp.url)
    assert caught.value.where == kfp.url


def test_a_server_that_is_not_there_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound, but not listening
        address = f"http://127.0.0.1:{held.getsockname()[1]}"
        with pytest.raises(SlipwayError, match=r"KFP does not answer: .*refused") as caught:
            submit("train", {}, SETTINGS, address)
    assert caught.value.where == address
    assert "port-forward" in str(caught.value.fix)


def test_a_server_that_never_answers_is_not_waited_for(kfp: Kfp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "TIMEOUT", (1.0, 0.2))
    kfp.hold.clear()
    with pytest.raises(SlipwayError, match=r"KFP does not answer: .*timed out"):
        submit("train", {}, SETTINGS, kfp.url)


def test_what_is_no_kfp_is_told(kfp: Kfp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.HEALTH", "/elsewhere")
    with pytest.raises(SlipwayError, match="KFP answered 404"):
        submit("train", {}, SETTINGS, kfp.url)
