"""Clients that mean no good, against a server with short patience; others must not notice."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import numpy as np
import pytest

from serving.client import AsyncClient, Client
from slipway.errors import PayloadTooLarge
from tests.conformance.target import Target
from tests.support.models import write_repository, zoo
from tests.support.process import resident_bytes
from tests.support.server import Running, running_server


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    root = tmp_path_factory.mktemp("strict")
    options = ("--header-timeout", "1", "--body-timeout", "1", "--idle-timeout", "2", "--max-body", "1M")
    models = write_repository(root / "models", ["logistic", "every_dtype"])
    with running_server(models, root / "run", *options) as server:
        yield server


def still_right(server: Running) -> None:
    model = zoo()["logistic"]
    inputs = model.sample(np.random.default_rng(1), 2)
    with Client(server.url) as client:
        got = client.infer("logistic", inputs)
    np.testing.assert_array_equal(got["probabilities"], model.reference(inputs)["probabilities"])


def until_closed(connection: socket.socket, seconds: float) -> bytes:
    connection.settimeout(seconds)
    got = b""
    # What was sent after the end is answered by a reset, behind what came before.
    with suppress(ConnectionResetError):
        while chunk := connection.recv(65536):
            got += chunk
    return got


@pytest.mark.parametrize(
    ("sent", "what"),
    [
        (b"POST /v2/models/logistic/infer HTTP/1.1\r\nHost: x\r\n", "head"),
        (b"POST /v2/models/logistic/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{", "body"),
        (
            b"POST /v2/repository/index HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{",
            "body",
        ),
    ],
)
def test_slow_senders_are_told_and_dropped(strict: Running, sent: bytes, what: str) -> None:
    """Two hundred of them, each with a byte now and then; everybody else is served meanwhile."""
    with ExitStack() as stack:
        slow = []
        for _ in range(200):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", strict.http), timeout=30))
            connection.sendall(sent)
            slow.append(connection)
        began = time.monotonic()
        still_right(strict)
        for connection in slow[:50]:
            with suppress(ConnectionResetError, BrokenPipeError):  # on a slow machine its time is over
                connection.sendall(b" ")
        still_right(strict)
        for connection in slow:
            got = until_closed(connection, 30)
            assert got.startswith(b"HTTP/1.1 408 "), got
            assert what in json.loads(got.partition(b"\r\n\r\n")[2])["error"]
        # All at the same time: one after the other would take 200 s.
        assert time.monotonic() - began < 60
    still_right(strict)


def test_idle_connections_are_closed(strict: Running) -> None:
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", strict.http), timeout=30) as connection:
        assert until_closed(connection, 30) == b""
    assert time.monotonic() - began > 1.5


def test_a_body_over_the_limit_is_refused_before_it_is_read(strict: Running) -> None:
    head = b"POST /v2/models/logistic/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 2000000\r\n\r\n"
    with socket.create_connection(("127.0.0.1", strict.http), timeout=30) as connection:
        connection.sendall(head)
        got = until_closed(connection, 30)
    assert got.startswith(b"HTTP/1.1 413 "), got
    large = {"X": np.zeros((100_000, 4), np.float32)}
    with Client(strict.url) as client, pytest.raises(PayloadTooLarge, match="1048576"):
        client.infer("logistic", large)

    async def ask() -> None:
        async with AsyncClient(strict.url) as client:
            await client.infer("logistic", large)

    with pytest.raises(PayloadTooLarge, match="1048576"):
        asyncio.run(ask())


def test_chunks_over_the_limit_are_refused(strict: Running) -> None:
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    with socket.create_connection(("127.0.0.1", strict.http), timeout=30) as connection:
        connection.sendall(
            b"POST /v2/repository/index HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        try:
            for _ in range(40):
                connection.sendall(chunk)
        except (ConnectionResetError, BrokenPipeError):
            pass
        got = until_closed(connection, 30)
    # The reset may even come first.
    assert not got or got.startswith(b"HTTP/1.1 413 "), got
    still_right(strict)


def test_shapes_of_10_to_the_12_take_no_memory(strict: Running) -> None:
    target = Target(strict.url, None)
    before = resident_bytes(strict.process.pid)
    for shape in ([10**6, 10**6], [10**12], [2**62, 4], [10**12, 0]):
        tensor = {"name": "X", "shape": shape, "datatype": "FP32", "data": [1.0]}
        assert "X" in target.infer("logistic", {"inputs": [tensor]}).refused(400)
        tensor = {"name": "X", "shape": shape, "datatype": "FP32", "parameters": {"binary_data_size": 4}}
        target.infer_binary("logistic", {"inputs": [tensor]}, b"\x00\x00\x80\x3f").refused(400)
    target.close()
    assert resident_bytes(strict.process.pid) - before < 16 << 20


def test_a_compressed_bomb_is_not_unpacked(strict: Running) -> None:
    import gzip

    bomb = gzip.compress(b" " * (64 << 20))
    assert len(bomb) < 1 << 20
    before = resident_bytes(strict.process.pid)
    target = Target(strict.url, None)
    answer = target.infer("logistic", bomb, {"Content-Encoding": "gzip", "Content-Type": "application/json"})
    assert answer.status in (413, 415), answer.body
    target.close()
    assert resident_bytes(strict.process.pid) - before < 16 << 20


def test_duplicate_keys_do_not_smuggle(strict: Running) -> None:
    """Whichever of two equal keys wins, shape and data that win must fit each other."""
    text = (
        b'{"inputs":[{"name":"X","name":"Y","shape":[1,4],"shape":[1,4],"datatype":"FP32",'
        b'"data":[1,2,3],"data":[1,2,3,4]}]}'
    )
    Target(strict.url, None).infer("logistic", text).refused(400)
    still_right(strict)


def test_nan_and_infinity_come_back_as_they_went(strict: Running) -> None:
    value = np.array([[np.nan, np.inf], [-np.inf, -0.0]], dtype=np.float32)
    inputs = zoo()["every_dtype"].sample(np.random.default_rng(2), 2) | {"in_FP32": value}
    with Client(strict.url) as client:
        got = client.infer("every_dtype", inputs)
    assert got["out_FP32"].tobytes() == value.tobytes()


def test_half_a_hundred_that_hang_up_leave_nothing_behind(strict: Running) -> None:
    body = json.dumps(
        {"inputs": [{"name": "X", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]}
    ).encode()
    request = (
        b"POST /v2/models/logistic/infer HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s"
        % (len(body), body)
    ) * 20
    for number in range(50):
        with socket.create_connection(("127.0.0.1", strict.http), timeout=30) as connection:
            linger = b"\x01\x00\x00\x00\x00\x00\x00\x00" if number % 2 else b"\x00" * 8
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            connection.sendall(request)
    still_right(strict)
    assert strict.process.poll() is None
