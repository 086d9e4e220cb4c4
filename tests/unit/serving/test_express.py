"""Single rows that are answered without an object a request: the same answers, in order, to whom they belong.

Connections are real, their transports only keep what is written: so what arrives in one tick is for the test
to say, not for the machine's speed.
"""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from weakref import ref

import numpy as np
import pytest

from serving.runtime.config import parse_config
from serving.runtime.engine import Engine
from serving.runtime.grpc.server import GrpcServer
from serving.runtime.http1 import Connection, Server, parse_head
from serving.runtime.messages import Rows
from serving.runtime.model import Model
from serving.runtime.routes import Routes
from serving.runtime.storage import open_storage
from slipway.errors import ModelNotReady
from tests.support.models import write_model, zoo


class Transport:
    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        assert not self.closed
        self.written.append(data)

    def close(self) -> None:
        self.closed = True

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def get_extra_info(self, name: str) -> None: ...


class Site:
    """A server without sockets."""

    def __init__(self, engine: Engine, server: Server) -> None:
        self.engine = engine
        self.server = server
        self.seen: list[Rows] = []
        engine.on_batch(lambda model, requests, batch: None, lambda model, rows: self.seen.append(rows))

    def connect(self) -> Any:
        connection = Connection(self.server)
        connection.connection_made(Transport())  # type: ignore[arg-type]
        return connection

    def model(self, name: str) -> Model:
        model = self.engine.find(name)
        assert model is not None
        return model

    async def teach(self, *requests: bytes) -> None:
        """Each twice: the first is learnt, its head too; the second binds memory."""
        connection = self.connect()
        for request in requests * 2:
            connection.data_received(request)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        assert len(connection.transport.written) == 2 * len(requests)
        self.seen.clear()

    def hold(self, name: str) -> None:
        """What comes next waits for the end of its tick, as if others had come with the one before."""
        express = self.model(name).express
        assert express is not None
        express._lone = False


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    for name in ("boosted30", "lookup"):
        write_model(tmp_path / name, name)
    config = parse_config(["--model-dir", str(tmp_path)], {})
    engine = Engine(config, open_storage(config.model_dir), asyncio.get_running_loop())
    routes = Routes(engine)
    GrpcServer(engine, None)
    server = Server(config, engine.loop, routes.route, routes.refuse, routes.expire)
    await engine.start()
    yield Site(engine, server)
    engine.close()


def post(model: str, body: bytes, headers: str = "") -> bytes:
    head = (
        f"POST /v2/models/{model}/infer HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
    )
    return head.encode() + body


def plain(values: np.ndarray, **more: Any) -> bytes:
    tensor = {"name": "X", "datatype": "FP32", "shape": [1, 30], "data": values.tolist()}
    return post("boosted30", json.dumps({**more, "inputs": [tensor]}).encode())


def binary(values: np.ndarray) -> bytes:
    tensor = {"name": "X", "datatype": "FP32", "shape": [1, 30], "parameters": {"binary_data_size": 120}}
    text = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    return post("boosted30", text + values.tobytes(), f"Inference-Header-Content-Length: {len(text)}\r\n")


def key(value: int) -> bytes:
    tensor = {"name": "key", "datatype": "INT64", "shape": [1], "data": [value]}
    return post("lookup", json.dumps({"inputs": [tensor]}).encode())


def parse(answer: bytes) -> tuple[int, dict[str, str], bytes]:
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    assert len(body) == int(headers["content-length"])
    return int(status.split()[1]), headers, body


def probabilities(answer: bytes) -> np.ndarray:
    status, headers, body = parse(answer)
    assert status == 200, body
    length = headers.get("inference-header-content-length")
    message = json.loads(body[: int(length)] if length else body)
    blobs = body[int(length) :] if length else b""
    for output in message["outputs"]:
        kind = np.dtype("<f4" if output["datatype"] == "FP32" else "<i8")
        if length:
            size = output["parameters"]["binary_data_size"]
            value, blobs = np.frombuffer(blobs[:size], kind), blobs[size:]
        else:
            value = np.array(output["data"], kind)
        if output["name"] == "probabilities":
            return value
    raise AssertionError(body)


def wanted(values: np.ndarray) -> np.ndarray:
    return zoo()["boosted30"].reference({"X": values.reshape(1, 30)})["probabilities"].ravel()


async def test_what_came_in_one_tick_runs_once_however_it_was_asked(site: Site) -> None:
    rows = np.random.default_rng(1).normal(size=(24, 30)).astype(np.float32)
    ways = [plain, binary, lambda row: plain(row, id="mine")]
    await site.teach(*(way(row) for row in rows for way in ways))
    for count in (24, 7, 24):
        site.hold("boosted30")
        connections = [site.connect() for _ in range(count)]
        for number, connection in enumerate(connections):
            connection.data_received(ways[number % 3](rows[number]))
            assert connection.transport.written == []
        await asyncio.sleep(0)
        answers = [connection.transport.written for connection in connections]
        assert [len(written) for written in answers] == [1] * count
        for number, (answer,) in enumerate(answers):
            assert np.array_equal(probabilities(answer), wanted(rows[number])), number
            assert (b'"id":"mine"' in answer) == (number % 3 == 2)
        (run,) = site.seen
        ids = [parse(answer)[1]["x-request-id"] for (answer,) in answers]
        assert [run.request_id(place) for place in range(count)] == ids
        assert len(set(ids)) == count
        site.seen.clear()


async def test_bound_memory_answers_with_the_bits_of_a_run_of_its_own(site: Site) -> None:
    rows = np.random.default_rng(2).normal(size=(50, 30)).astype(np.float32)
    await site.teach(plain(rows[0]), binary(rows[0]))
    connection = site.connect()
    for row in rows:
        for way in (plain, binary):
            connection.data_received(way(row))
            await asyncio.sleep(0)
            assert np.array_equal(probabilities(connection.transport.written.pop()), wanted(row))
    express = site.model("boosted30").express
    assert express is not None
    assert site.model("boosted30").runner._bound, "nothing was bound, so nothing was compared"


async def test_a_bad_row_fails_alone_and_the_good_ones_are_right(site: Site) -> None:
    await site.teach(*map(key, [*range(10), 10**6]))
    for _ in range(3):
        site.hold("lookup")
        connections = [site.connect() for _ in range(6)]
        for number, connection in enumerate(connections):
            connection.data_received(key(10**6 if number == 2 else number))
        await asyncio.sleep(0)
        answers = [parse(connection.transport.written.pop()) for connection in connections]
        assert [status for status, _, _ in answers] == [200, 200, 400, 200, 200, 200]
        assert "lookup" in json.loads(answers[2][2])["error"]
        good = [n for n in range(6) if n != 2]
        told = [json.loads(answers[n][2])["outputs"][0]["data"] for n in good]
        value = zoo()["lookup"].reference({"key": np.array(good)})
        assert told == next(iter(value.values())).reshape(5, -1).tolist()


async def test_the_next_request_of_a_connection_finds_its_answer_in_order(site: Site) -> None:
    """It comes before the tick has ended; one half of the time in two pieces."""
    rows = np.random.default_rng(3).normal(size=(4, 30)).astype(np.float32)
    await site.teach(plain(rows[0]))
    connection = site.connect()
    site.hold("boosted30")
    connection.data_received(plain(rows[0]))
    connection.data_received(plain(rows[1]))
    request = plain(rows[2]) + b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\n\r\n" + plain(rows[3])
    connection.data_received(request[:50])
    connection.data_received(request[50:])
    await asyncio.sleep(0.01)
    written = b"".join(connection.transport.written)
    answers = [b"HTTP/1.1 " + answer for answer in written.split(b"HTTP/1.1 ")[1:]]
    assert len(answers) == 5
    assert answers[3].endswith(b'{"live":true}')
    del answers[3]
    for answer, row in zip(answers, rows, strict=True):
        assert np.array_equal(probabilities(answer), wanted(row))


async def test_who_hangs_up_gets_nothing_and_hurts_nobody(site: Site) -> None:
    rows = np.random.default_rng(4).normal(size=(3, 30)).astype(np.float32)
    await site.teach(*map(plain, rows))
    site.hold("boosted30")
    first, gone, last = (site.connect() for _ in range(3))
    for connection, row in zip((first, gone, last), rows, strict=True):
        connection.data_received(plain(row))
    gone.transport.closed = True
    gone.connection_lost(None)
    await asyncio.sleep(0)
    assert gone.transport.written == []
    for connection, row in ((first, rows[0]), (last, rows[2])):
        assert np.array_equal(probabilities(connection.transport.written.pop()), wanted(row))


async def test_the_end_of_input_or_of_the_server_leaves_no_answer_behind(site: Site) -> None:
    row = np.ones(30, np.float32)
    await site.teach(plain(row))
    half_closed, drained = site.connect(), site.connect()
    for connection in (half_closed, drained):
        site.hold("boosted30")
        connection.data_received(plain(row))
    assert half_closed.eof_received() is False
    site.server.drain()
    drained.shut()
    assert [len(connection.transport.written) for connection in (half_closed, drained)] == [1, 1]
    assert drained.transport.closed
    late = site.connect()
    late.data_received(plain(row))
    await asyncio.sleep(0)
    assert parse(late.transport.written[0])[1]["connection"] == "close"


async def test_requests_with_names_of_their_own_share_a_run_and_keep_their_names(site: Site) -> None:
    rows = np.random.default_rng(5).normal(size=(12, 30)).astype(np.float32)
    await site.teach(plain(rows[0]), binary(rows[0]))
    batches: list[int] = []
    site.engine.on_batch(lambda model, requests, batch: batches.append(len(requests)), None)
    traces = [f"00-{number + 1:032x}-{number + 7:016x}-01" for number in range(12)]
    for way, kind in ((plain, "json"), (binary, "octet-stream")):
        connections = [site.connect() for _ in rows]
        site.model("boosted30").lane._lone = False
        for number, connection in enumerate(connections):
            lines = f"X-Request-Id: call-{number}\r\n" if number % 3 else ""
            lines += f"traceparent: {traces[number]}\r\n" if number % 2 else ""
            connection.data_received(
                way(rows[number]).replace(b"Host: a\r\n", b"Host: a\r\n" + lines.encode())
            )
        await asyncio.sleep(0.01)
        for number, connection in enumerate(connections):
            (answer,) = connection.transport.written
            assert np.array_equal(probabilities(answer), wanted(rows[number]))
            headers = parse(answer)[1]
            assert kind in headers["content-type"]
            assert (headers["x-request-id"] == f"call-{number}") == (number % 3 > 0)
            told = headers.get("traceparent", "")
            assert (told[3:35] == traces[number][3:35]) == (number % 2 > 0)
            assert told != traces[number], "the span must be ours"
    assert sum(batches) + sum(len(rows.arrived) for rows in site.seen) == 24
    assert max(batches) >= 8, batches


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("x-request-id: a\r\n", "x-request-id: b\r\n"),
        ("x-request-id: a\r\n", "x-request-id:\r\n"),
        ("x-request-id:\r\n", "x-request-id: b\r\n"),
        ("x-request-id: a\r\n", "x-request-id: b\r\nX-Request-ID: c\r\n"),
        ("x-request-id: a\r\n", "x-request-id: b c\r\n"),
        (f"traceparent: 00-{1:032x}-{1:016x}-01\r\n", "traceparent: nonsense\r\n"),
        (f"x-request-id: a\r\ntraceparent: 00-{1:032x}-{1:016x}-01\r\n", f"x-request-id: {'b' * 300}\r\n"),
    ],
)
async def test_a_head_that_is_like_another_but_for_its_names_means_what_it_says(
    site: Site, first: str, second: str
) -> None:
    row = np.ones(30, np.float32)
    for lines in (first, second, first, second):
        request = plain(row).replace(b"Host: a\r\n", b"Host: a\r\n" + lines.encode())
        head = parse_head(request.partition(b"\r\n\r\n")[0] + b"\r\n\r\n")
        connection = site.connect()
        connection.data_received(request)
        await asyncio.sleep(0.01)
        headers = parse(connection.transport.written[0])[1]
        if head.request_id:
            assert headers["x-request-id"] == head.request_id
        else:
            assert headers["x-request-id"] not in ("a", "b", "c", "")
        told = headers.get("traceparent", "")
        assert told[3:35] == (head.trace.trace_id if head.trace else "")


async def test_a_policy_sees_the_names_of_every_request(site: Site) -> None:
    asked: list[str] = []
    engine = site.engine
    routes = Routes(engine, lambda caller: asked.append(caller.headers["x-request-id"]))
    server = Server(engine.config, engine.loop, routes.route, routes.refuse, routes.expire)
    for number in range(4):
        connection: Any = Connection(server)
        connection.connection_made(Transport())
        lines = b"Host: a\r\nX-Request-ID: call-%d\r\n" % number
        connection.data_received(plain(np.ones(30, np.float32)).replace(b"Host: a\r\n", lines))
        await asyncio.sleep(0.01)
        assert parse(connection.transport.written[0])[1]["x-request-id"] == f"call-{number}"
    assert asked == [f"call-{number}" for number in range(4)]


async def test_all_of_it_is_counted(site: Site) -> None:
    row = np.ones(30, np.float32)
    await site.teach(plain(row))
    site.hold("boosted30")
    for _ in range(5):
        site.connect().data_received(plain(row))
    await asyncio.sleep(0)
    site.connect().data_received(plain(row))
    await asyncio.sleep(0)
    text = (await site.engine.exposition()).decode()
    labels = '{model="boosted30",version="1"}'
    assert f"slipway_requests_total{labels} 8" in text
    assert f"slipway_runs_total{labels} 4" in text
    assert f"slipway_request_seconds_count{labels} 8" in text
    assert 'slipway_stage_seconds_count{model="boosted30",version="1",stage="decode"} 8' in text


async def test_an_unloaded_model_leaves_the_memory_at_once(site: Site) -> None:
    """Without the collector, which does not come by for hours."""
    await site.teach(plain(np.ones(30, np.float32)), binary(np.ones(30, np.float32)))
    site.seen.clear()
    gone = ref(site.model("boosted30"))
    gc.collect()
    gc.disable()
    try:
        await site.engine.unload("boosted30")
        await asyncio.sleep(0)
        assert gone() is None
    finally:
        gc.enable()


async def test_what_fails_beside_a_run_fails_nobody(site: Site) -> None:
    """Counting that raises loses no answer, neither of single rows nor of those that wait in the queue."""

    def broken(*arguments: object) -> None:
        raise ValueError("cannot count")

    site.engine.on_batch(broken, broken)
    rows = np.random.default_rng(6).normal(size=(6, 30)).astype(np.float32)
    await site.teach(plain(rows[0]))
    for way in (plain, lambda row: plain(row).replace(b"Host: a", b"Host: a\r\nX-Request-Id: b")):
        site.hold("boosted30")
        connections = [site.connect() for _ in rows]
        for connection, row in zip(connections, rows, strict=True):
            connection.data_received(way(row))
        await asyncio.sleep(0.01)
        for connection, row in zip(connections, rows, strict=True):
            assert np.array_equal(probabilities(connection.transport.written.pop()), wanted(row))


async def test_a_model_that_cannot_be_prepared_is_unavailable_by_itself(site: Site) -> None:
    def broken(model: Model) -> None:
        if model.name == "lookup":
            raise ValueError("nobody expected this")

    site.engine.on_load(broken)
    await site.engine.unload("lookup")
    with pytest.raises(ModelNotReady, match="nobody expected this"):
        await site.engine.load("lookup")
    states = {entry["name"]: (entry["state"], entry["reason"]) for entry in site.engine.index()}
    assert states["lookup"][0] == "UNAVAILABLE"
    assert "nobody expected this" in states["lookup"][1]
    assert states["boosted30"][0] == "READY"
