"""Submitting with kfp's own client to a server that speaks the part of the KFP API that it uses."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from pipelines import remote
from pipelines.remote import submit
from slipway.cli import main
from slipway.errors import SlipwayError
from slipway.settings import Pipelines, Settings

SETTINGS = Settings(pipelines=Pipelines(namespace="team-a"))
EXPERIMENTS = "/apis/v2beta1/experiments"
RUNS = "/apis/v2beta1/runs"


class Kfp(ThreadingHTTPServer):
    """Answers as the API server does: a list without entries is an empty object."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen: list[tuple[str, str, Any]] = []
        self.experiments: list[dict[str, str]] = []
        self.refuse = 0
        self.hold = threading.Event()
        self.hold.set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


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
        found: dict[str, Any] = {}
        status = kfp.refuse or 200
        if kfp.refuse:
            found = {"error": "no", "code": 7, "message": "user cannot create runs"}
        elif self.command == "GET" and parts.path == EXPERIMENTS:
            found = {"experiments": kfp.experiments} if kfp.experiments else {}
        elif self.command == "POST" and parts.path == EXPERIMENTS:
            kfp.experiments.append({**body, "experiment_id": "e-1"})
            found = kfp.experiments[0]
        elif self.command == "POST" and parts.path == RUNS:
            found = {**body, "run_id": "r-7", "state": "PENDING"}
        else:
            status = 404
        text = json.dumps(found).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

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
    assert asked == [f"GET {EXPERIMENTS}", f"POST {EXPERIMENTS}", f"POST {RUNS}"]
    assert parse_qs(kfp.seen[0][1])["namespace"] == ["team-a"]
    experiment, run = kfp.seen[1][2], kfp.seen[2][2]
    assert (experiment["display_name"], experiment["namespace"]) == ("slipway", "team-a")
    assert run["experiment_id"] == "e-1"
    assert run["runtime_config"]["parameters"] == arguments
    spec = run["pipeline_spec"]["pipeline_spec"]
    assert spec["pipelineInfo"]["name"] == "slipway-train"
    assert set(spec["deploymentSpec"]["executors"]) >= {"exec-train", "exec-deploy"}
    assert "kubernetes" in run["pipeline_spec"]["platform_spec"]["platforms"]


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
    with pytest.raises(SlipwayError, match=r"KFP answered 403: Forbidden .*cannot create runs") as caught:
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
    monkeypatch.setattr(f"{__name__}.EXPERIMENTS", "/elsewhere")
    with pytest.raises(SlipwayError, match="KFP answered 404"):
        submit("train", {}, SETTINGS, kfp.url)
