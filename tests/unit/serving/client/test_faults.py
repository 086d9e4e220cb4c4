"""Both REST clients against servers that refuse, stall, hang up and talk nonsense."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import msgspec
import numpy as np
import pytest

from serving.client import AsyncClient, Client, Retry
from slipway.errors import (
    DeadlineExceeded,
    Forbidden,
    InvalidRequest,
    ModelNotFound,
    ModelNotReady,
    Overloaded,
    ServerUnreachable,
    ServingError,
    Unauthorized,
)
from tests.support.process import closed_port
from tests.support.scripted import answer, raw, reset, scripted, silence

GOOD = msgspec.json.encode(
    {
        "model_name": "m",
        "model_version": "3",
        "id": "7",
        "parameters": {"model_digest": "abc", "run_id": "r1"},
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [1], "data": [2.5]}],
    }
)
X = {"x": np.ones(1, dtype=np.float32)}
QUICK = Retry(attempts=3, first=0.01)


def ask(kind: str, url: str, **options: Any) -> Any:
    """One inference through the client of that kind."""
    options.setdefault("retry", QUICK)
    if kind == "sync":
        with Client(url, **options) as client:
            return client.infer("m", X)

    async def run() -> Any:
        async with AsyncClient(url, **options) as client:
            return await client.infer("m", X)

    return asyncio.run(run())


kinds = pytest.mark.parametrize("kind", ["sync", "async"])


@kinds
def test_an_answer_with_its_receipt(kind: str) -> None:
    with scripted(answer(200, GOOD)) as server:
        got = ask(kind, server.url, token="secret")
    assert got["y"].tolist() == [2.5]
    assert (got.model_name, got.model_version, got.id) == ("m", "3", "7")
    assert (got.receipt.model_digest, got.receipt.run_id, got.receipt.snapshot) == ("abc", "r1", None)
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    assert b"authorization: bearer secret" in head.lower()
    assert body.endswith(np.float32(1).tobytes())


@kinds
def test_overload_is_asked_again_after_the_time_that_the_server_says(kind: str) -> None:
    refusal = answer(503, b'{"error": "full"}', retry_after="0.3", connection="close")
    with scripted(refusal, answer(200, GOOD)) as server:
        started = time.monotonic()
        assert ask(kind, server.url)["y"].tolist() == [2.5]
        assert time.monotonic() - started >= 0.3
    assert len(server.requests) == 2


@kinds
def test_overload_that_stays_is_raised_with_the_servers_words(kind: str) -> None:
    refusal = answer(503, b'{"error": "queue of m is full"}', retry_after="0.01", connection="close")
    with scripted(*[refusal] * 3) as server, pytest.raises(Overloaded, match="queue of m is full") as caught:
        ask(kind, server.url)
    assert caught.value.retry_after == 0.01
    assert len(server.requests) == 3


@kinds
@pytest.mark.parametrize(
    ("status", "error"),
    [(400, InvalidRequest), (401, Unauthorized), (403, Forbidden), (404, ModelNotFound), (418, ServingError)],
)
def test_a_refusal_is_not_asked_again(kind: str, status: int, error: type[ServingError]) -> None:
    with scripted(answer(status, b'{"error": "because"}')) as server, pytest.raises(error, match="because"):
        ask(kind, server.url)
    assert len(server.requests) == 1


@kinds
def test_503_without_a_time_is_tried_again_too(kind: str) -> None:
    refusal = answer(503, b'{"error": "loading"}', connection="close")
    with scripted(*[refusal] * 3) as server, pytest.raises(ModelNotReady, match="loading"):
        ask(kind, server.url)
    assert len(server.requests) == 3


@kinds
def test_a_connection_that_breaks_is_made_again(kind: str) -> None:
    with scripted(reset, reset, answer(200, GOOD)) as server:
        assert ask(kind, server.url)["y"].tolist() == [2.5]
    assert len(server.requests) == 3


@kinds
def test_nobody_there(kind: str) -> None:
    with (
        closed_port() as port,
        pytest.raises(ServerUnreachable, match=rf"127.0.0.1:{port}(.|\n)*is the server up") as caught,
    ):
        ask(kind, f"http://127.0.0.1:{port}")
    assert caught.value.exit_code == 3


@kinds
def test_silence_ends_with_the_time(kind: str) -> None:
    with scripted(silence) as server, pytest.raises(DeadlineExceeded, match=r"no answer within 0\.3 s"):
        ask(kind, server.url, timeout=0.3)


@kinds
def test_drops_do_not_stretch_the_time(kind: str) -> None:
    def drip(connection: Any) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
        for _ in range(1000):
            connection.sendall(b"x")
            time.sleep(0.05)

    with scripted(drip) as server:
        started = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            ask(kind, server.url, timeout=0.4)
        assert time.monotonic() - started < 25, "the drops would go on for 50 s"


@kinds
def test_an_answer_in_chunks(kind: str) -> None:
    middle = len(GOOD) // 2
    chunks = b"".join(b"%X\r\n%s\r\n" % (len(part), part) for part in (GOOD[:middle], GOOD[middle:]))
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    with scripted(raw(head + chunks + b"0\r\n\r\n")) as server:
        assert ask(kind, server.url)["y"].tolist() == [2.5]


@kinds
def test_an_answer_that_ends_with_the_connection(kind: str) -> None:
    with scripted(raw(b"HTTP/1.0 200 OK\r\n\r\n" + GOOD)) as server:
        assert ask(kind, server.url)["y"].tolist() == [2.5]


@kinds
@pytest.mark.parametrize(
    "nonsense",
    [b"SSH-2.0-OpenSSH_9.2\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 999\r\n\r\n{}", b""],
    ids=["other protocol", "cut off", "nothing"],
)
def test_nonsense_is_an_unreachable_server(kind: str, nonsense: bytes) -> None:
    with scripted(*[raw(nonsense)] * 6) as server, pytest.raises(ServerUnreachable):
        ask(kind, server.url)


@kinds
@pytest.mark.parametrize(
    "body",
    [
        b"<html>hello</html>",
        b'{"outputs": 3}',
        b'{"outputs": [{"name": "y", "datatype": "FP32", "shape": [4], "data": [1]}]}',
        b'{"outputs": [{"name": "y", "datatype": "FP99", "shape": [1], "data": [1]}]}',
    ],
)
def test_an_answer_outside_the_protocol_says_so(kind: str, body: bytes) -> None:
    with scripted(answer(200, body)) as server, pytest.raises(ServingError, match="the server's answer"):
        ask(kind, server.url)


@kinds
def test_an_error_that_is_no_json_is_shown(kind: str) -> None:
    with (
        scripted(answer(500, b"<h1>Bad Gateway</h1>")) as server,
        pytest.raises(ServingError, match="<h1>Bad"),
    ):
        ask(kind, server.url)


def test_an_address_without_scheme_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="write http://HOST:PORT"):
        Client("localhost:8080")
