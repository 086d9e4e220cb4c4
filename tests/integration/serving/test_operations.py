"""Metrics, drift, capture, traces, access, workers, queues, deadlines, and the end of a server."""

from __future__ import annotations

import http.server
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import polars
import pytest

from tests.support.contracts import contract, publish
from tests.support.models import write_model, write_repository, write_spinner
from tests.support.server import Running, running_server

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def row(*values: float) -> dict[str, Any]:
    return {"inputs": [{"name": "features", "datatype": "FP32", "shape": [1, 3], "data": list(values)}]}


def slow_row() -> dict[str, Any]:
    data = np.zeros(1024).tolist()
    return {"inputs": [{"name": "X", "datatype": "FP32", "shape": [1, 1024], "data": data}]}


def metric(url: str, name: str, **labels: str) -> float:
    found = 0.0
    # `verify`: else each call would read all certificates for nothing, in 0.1 s.
    for line in httpx.get(f"{url}/metrics", timeout=60, verify=False).text.splitlines():
        key, _, value = line.rpartition(" ")
        if key.partition("{")[0] == name and all(
            f'{label}="{text}"' in key for label, text in labels.items()
        ):
            found += float(value)
    return found


class Collector:
    """A real OTLP endpoint: keeps what is posted."""

    def __init__(self) -> None:
        spans: list[dict[str, Any]] = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                for resource in body["resourceSpans"]:
                    for scope in resource["scopeSpans"]:
                        spans.extend(scope["spans"])
                self.send_response(200)
                self.end_headers()

            def log_message(self, *arguments: object) -> None: ...

        self.spans = spans
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.close()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("operations")


@pytest.fixture(scope="module")
def server(root: Path, collector: Collector) -> Iterator[Running]:
    models = write_repository(root / "models", ["perceptron", "lookup"])
    write_spinner(models / "spinner")
    publish(models / "delays", contract(), version="1")
    options = ("--capture-uri", str(root / "kept"), "--capture-rate", "1", "--capture-seconds", "0.3")
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_SERVICE_NAME": "delays"}
    with running_server(
        models, root / "run", *options, "--max-queue", "8", "--concurrency", "1", environment=environment
    ) as running:
        yield running


def infer(server: Running, body: dict[str, Any], model: str = "delays", **headers: str) -> httpx.Response:
    url = f"{server.url}/v2/models/{model}/infer"
    return httpx.post(url, json=body, headers=headers, timeout=120, verify=False)


def test_requests_errors_and_stages_are_counted(server: Running) -> None:
    before = metric(server.url, "slipway_requests_total", model="delays")
    for _ in range(5):
        infer(server, row(1, 2, 3)).raise_for_status()
    assert infer(server, row(1, 2)).status_code == 400
    assert infer(server, row(1, 2, 3), "made-up-name").status_code == 404
    assert metric(server.url, "slipway_requests_total", model="delays") == before + 5
    assert metric(server.url, "slipway_request_errors_total", model="delays", kind="InvalidRequest") == 1
    # Callers choose this name, so it must not become a label of its own.
    assert metric(server.url, "slipway_request_errors_total", model="", kind="ModelNotFound") == 1
    for stage in ("decode", "queue", "run", "encode"):
        assert metric(server.url, "slipway_stage_seconds_count", model="delays", stage=stage) >= 1
    assert metric(server.url, "slipway_request_seconds_count", model="delays") == before + 5


def test_served_values_are_counted_into_the_baseline(server: Running) -> None:
    before = httpx.get(f"{server.url}/v2/models/delays/drift").json()
    for value in (-5.0, 0.0, 9.9, 10.0, float("nan")):
        body = row(value, 1.0, 1.0)
        if value != value:
            body["inputs"][0]["data"][0] = None
        infer(server, body).raise_for_status()
    after = httpx.get(f"{server.url}/v2/models/delays/drift").json()
    counted = np.array(after["features"]["delay_1h"]) - np.array(before["features"]["delay_1h"])
    assert counted.tolist() == [1, 2, 1, 1]
    assert after["rows"] - before["rows"] == 5
    drift = metric(server.url, "slipway_drift_values_total", model="delays", feature="delay_1h", bin="1")
    assert drift == after["features"]["delay_1h"][1]


def test_predictions_are_kept_as_parquet(server: Running, root: Path) -> None:
    infer(server, row(7, 8, 9), **{"x-request-id": "kept-1", "traceparent": TRACE}).raise_for_status()
    until = time.monotonic() + 60
    while time.monotonic() < until:
        files = list((root / "kept" / "model=delays" / "version=1").rglob("*.parquet"))
        table = polars.concat([polars.read_parquet(file) for file in files]) if files else polars.DataFrame()
        if len(table) and "kept-1" in table["request_id"].to_list():
            break
        time.sleep(0.1)
    (found,) = table.filter(polars.col("request_id") == "kept-1").to_dicts()
    assert (found["delay_1h"], found["delay_24h"], found["distance"], found["score"]) == (
        7.0,
        8.0,
        9.0,
        987.0,
    )
    assert found["trace_id"] == TRACE[3:35]
    assert abs(found["timestamp"].timestamp() - time.time()) < 60


def test_a_trace_is_taken_up_passed_on_and_exported(server: Running, collector: Collector) -> None:
    answer = infer(server, row(1, 2, 3), traceparent=TRACE, **{"x-request-id": "traced-1"})
    ours = answer.headers["traceparent"]
    assert ours[:36] == TRACE[:36]
    assert ours[36:52] != TRACE[36:52]
    assert answer.headers["x-request-id"] == "traced-1"
    until = time.monotonic() + 60
    spans: list[dict[str, Any]] = []
    while not spans and time.monotonic() < until:
        time.sleep(0.05)
        spans = [span for span in collector.spans if span["spanId"] == ours[36:52]]
    assert (spans[0]["traceId"], spans[0]["parentSpanId"]) == (TRACE[3:35], TRACE[36:52])
    assert {"key": "slipway.model", "value": {"stringValue": "delays"}} in spans[0]["attributes"]
    assert 0 < int(spans[0]["endTimeUnixNano"]) - int(spans[0]["startTimeUnixNano"]) < 5e9


def test_every_answer_has_a_request_id(server: Running) -> None:
    identities = [infer(server, row(1, 2, 3)).headers["x-request-id"] for _ in range(3)]
    assert len(set(identities)) == 3
    assert infer(server, row(1, 2), **{"x-request-id": "mine"}).headers["x-request-id"] == "mine"


def spin(times: int) -> dict[str, Any]:
    return {"inputs": [{"name": "times", "datatype": "INT64", "shape": [1], "data": [times]}]}


def long_run(server: Running) -> int:
    """Turns of the spinner that take two seconds here, with the cores and the speed of this machine.

    What the tests do meanwhile costs a twentieth of that.
    """
    some, took = 300, float("inf")
    for _ in range(3):
        began = time.perf_counter()
        infer(server, spin(some), "spinner").raise_for_status()
        took = min(took, time.perf_counter() - began)
    return int(some * 2.0 / took)


@pytest.fixture(scope="module")
def long(server: Running) -> int:
    return long_run(server)


def wait_for_depth(server: Running, depth: int) -> None:
    """Until so many requests wait or run."""
    until = time.monotonic() + 60
    while metric(server.url, "slipway_queue_depth", model="spinner") != depth:
        assert time.monotonic() < until, f"the queue does not come to {depth}"
        time.sleep(0.01)


def test_a_full_queue_says_when_to_come_back(server: Running, long: int) -> None:
    """One runs and eight wait: who comes then is turned away, and nobody is lost or answered wrongly."""
    wait_for_depth(server, 0)
    answers: list[httpx.Response] = []

    def ask(times: int) -> None:
        answers.append(infer(server, spin(times), "spinner"))

    threads = [threading.Thread(target=ask, args=(long if first else 2,)) for first in [True] + [False] * 8]
    threads[0].start()
    wait_for_depth(server, 1)
    for thread in threads[1:]:
        thread.start()
    wait_for_depth(server, 9)
    turned_away = [infer(server, spin(2), "spinner") for _ in range(3)]
    for thread in threads:
        thread.join()
    assert [answer.status_code for answer in turned_away] == [503] * 3
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in turned_away)
    assert [answer.status_code for answer in answers] == [200] * 9
    found = sorted(answer.json()["outputs"][0]["data"][0] for answer in answers)
    assert found == [2] * 8 + [long]
    assert infer(server, spin(3), "spinner").status_code == 200


def test_a_deadline_is_kept(server: Running, long: int) -> None:
    body = spin(long)
    body["parameters"] = {"timeout": 20_000}
    answer = infer(server, body, "spinner")
    assert answer.status_code == 504
    assert "deadline" in answer.json()["error"] or "no answer within" in answer.json()["error"]
    body["parameters"] = {"timeout": "soon"}
    assert infer(server, body, "spinner").status_code == 400


def test_work_for_a_client_that_has_gone_is_dropped(server: Running, long: int) -> None:
    """What waits behind a long run, and whose client has hung up by then, is never run."""
    wait_for_depth(server, 0)
    before = metric(server.url, "slipway_requests_total", model="spinner")
    running = threading.Thread(target=infer, args=(server, spin(long), "spinner"))
    running.start()
    wait_for_depth(server, 1)
    body = json.dumps(spin(1)).encode()
    request = b"POST /v2/models/spinner/infer HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body)
    clients = [socket.create_connection(("127.0.0.1", server.http)) for _ in range(6)]
    for client in clients:
        client.sendall(request + body)
    wait_for_depth(server, 7)
    for client in clients:
        client.close()
    running.join()
    wait_for_depth(server, 0)
    assert metric(server.url, "slipway_requests_total", model="spinner") - before == 1


def test_a_bad_request_fails_alone(server: Running) -> None:
    """Key 5000 makes the whole run fail; those that shared it must not notice."""
    results: dict[int, int] = {}

    def ask(key: int) -> None:
        body = {"inputs": [{"name": "key", "datatype": "INT64", "shape": [1], "data": [key]}]}
        results[key] = infer(server, body, "lookup").status_code

    threads = [threading.Thread(target=ask, args=(key,)) for key in [*range(30), *range(5000, 5005)]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {key for key, status in results.items() if status == 200} == set(range(30))
    # What ONNX Runtime itself would print about it is no JSON, and the answer says it already.
    lines = server.log.read_text().splitlines()
    assert [line for line in lines if not line.startswith("{")] == []


def test_sigterm_answers_everything_that_was_asked(tmp_path: Path) -> None:
    write_model(tmp_path / "models" / "perceptron", "perceptron")
    with running_server(tmp_path / "models", tmp_path / "run") as server:
        raw = json.dumps(slow_row()).encode()
        request = b"POST /v2/models/perceptron/infer HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(
            raw
        )
        clients = [socket.create_connection(("127.0.0.1", server.http), 10) for _ in range(20)]
        for client in clients:
            client.sendall((request + raw) * 3)
        time.sleep(0.1)
        server.process.send_signal(signal.SIGTERM)
        for client in clients:
            received = b""
            while piece := client.recv(65536):
                received += piece
            assert received.count(b"HTTP/1.1 200 OK") == 3, received[:300]
            client.close()
        assert server.process.wait(60) == 0


def test_a_server_that_ends_under_load_fails_no_request(tmp_path: Path) -> None:
    """Clients keep their connections, and use them again whenever they have been told nothing else."""
    publish(tmp_path / "models" / "delays", contract(), version="1")
    raw = json.dumps(row(1, 2, 3)).encode()
    request = b"POST /v2/models/delays/infer HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(raw)
    outcomes: list[str] = []

    def ask(pause: float) -> None:
        client, fresh = None, True
        while True:
            if client is None:
                try:
                    client = socket.create_connection(("127.0.0.1", server.http), 10)
                except (ConnectionRefusedError, ConnectionResetError):
                    return  # what was not asked has not failed
                fresh = True
            with suppress(ConnectionResetError, BrokenPipeError):
                client.sendall(request + raw)
            received = b""
            while b"\r\n\r\n" not in received or b"321.0]}]}" not in received:
                try:
                    piece = client.recv(65536)
                except ConnectionResetError:
                    piece = b""
                if not piece:
                    # The port closed before the server took the connection: a refusal that comes late.
                    outcomes.append("refused" if fresh and not received else f"cut off after {received!r}")
                    return
                received += piece
            outcomes.append("told to go" if b"connection: close" in received else "answered")
            if outcomes[-1] == "told to go":
                client.close()
                client = None
            fresh = False
            time.sleep(pause)

    with running_server(tmp_path / "models", tmp_path / "run", "--drain-seconds", "4") as server:
        threads = [threading.Thread(target=ask, args=(0.002 * (number % 8),)) for number in range(16)]
        for thread in threads:
            thread.start()
        time.sleep(1.0)
        server.process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join()
        assert server.process.wait(60) == 0
    assert {"answered", "told to go"} <= set(outcomes) <= {"answered", "told to go", "refused"}, [
        o for o in outcomes if o.startswith("cut")
    ][:3]


@pytest.fixture(scope="module")
def guarded(root: Path) -> Iterator[Running]:
    (root / "tokens").write_text("first-token\nsecond-token\n")
    publish(root / "guarded" / "delays", contract(), version="1")
    with running_server(root / "guarded", root / "run2", "--token-file", str(root / "tokens")) as running:
        yield running


def test_a_token_is_asked_for(guarded: Running) -> None:
    assert infer(guarded, row(1, 2, 3)).status_code == 401
    wrong = infer(guarded, row(1, 2, 3), authorization="Bearer first-toke")
    assert (wrong.status_code, wrong.headers["www-authenticate"]) == (401, "Bearer")
    for token in ("first-token", "second-token"):
        assert infer(guarded, row(1, 2, 3), authorization=f"Bearer {token}").status_code == 200
    assert infer(guarded, row(1, 2, 3)).status_code == 401
    assert httpx.post(f"{guarded.url}/v2/repository/models/delays/unload").status_code == 401
    for path in ("/v2/health/live", "/v2/health/ready", "/metrics"):
        assert httpx.get(guarded.url + path).status_code == 200


def test_workers_share_the_port_the_metrics_and_the_orders(tmp_path: Path) -> None:
    publish(tmp_path / "models" / "delays", contract(), version="1")
    with running_server(tmp_path / "models", tmp_path / "run", "--workers", "2") as server:
        until = time.monotonic() + 60
        while metric(server.url, "slipway_model_loads_total", model="delays") < 2:
            assert time.monotonic() < until, "not every worker has loaded the model"
            time.sleep(0.1)
        for _ in range(40):
            infer(server, row(1, 2, 3)).raise_for_status()
        assert metric(server.url, "slipway_requests_total", model="delays") == 40
        assert metric(server.url, "slipway_model_ready", model="delays") == 1
        assert metric(server.url, "slipway_model_loads_total", model="delays") == 2
        httpx.post(f"{server.url}/v2/repository/models/delays/unload").raise_for_status()
        assert {infer(server, row(1, 2, 3)).status_code for _ in range(20)} == {503}
        httpx.post(f"{server.url}/v2/repository/models/delays/load").raise_for_status()
        assert {infer(server, row(1, 2, 3)).status_code for _ in range(20)} == {200}
        tasks = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")

        def both() -> list[int]:
            return [int(pid) for pid in tasks.read_text().split()]

        children = both()
        assert len(children) == 2
        os.kill(children[0], signal.SIGKILL)
        # Whom the kernel had given to it before it was gone is cut off: nobody can help that.
        # It is gone, with its port, when it is no child any more: the last of its threads has ended then.
        until = time.monotonic() + 60
        while children[0] in both():
            assert time.monotonic() < until
            time.sleep(0.01)
        # The worker in its place listens when it has loaded the model: nobody sees it before.
        until = time.monotonic() + 60
        while metric(server.url, "slipway_model_loads_total", model="delays") < 2 or len(both()) < 2:
            assert {infer(server, row(1, 2, 3)).status_code for _ in range(20)} == {200}
            assert time.monotonic() < until, "no worker took the place of the killed one"
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 0


def test_a_port_that_is_taken_and_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        for options, told in (
            (("--http-port", str(holder.getsockname()[1])), "cannot listen on"),
            (("--model-dir", str(tmp_path / "nowhere")), "there is no such folder"),
        ):
            with (
                pytest.raises(RuntimeError, match=told),
                running_server(tmp_path, tmp_path / "run", *options),
            ):
                pass
