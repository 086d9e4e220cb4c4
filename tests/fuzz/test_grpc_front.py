"""The gRPC front, fed with broken frames and broken messages: refused in HTTP/2's or gRPC's own words."""

from __future__ import annotations

import asyncio
import random
import struct
from collections.abc import Callable
from typing import Any

import hpack
import numpy as np
import pytest

from serving.client.grpc_messages import infer_message
from serving.runtime.http2.blocks import Blocks
from serving.runtime.http2.connection import Connection
from serving.runtime.http2.hpack import literal
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
        *patterns(),
    ]


def alike(extra: Callable[[int], bytes], *, windows: bool) -> bytes:
    """More calls than it takes to make a pattern of them; C-core sends window updates with them."""
    content = messages()[0].replace(b"\x1a\x02id", b"")
    framed = b"\x00" + struct.pack(">I", len(content)) + content
    sent = PREFACE + _frame(_SETTINGS, 0, 0, struct.pack(">HI", 4, 1 << 20))
    for stream in range(1, 41, 2):
        sent += _frame(_HEADERS, 4, stream, call_head(f"/{SERVICE}/ModelInfer") + extra(stream))
        if windows:
            sent += _frame(_WINDOW, 0, stream, struct.pack(">I", 5))
        sent += _frame(0, 1, stream, framed)
        if windows:
            sent += _frame(_WINDOW, 0, 0, struct.pack(">I", 169))
    return sent


def patterns() -> list[bytes]:
    def timeout(stream: int) -> bytes:
        return literal(b"grpc-timeout", b"9S")

    def each_its_own(stream: int) -> bytes:
        return (
            literal(b"grpc-timeout", b"%dm" % (9000 + stream))
            + literal(b"x-request-id", b"id-%d" % stream)
            + literal(b"traceparent", b"00-%032x-%016x-00" % (stream, stream))
        )

    return [
        alike(extra, windows=windows)
        for extra in (lambda stream: b"", timeout, each_its_own)
        for windows in (False, True)
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


Fate = dict[int, list[tuple[int, int, Any]]]
"""By stream: kind, flags and content of each frame."""


class _NoBlocks(Blocks):
    def learn(self, *arguments: object) -> None:
        """No block is known but for its values."""


class FrameByFrame(Connection):
    __slots__ = ()

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._blocks = _NoBlocks()

    def expect(self, *arguments: object) -> None:
        """No patterns."""


async def _fates(front: Front, kind: type[Connection], stream: list[bytes]) -> list[tuple[bytes, Fate, bool]]:
    """What became of each connection and its streams; ids and spans that are made here left out."""
    fates: list[tuple[bytes, Fate, bool]] = []
    server, loop = front.grpc, asyncio.get_running_loop()

    def connect() -> tuple[Connection, Transport]:
        connection = kind(server.application, server.front.limits, loop, server.front.connections)
        transport = Transport(strict=False)
        connection.connection_made(transport)
        return connection, transport

    def judge(sent: bytes, transport: Transport) -> None:
        decoder = hpack.Decoder()
        streams: Fate = {}
        for number, flags, stream_id, payload in frames(bytes(transport.written)):
            told: Any = payload
            if number == _HEADERS:
                told = {
                    name: value
                    for name, value in decoder.decode(payload, raw=True)
                    if name != b"traceparent" and not (name == b"x-request-id" and b"id-" not in value)
                }
            streams.setdefault(stream_id, []).append((number, flags, told))
        fates.append((sent, streams, transport.closed))

    await exchange(front, connect, stream, random.Random(0), judge)
    return fates


def _says_closed(fate: Fate) -> bool:
    return any(number == _GOAWAY and b", which is closed" in told for number, _, told in fate.get(0, []))


def _is_late(answer: list[tuple[int, int, object]]) -> bool:
    """A deadline of some milliseconds: the clock decides."""
    return any(isinstance(told, dict) and told.get(b"grpc-status") == b"4" for _, _, told in answer)


async def test_calls_of_a_pattern_end_as_those_taken_frame_by_frame(front: Front, campaign: Campaign) -> None:
    """Whatever is broken in or between them."""
    campaign.count //= 10  # each is 20 calls, and is tried twice
    group: list[bytes] = []
    for sent in campaign.inputs(patterns(), seed=43):
        group.append(PREFACE + sent.removeprefix(PREFACE))
        if len(group) == GROUP:
            quick = await _fates(front, Connection, group)
            slow = await _fates(front, FrameByFrame, group)
            for (input_, one, _), (_, other, _) in zip(quick, slow, strict=True):
                if _says_closed(one) != _says_closed(other):
                    continue  # what came for a stream that had been answered already in one of the ways
                keys = one.keys() | other.keys()
                if any(number == _GOAWAY for number, _, _ in one.get(0, [])):
                    # A fault of the connection drops what is not answered yet, in either way.
                    keys = one.keys() & other.keys()
                keys -= {key for fate in (one, other) for key in fate if _is_late(fate[key])}
                assert [one.get(key) for key in keys] == [other.get(key) for key in keys], input_
            group = []


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
