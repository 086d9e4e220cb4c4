"""The REST front, fed with broken requests: every one is answered or refused, and nothing else happens."""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.conformance.target import binary_tensor, json_tensor
from tests.fuzz.campaign import GROUP, Campaign
from tests.fuzz.conftest import Front, Transport
from tests.support.models import DTYPES, zoo
from tests.support.mutate import pieces

pytestmark = [pytest.mark.fuzz, pytest.mark.timeout(14400)]

LIMIT_SECONDS = 2.0
"""Of CPU, for one input: an answer in quadratic time shows here, and a busy machine does not."""
HANG_SECONDS = 60.0


def _names(value: np.ndarray) -> str:
    return {np.dtype(kind): name for name, (_, kind) in DTYPES.items()}[value.dtype]


def _request(path: str, body: bytes = b"", method: str = "POST", *headers: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def bodies(model: str) -> list[bytes]:
    """Good JSON bodies."""
    rng = np.random.default_rng(2)
    found = []
    for rows in (1, 2):
        sample = zoo()[model].sample(rng, rows)
        tensors = [json_tensor(n, _names(v), v) for n, v in sample.items()]
        found.append({"inputs": tensors})
        found.append({"id": "a", "inputs": tensors, "parameters": {"a": 1, "b": "c"}})
        nested = [{**t, "data": v.tolist()} for t, v in zip(tensors, sample.values(), strict=True)]
        found.append({"inputs": nested})
    return [json.dumps(body).encode() for body in found]


def binary(model: str) -> tuple[bytes, int]:
    sample = zoo()[model].sample(np.random.default_rng(2), 2)
    tensors, blocks = zip(*(binary_tensor(n, _names(v), v) for n, v in sample.items()), strict=True)
    head = json.dumps({"inputs": tensors, "parameters": {"binary_data_output": True}}).encode()
    return head + b"".join(blocks), len(head)


def seeds() -> list[bytes]:
    found = [
        _request("/v2/health/live", method="GET"),
        _request("/v2", method="GET"),
        _request("/v2/models/logistic", method="GET"),
        _request("/v2/models/logistic/versions/1/ready", method="GET"),
        _request("/v2/repository/index", b'{"ready": true}'),
        _request("/v1/models/logistic:predict", b'{"instances": [[1.0, 2.0, 3.0, 4.0]]}'),
        _request("/metrics", method="GET"),
        _request("/v2/health/live", method="HEAD") * 3,
    ]
    for model in ("logistic", "two_and_two", "categories", "lookup", "half"):
        path = f"/v2/models/{model}/infer"
        found += [_request(path, body) for body in bodies(model)]
        body, length = binary(model)
        found.append(_request(path, body, "POST", f"Inference-Header-Content-Length: {length}"))
        first = bodies(model)[0]
        chunks = b"%x\r\n%s\r\n%x\r\n%s\r\n0\r\n\r\n" % (10, first[:10], len(first) - 10, first[10:])
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        found.append(head + chunks)
    return found


_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")
_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)\r\n")


def answers(written: bytes) -> list[tuple[int, bytes]]:
    """What was written, which must be whole HTTP responses and nothing else."""
    found, at = [], 0
    while at < len(written):
        status = _STATUS.match(written, at)
        end = written.find(b"\r\n\r\n", at)
        assert status is not None, f"no response: {written[at : at + 200]!r}"
        assert end > 0, f"no end of the head: {written[at : at + 200]!r}"
        if status[1] == b"100":
            at = end + 4
            continue
        length = _LENGTH.search(written, at, end + 2)
        assert length, f"no length: {written[at:end]!r}"
        stop = end + 4 + int(length[1])
        if len(written) < stop:
            # The answer to HEAD tells the length of what it leaves out.
            stop = end + 4
        found.append((int(status[1]), written[end + 4 : stop]))
        at = stop
    return found


def check(sent: bytes, transport: Transport) -> list[int]:
    if b"HEAD " in sent:
        return []
    found = answers(bytes(transport.written))
    for status, body in found:
        if status >= 400:
            error = json.loads(body)
            assert set(error) >= {"error"} or "ready" in error, error
            assert error.get("error", "-"), "an error must say what is wrong"
            # Only the model may fail; the server's own faults are logged, and none is allowed.
            assert status != 500 or "the server failed" not in error["error"], error
    return [status for status, _ in found]


async def settle(front: Front) -> None:
    """Let batches run until no request waits."""
    deadline = time.monotonic() + HANG_SECONDS
    while front.engine.busy() and time.monotonic() < deadline:
        await asyncio.sleep(0)
    for _ in range(4):
        await asyncio.sleep(0)
    assert not front.engine.busy(), "a request hangs"


async def exchange(
    front: Front,
    connect: Callable[[], tuple[Any, Transport]],
    stream: list[bytes],
    rng: random.Random,
    judge: Callable[[bytes, Transport], None],
) -> None:
    """A group of connections in one tick, as a busy server sees them; what was written to each is judged."""
    group = []
    for sent in stream:
        connection, transport = connect()
        began = time.thread_time()
        for piece in pieces(rng, sent):
            if transport.closed:
                break
            connection.data_received(piece)
        took = time.thread_time() - began
        assert took < LIMIT_SECONDS, f"{took:.1f} s for {sent[:300]!r}"
        group.append((sent, connection, transport))
    await settle(front)
    for sent, connection, transport in group:
        try:
            judge(sent, transport)
        except AssertionError as error:
            raise AssertionError(f"{error}\nsent: {sent!r}\nwritten: {bytes(transport.written)!r}") from None
        connection.connection_lost(None)
    assert not front.faults.records, (
        front.faults.records[0].getMessage(),
        front.faults.records[0].exc_info,
        stream,
    )


async def _feed(front: Front, stream: list[bytes], rng: random.Random) -> list[int]:
    """The statuses of the answers."""
    statuses: list[int] = []
    await exchange(front, front.connect, stream, rng, lambda sent, got: statuses.extend(check(sent, got)))
    return statuses


async def test_broken_requests(front: Front, campaign: Campaign) -> None:
    rng = random.Random(1)
    group: list[bytes] = []
    for sent in campaign.inputs(seeds(), seed=1):
        # Loading and unloading is not what is tested here; without models nothing would be.
        if b"load" in sent:
            continue
        group.append(sent)
        if len(group) == GROUP:
            await _feed(front, group, rng)
            group = []
    assert not front.server.connections
    # And it still answers rightly.
    connection, transport = front.connect()
    connection.data_received(seeds()[8])
    await settle(front)
    ((status, _),) = answers(bytes(transport.written))
    assert status == 200


async def test_broken_bodies(front: Front, campaign: Campaign) -> None:
    """The head is always right, so that all the randomness reaches the decoders."""
    rng = random.Random(2)
    statuses: Counter[int] = Counter()
    for model in ("logistic", "every_dtype", "categories", "half"):
        path = f"/v2/models/{model}/infer"
        body, length = binary(model)
        stream = campaign.inputs([*bodies(model), body], seed=len(model), share=4)
        group = []
        for sent in stream:
            headers = [f"Inference-Header-Content-Length: {length}"] if rng.random() < 0.3 else []
            group.append(_request(path, sent, "POST", *headers))
            if len(group) == GROUP:
                statuses.update(await _feed(front, group, rng))
                group = []
    # Both sides of the line are reached: neither all garbage nor all harmless.
    assert statuses[200] > 0.005 * statuses.total()
    assert statuses[400] > 0.2 * statuses.total()
