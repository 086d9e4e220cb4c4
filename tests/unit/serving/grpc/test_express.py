"""Calls that are answered without a stream: the same answers, to whom they belong, whatever comes next.

Connections are real, their transports only keep what is written: so what arrives in one tick is for the test
to say, not for the machine's speed.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.client.grpc_messages import infer_message
from serving.runtime.config import parse_config
from serving.runtime.engine import Engine
from serving.runtime.grpc.express import Express
from serving.runtime.grpc.server import GrpcServer
from serving.runtime.http2 import Connection
from serving.runtime.messages import Rows
from serving.runtime.storage import open_storage
from tests.benchmarks._load_grpc import _frame as frame
from tests.benchmarks._load_grpc import call_head, client_head
from tests.fuzz.conftest import Transport
from tests.support.messages import message
from tests.support.models import write_model, zoo

DATA, HEADERS, RST, SETTINGS, GOAWAY, WINDOW = 0, 1, 3, 4, 7, 8
METHOD = "/inference.GRPCInferenceService/ModelInfer"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
LEARNT = 16
"""Calls after which a connection knows what they look like."""
ROWS = np.random.default_rng(8).normal(size=(8, 30)).astype(np.float32)


class Client:
    """Of one model: writes calls, and reads what comes back."""

    def __init__(self, site: Site, *, windows: bool = False) -> None:
        front = site.server.front
        self.connection = Connection(front.application, front.limits, site.engine.loop, front.connections)
        self.transport = Transport(strict=False)
        self.connection.connection_made(self.transport)
        self.windows = windows
        self.head = client_head(METHOD, 0, own=False) if windows else call_head(METHOD)
        self.stream = 1
        self.buffer = b""
        self.connection.data_received(PREFACE + frame(SETTINGS, 0, 0, b""))

    def call(self, content: bytes) -> bytes:
        framed = b"\0" + struct.pack(">I", len(content)) + content
        stream, self.stream = self.stream, self.stream + 2
        parts = [frame(HEADERS, 4, stream, self.head), frame(DATA, 1, stream, framed)]
        if self.windows:  # as C-core puts them
            parts.insert(1, frame(WINDOW, 0, stream, struct.pack(">I", 5)))
            parts.append(frame(WINDOW, 0, 0, struct.pack(">I", 1)))
        return b"".join(parts)

    def send(self, *contents: bytes, then: bytes = b"") -> None:
        self.connection.data_received(b"".join(map(self.call, contents)) + then)

    def answers(self) -> dict[int, bytes]:
        """The messages by stream, of what was written since the last look; those without one are empty."""
        data, self.transport.written = self.buffer + bytes(self.transport.written), bytearray()
        found: dict[int, bytes] = {}
        at = 0
        while len(data) - at >= 9:
            size = int.from_bytes(data[at : at + 3], "big")
            stream = int.from_bytes(data[at + 5 : at + 9], "big")
            if data[at + 3] == DATA:
                found[stream] = found.get(stream, b"") + data[at + 9 : at + 9 + size]
            elif data[at + 3] == HEADERS and data[at + 4] & 1:
                found.setdefault(stream, b"")
            at += 9 + size
        self.buffer = data[at:]
        return found

    async def learn(self, content: bytes) -> None:
        for _ in range(LEARNT):
            self.send(content)
            await asyncio.sleep(0.001)
        assert len(self.answers()) == LEARNT


class Site:
    def __init__(self, engine: Engine, server: GrpcServer) -> None:
        self.engine = engine
        self.server = server
        self.seen: list[int] = []
        """Rows of the runs of calls that were no streams."""
        engine.on_batch(lambda model, requests, batch: None, self._see)

    def _see(self, model: Any, rows: Rows) -> None:
        assert len(rows.arrived) == len(rows.inputs[0]) == len(rows.arrays[0])
        assert len({rows.request_id(place) for place in range(len(rows.arrived))}) == len(rows.arrived)
        self.seen.append(len(rows.arrived))

    async def clients(self, number: int, content: bytes, **kind: bool) -> list[Client]:
        clients = [Client(self, **kind) for _ in range(number)]
        for client in clients:
            await client.learn(content)
        self.seen.clear()
        for model in ("boosted30", "lookup"):
            found = self.engine.find(model)
            assert found is not None
            express: Express = found.extras["grpc express"]
            express._lone = False  # what comes next waits for the end of its tick
        return clients


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    for name in ("boosted30", "lookup"):
        write_model(tmp_path / name, name)
    config = parse_config(["--model-dir", str(tmp_path)], {})
    engine = Engine(config, open_storage(config.model_dir), asyncio.get_running_loop())
    server = GrpcServer(engine, None)
    await engine.start()
    yield Site(engine, server)
    engine.close()


def row(number: int) -> bytes:
    return infer_message("boosted30", {"X": ROWS[number : number + 1]}, None, None, None, None, None)


def key(value: int) -> bytes:
    return infer_message("lookup", {"key": np.array([value], np.int64)}, None, None, None, None, None)


def check(answer: bytes, number: int) -> None:
    assert answer[0] == 0
    assert int.from_bytes(answer[1:5], "big") == len(answer) - 5
    told = message("ModelInferResponse").FromString(answer[5:])
    wanted = zoo()["boosted30"].reference({"X": ROWS[number : number + 1]})
    for output, raw in zip(told.outputs, told.raw_output_contents, strict=True):
        expected = wanted[output.name]
        assert raw == expected.tobytes(), f"{output.name} of row {number}"
    assert "model_digest" in told.parameters


@pytest.mark.parametrize("windows", [False, True])
async def test_what_came_in_one_tick_runs_once(site: Site, windows: bool) -> None:
    first, second = await site.clients(2, row(0), windows=windows)
    for _ in range(3):
        began, other = first.stream, second.stream
        first.send(row(0), row(1), row(2))
        second.send(row(3), row(4))
        assert not first.transport.written
        await asyncio.sleep(0)
        answers, others = first.answers(), second.answers()
        assert [*answers] == [began, began + 2, began + 4]
        assert [*others] == [other, other + 2]
        for number, answer in enumerate([*answers.values(), *others.values()]):
            check(answer, number)
    assert site.seen == [5, 5, 5]
    assert not first.connection.streams


async def test_what_comes_next_finds_them_answered(site: Site) -> None:
    """More calls, resets of those before, or half a frame."""
    client, other = await site.clients(2, row(0))
    began = client.stream
    other.send(row(5))
    client.send(row(0), row(1))
    client.connection.data_received(frame(RST, 0, began, struct.pack(">I", 8)))
    assert [*client.answers()] == [began, began + 2]
    check(next(iter(other.answers().values())), 5)
    call = client.call(row(2))
    client.connection.data_received(call[:40])
    client.connection.data_received(call[40:])
    await asyncio.sleep(0.01)
    check(client.answers()[began + 4], 2)
    assert sum(site.seen) >= 3


async def test_what_stands_behind_them_is_obeyed(site: Site) -> None:
    """A reset in the same read: that call is dropped, the others are not."""
    (client,) = await site.clients(1, row(0))
    began = client.stream
    client.send(row(0), row(1), then=frame(RST, 0, began, struct.pack(">I", 8)))
    await asyncio.sleep(0.01)
    answers = client.answers()
    assert [*answers] == [began + 2]
    check(answers[began + 2], 1)


async def test_a_call_that_is_different_is_answered_as_it_is(site: Site) -> None:
    (client,) = await site.clients(1, row(0))
    began = client.stream
    named = infer_message("boosted30", {"X": ROWS[1:2]}, None, None, "its id", None, None)
    client.send(row(0), named, row(2))
    await asyncio.sleep(0.01)
    answers = client.answers()
    assert sorted(answers) == [began, began + 2, began + 4]
    for number in range(3):
        check(answers[began + 2 * number], number)
    assert message("ModelInferResponse").FromString(answers[began + 2][5:]).id == "its id"


async def test_who_hangs_up_gets_nothing_and_hurts_nobody(site: Site) -> None:
    first, gone, last = await site.clients(3, row(0))
    for number, client in enumerate((first, gone, last)):
        client.send(row(number))
    gone.connection.connection_lost(None)
    await asyncio.sleep(0)
    assert not gone.transport.written
    check(next(iter(first.answers().values())), 0)
    check(next(iter(last.answers().values())), 2)


@pytest.mark.parametrize("end", ["close", "finish_draining", "abandon"])
async def test_the_end_of_the_server_leaves_no_call_unanswered(site: Site, end: str) -> None:
    (client,) = await site.clients(1, row(0))
    began = client.stream
    client.send(row(0), row(1))
    getattr(client.connection, end)()
    answers = client.answers()
    assert [*answers] == [began, began + 2]
    check(answers[began + 2], 1)


async def test_without_room_they_wait_as_streams(site: Site) -> None:
    """The window of the connection holds one answer and a half."""
    client, other = await site.clients(2, row(0))
    began = client.stream
    other.send(row(7))
    await asyncio.sleep(0)
    size = len(next(iter(other.answers().values())))
    client.connection._window = size + size // 2
    client.send(row(0), row(1), row(2))
    other.send(row(7))
    await asyncio.sleep(0.01)
    check(next(iter(other.answers().values())), 7)
    answers = client.answers()
    check(answers[began], 0)
    assert len(answers[began + 2]) == size // 2
    assert len(client.connection.streams) == 2
    client.connection.data_received(frame(WINDOW, 0, 0, struct.pack(">I", 4 * size)))
    rest = client.answers()
    check(answers[began + 2] + rest[began + 2], 1)
    check(rest[began + 4], 2)
    assert site.seen == [1, 1], "what was run again is counted with the streams"


async def test_a_bad_row_fails_alone(site: Site) -> None:
    (client,) = await site.clients(1, key(1))
    began = client.stream
    client.send(key(1), key(10**6), key(3))
    await asyncio.sleep(0.01)
    answers = client.answers()
    assert sorted(answers) == [began, began + 2, began + 4]
    assert not answers[began + 2]
    for number, value in ((0, 1), (2, 3)):
        told = message("ModelInferResponse").FromString(answers[began + 2 * number][5:])
        wanted = next(iter(zoo()["lookup"].reference({"key": np.array([value])}).values()))
        assert told.raw_output_contents[0] == wanted.tobytes()


async def test_a_model_that_has_gone_is_told_and_held_by_nobody(site: Site) -> None:
    (client,) = await site.clients(1, row(0))
    await site.engine.unload("boosted30")
    began = client.stream
    client.send(row(0), row(1))
    await asyncio.sleep(0.05)
    assert client.answers() == {began: b"", began + 2: b""}
