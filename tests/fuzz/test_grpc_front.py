"""The gRPC front, fed with broken frames and broken messages: refused in HTTP/2's or gRPC's own words."""

from __future__ import annotations

import asyncio
import random
import struct

import numpy as np
import pytest

from serving.client.grpc_messages import infer_message
from serving.runtime.http2.connection import Connection
from tests.benchmarks._load_grpc import _frame, call_head
from tests.fuzz.campaign import GROUP, Campaign
from tests.fuzz.conftest import Front, Transport
from tests.fuzz.test_rest_front import exchange
from tests.support.messages import SERVICE, message
from tests.support.models import zoo

pytestmark = [pytest.mark.fuzz, pytest.mark.timeout(14400)]

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_HEADERS, _SETTINGS, _PING, _GOAWAY, _WINDOW, _CONTINUATION = 1, 4, 6, 7, 8, 9


def messages() -> list[bytes]:
    """Good ModelInferRequests, raw and typed."""
    rng = np.random.default_rng(3)
    found = []
    for model in ("logistic", "two_and_two", "every_dtype", "categories", "lookup"):
        sample = zoo()[model].sample(rng, 2)
        found.append(infer_message(model, sample, None, None, "id", {"a": 1, "b": "c", "d": True}, None))
    typed = message("ModelInferRequest")(model_name="logistic")
    tensor = typed.inputs.add(name="X", datatype="FP32", shape=[1, 4])
    tensor.contents.fp32_contents.extend([1, 2, 3, 4])
    typed.outputs.add(name="label")
    found.append(typed.SerializeToString())
    return found


def call(stream: int, content: bytes, method: str = "ModelInfer") -> bytes:
    framed = b"\x00" + struct.pack(">I", len(content)) + content
    head = call_head(f"/{SERVICE}/{method}")
    return _frame(_HEADERS, 4, stream, head) + _frame(0, 1, stream, framed)


def conversations() -> list[bytes]:
    opening = PREFACE + _frame(_SETTINGS, 0, 0, struct.pack(">HI", 4, 1 << 20))
    first = messages()[0]
    split = call_head(f"/{SERVICE}/ModelInfer")
    return [
        *(opening + call(1, content) for content in messages()),
        opening + b"".join(call(stream, first) for stream in (1, 3, 5, 7)),
        opening + call(1, b"", "ServerLive") + call(3, b"", "ServerReady") + call(5, b"", "ServerMetadata"),
        opening + call(1, b"\n\x08logistic", "ModelMetadata") + call(3, b"", "RepositoryIndex"),
        opening + _frame(_PING, 0, 0, b"12345678") + _frame(_WINDOW, 0, 0, struct.pack(">I", 1000)),
        opening + _frame(_HEADERS, 0, 1, split[:9]) + _frame(_CONTINUATION, 4, 1, split[9:]),
        opening + call(1, first) + _frame(3, 0, 1, struct.pack(">I", 8)) + _frame(_GOAWAY, 0, 0, b"\0" * 8),
        opening + _frame(_HEADERS, 4 | 8, 1, b"\x03" + split + b"\0\0\0"),
    ]


def frames(written: bytes) -> list[tuple[int, int, int, bytes]]:
    """What was written: whole frames and nothing else; HTTP/1.1 is answered in its own words."""
    if written.startswith(b"HTTP/1.1 "):
        assert written.startswith(b"HTTP/1.1 400 "), written
        return []
    found, at = [], 0
    while at < len(written):
        size = int.from_bytes(written[at : at + 3], "big")
        assert len(written) >= at + 9 + size, f"half a frame: {written[at : at + 50]!r}"
        stream = int.from_bytes(written[at + 5 : at + 9], "big")
        found.append((written[at + 3], written[at + 4], stream, written[at + 9 : at + 9 + size]))
        at += 9 + size
    return found


async def _feed(front: Front, stream: list[bytes], rng: random.Random) -> list[bytes]:
    """What was written to each."""
    server, loop = front.grpc, asyncio.get_running_loop()
    written: list[bytes] = []

    def connect() -> tuple[Connection, Transport]:
        connection = Connection(server.application, server.front.limits, loop, server.front.connections)
        transport = Transport(strict=False)
        connection.connection_made(transport)
        return connection, transport

    def judge(sent: bytes, transport: Transport) -> None:
        written.append(bytes(transport.written))
        frames(written[-1])

    await exchange(front, connect, stream, rng, judge)
    return written


async def test_broken_frames(front: Front, campaign: Campaign) -> None:
    rng = random.Random(41)
    group: list[bytes] = []
    for sent in campaign.inputs(conversations(), seed=41):
        # The preface stays, else the randomness would stop at the door.
        group.append(PREFACE + sent.removeprefix(PREFACE) if rng.random() < 0.9 else sent)
        if len(group) == GROUP:
            await _feed(front, group, rng)
            group = []
    assert not front.grpc.front.connections


async def test_broken_messages(front: Front, campaign: Campaign) -> None:
    """The frames are right; what is in them is not. Each call must end with trailers."""
    rng = random.Random(42)
    opening = PREFACE + _frame(_SETTINGS, 0, 0, b"")
    group: list[bytes] = []
    answered = ended = 0
    for sent in campaign.inputs(messages(), seed=42):
        group.append(opening + call(1, sent[:16000]))
        if len(group) == GROUP:
            for written in await _feed(front, group, rng):
                found = frames(written)
                assert any(kind == _HEADERS and flags & 1 for kind, flags, _, _ in found), found
                ended += 1
                answered += any(kind == 0 for kind, _, _, _ in found)
            group = []
    assert 0.002 * ended < answered < 0.98 * ended
