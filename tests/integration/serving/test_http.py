"""HTTP/1.1 as it comes over a real socket: order, framing, limits, slow and rude clients."""

from __future__ import annotations

import gzip
import json
import socket
import time
from collections.abc import Iterator

import pytest

from tests.support.models import write_repository
from tests.support.server import Running, running_server

LIMITS = (
    "--max-body",
    "64K",
    "--max-header",
    "4K",
    "--header-timeout",
    "1",
    "--body-timeout",
    "1",
    "--idle-timeout",
    "2",
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    root = tmp_path_factory.mktemp("http")
    with running_server(
        write_repository(root / "models", ["logistic", "lookup"]), root / "run", *LIMITS
    ) as running:
        yield running


class Client:
    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), 30)
        self.file = self.socket.makefile("rb")

    def send(self, *parts: bytes) -> Client:
        self.socket.sendall(b"".join(parts))
        return self

    def answer(self, *, body: bool = True) -> tuple[int, dict[str, str], bytes]:
        status = self.file.readline()
        assert status, "the server closed"
        headers = {}
        while line := self.file.readline().strip():
            name, _, value = line.decode().partition(":")
            headers[name.lower()] = value.strip()
        length = int(headers.get("content-length", 0)) if body else 0
        return int(status.split()[1]), headers, self.file.read(length)

    def closed(self) -> bool:
        return self.file.read(1) == b""


@pytest.fixture
def client(server: Running) -> Iterator[Client]:
    connected = Client(server.http)
    yield connected
    connected.socket.close()


def infer(key: int, *headers: bytes) -> bytes:
    body = json.dumps(
        {"id": str(key), "inputs": [{"name": "key", "datatype": "INT64", "shape": [1], "data": [key]}]}
    )
    return post(body.encode(), *headers)


def post(body: bytes, *headers: bytes) -> bytes:
    lines = (
        b"POST /v2/models/lookup/infer HTTP/1.1",
        b"Host: a",
        b"Content-Length: %d" % len(body),
        *headers,
    )
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def test_pipelined_answers_come_in_order(client: Client) -> None:
    # Requests that fail, wait for the model and are answered at once, all mixed.
    live = b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\n\r\n"
    client.send(*[infer(n) + live + infer(1000 + n) for n in range(40)])
    for number in range(40):
        status, _, body = client.answer()
        assert (status, json.loads(body)["id"]) == (200, str(number))
        assert client.answer()[2] == b'{"live":true}'
        assert client.answer()[0] in (400, 500)


def test_bytes_may_come_one_by_one(client: Client) -> None:
    for byte in infer(3):
        client.send(bytes([byte]))
    assert client.answer()[0] == 200


def test_chunked_body_and_what_follows_it(client: Client) -> None:
    body = infer(5).partition(b"\r\n\r\n")[2]
    head = b"POST /v2/models/lookup/infer HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunks = b"".join(
        b"%x\r\n%b\r\n" % (len(body[at : at + 9]), body[at : at + 9]) for at in range(0, len(body), 9)
    )
    client.send(head, chunks, b"0\r\n\r\n", infer(6))
    assert [json.loads(client.answer()[2])["id"] for _ in range(2)] == ["5", "6"]


def test_expect_100_continue(client: Client) -> None:
    head, _, body = infer(7, b"Expect: 100-continue").partition(b"\r\n\r\n")
    client.send(head, b"\r\n\r\n")
    assert client.file.readline() == b"HTTP/1.1 100 Continue\r\n"
    assert client.file.readline() == b"\r\n"
    client.send(body)
    assert client.answer()[0] == 200


def test_expect_is_not_continued_where_the_answer_is_no(client: Client) -> None:
    client.send(b"POST /nowhere HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n")
    assert client.answer()[0] == 404
    assert client.closed()


def test_head_is_get_without_a_body(client: Client) -> None:
    client.send(b"HEAD /v2 HTTP/1.1\r\nHost: a\r\n\r\n", b"GET /v2 HTTP/1.1\r\nHost: a\r\n\r\n")
    head_status, head_headers, _ = client.answer(body=False)
    status, headers, body = client.answer()
    assert (head_status, head_headers["content-length"]) == (status, headers["content-length"])
    assert len(body) == int(headers["content-length"])


def test_connection_close_and_http_1_0(server: Running) -> None:
    for request in (b"GET /v2 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", b"GET /v2 HTTP/1.0\r\n\r\n"):
        client = Client(server.http).send(request)
        status, headers, _ = client.answer()
        assert (status, headers["connection"]) == (200, "close")
        assert client.closed()


def test_http_1_0_is_told_that_its_connection_is_kept(client: Client) -> None:
    """Or it waits for the end of it: persistence is not the rule there."""
    asked = (
        infer(1).replace(b" HTTP/1.1", b" HTTP/1.0").replace(b"\r\n", b"\r\nConnection: Keep-Alive\r\n", 1)
    )
    for _ in range(3):
        status, headers, _ = client.send(asked).answer()
        assert (status, headers["connection"]) == (200, "keep-alive")
    client.send(infer(1))
    assert "connection" not in client.answer()[1]


def test_gzip_and_a_bomb(client: Client) -> None:
    body = infer(8).partition(b"\r\n\r\n")[2]
    client.send(post(gzip.compress(body), b"Content-Encoding: gzip"))
    assert client.answer()[0] == 200
    client.send(post(gzip.compress(bytes(10_000_000)), b"Content-Encoding: gzip"))
    assert client.answer()[0] == 413
    client.send(infer(9))
    assert client.answer()[0] == 200


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"POST /v2/models/lookup/infer HTTP/1.1\r\nHost: a\r\nContent-Length: 70000\r\n\r\n", 413),
        (b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nFFFFF\r\n", 413),
        (b"GET /v2 HTTP/1.1\r\nHost: a\r\nA: " + b"x" * 5000, 431),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"GET /v2 HTTP/1.1\nHost: a\n\n\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01", 400),
        (b"POST /v2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n", 400),
    ],
)
def test_what_cannot_be_framed_is_answered_and_closed(server: Running, request_: bytes, status: int) -> None:
    client = Client(server.http).send(request_)
    got, headers, body = client.answer()
    assert (got, headers["connection"]) == (status, "close")
    assert json.loads(body)["error"]
    assert client.closed()


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /v2 HT",
        infer(1)[:-5],
        b"POST /v2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
    ],
)
def test_a_slow_client_is_sent_away(server: Running, sent: bytes) -> None:
    began = time.monotonic()
    client = Client(server.http).send(sent)
    assert client.answer()[0] == 408
    # A busy machine may make it late, but nothing makes it early.
    assert time.monotonic() - began > 0.9
    assert client.closed()


def test_dribbling_does_not_put_off_the_end(server: Running) -> None:
    client = Client(server.http).send(b"GET /v2 HTTP/1.1\r\n")
    until = time.monotonic() + 30
    client.socket.settimeout(0.2)
    while True:
        assert time.monotonic() < until
        try:
            client.send(b"A: b\r\n")
            if client.socket.recv(100):
                break
        except TimeoutError:
            continue
        except OSError:
            break


def test_an_idle_connection_is_closed(client: Client) -> None:
    began = time.monotonic()
    client.send(infer(1))
    client.answer()
    assert client.closed()
    assert time.monotonic() - began > 1.5


def test_half_closed_connections_get_their_answers(client: Client) -> None:
    client.send(infer(1), infer(2))
    client.socket.shutdown(socket.SHUT_WR)
    assert [json.loads(client.answer()[2])["id"] for _ in range(2)] == ["1", "2"]
    assert client.closed()


def test_a_bad_request_does_not_end_the_connection(client: Client) -> None:
    bodies = [
        b"", b"{", b"[]", b"\xff\xfe", b'{"inputs":5}', b'{"inputs":[]}', b"[" * 50000,
        b'{"inputs":[{"name":"key","datatype":"INT64","shape":[1000000000000],"data":[1]}]}',
        b'{"inputs":[{"name":"key","datatype":"INT64","shape":[-1],"data":[1]}]}',
        b'{"inputs":[{"name":"key","datatype":"INT64","shape":[1],"data":[1.5]}]}',
        b'{"inputs":[{"name":"key","datatype":"INT64","shape":[1],"data":[9223372036854775808]}]}',
        b'{"inputs":[{"name":"key","datatype":"FP32","shape":[1],"data":[1]}]}',
        b'{"inputs":[{"name":"key","datatype":"WRONG","shape":[1],"data":[1]}]}',
        b'{"inputs":[{"name":"other","datatype":"INT64","shape":[1],"data":[1]}]}',
        b'{"inputs":[{"name":"key","datatype":"INT64","shape":[2],"data":[[1],[2]]}]}',
        b'{"inputs":[{"name":"key","datatype":"INT64","shape":[0],"data":[1]}]}',
        b'{"id":"\\ud83d","inputs":[{"name":"key","datatype":"INT64","shape":[1],"data":[1]}],"parameters":{"a":NaN}}',
    ]  # fmt: skip
    for body in bodies:
        client.send(post(body))
        status, _, answer = client.answer()
        assert status == 400, body
        assert json.loads(answer)["error"], body
    client.send(infer(1))
    assert client.answer()[0] == 200


@pytest.mark.parametrize("where", ["request", "output"])
def test_a_wrong_flag_is_refused_once(client: Client, where: str) -> None:
    """It says in what form the answer is to come, so it must be read before the request is run."""
    message = {"inputs": [{"name": "key", "datatype": "INT64", "shape": [1], "data": [3]}]}
    if where == "request":
        message |= {"parameters": {"binary_data_output": {"binary_data": "yes"}}}
    else:
        message |= {"outputs": [{"name": "value", "parameters": {"binary_data": "yes"}}]}
    wrong = post(json.dumps(message).encode())
    for key in (5, 6):
        client.send(wrong, infer(key))
        status, _, body = client.answer()
        assert status == 400
        assert b"must be true or false" in body
        status, _, body = client.answer()
        assert (status, json.loads(body)["id"]) == (200, str(key))


@pytest.mark.parametrize("parameter", ["shared_memory_region", "classification"])
def test_what_would_make_something_else_of_the_data_is_refused(client: Client, parameter: str) -> None:
    """Extensions of Triton: who asks for one would take what it gets for what it asked for."""
    tensor = {"name": "key", "datatype": "INT64", "shape": [1]}
    asked = {"parameters": {parameter: "region"}}
    client.send(post(json.dumps({"inputs": [{**tensor, **asked}]}).encode()))
    status, _, body = client.answer()
    assert (status, parameter.encode() in body, b"'key'" in body) == (400, True, True)
    outputs = [{"name": "value", **asked}]
    client.send(post(json.dumps({"inputs": [{**tensor, "data": [3]}], "outputs": outputs}).encode()))
    status, _, body = client.answer()
    assert (status, parameter.encode() in body, b"'value'" in body) == (400, True, True)
    client.send(infer(3))
    assert client.answer()[0] == 200


def test_unknown_paths_and_methods(client: Client) -> None:
    for request, expected in (
        (b"GET /nowhere", 404),
        (b"GET /v2/models/nobody", 404),
        (b"GET /v2/models/lookup/versions/7", 404),
        (b"DELETE /v2/models/lookup", 405),
        (b"GET /v2/models/lookup/infer", 405),
        (b"GET /v2/models/%ff", 400),
        (b"GET /v2/models/%6cookup", 200),
        (b"GET /v2/models/lookup?x=y", 200),
        (b"GET http://a/v2", 200),
    ):
        client.send(request, b" HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.answer()[0] == expected, request
