"""Heads, chunks and compressed bodies, by themselves."""

from __future__ import annotations

import gzip
import zlib

import pytest

from serving.runtime.http1 import Chunks, decompress, parse_head
from slipway.errors import InvalidRequest, PayloadTooLarge, ServingError

HOST = b"Host: a\r\n"


def head(*lines: bytes) -> bytes:
    return b"\r\n".join((b"POST /v2/models/m/infer HTTP/1.1", *lines)) + b"\r\n\r\n"


def test_a_head_says_all_that_is_needed() -> None:
    found = parse_head(
        head(b"Host: a", b"Content-Length: 12", b"Inference-Header-Content-Length: 7", b"X-Request-ID: r1")
    )
    assert (found.method, found.target, found.length, found.json_length) == (
        "POST",
        b"/v2/models/m/infer",
        12,
        7,
    )
    assert (found.keep_alive, found.chunked, found.request_id, found.cacheable) == (True, False, "r1", False)


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (head(b"Host: a", b"Content-Length: 5", b"Transfer-Encoding: chunked"), 400),
        (head(b"Host: a", b"Content-Length: 5", b"Content-Length: 6"), 400),
        (head(b"Host: a", b"Content-Length: 5", b"Content-Length: 5"), 400),
        (head(b"Host: a", b"Content-Length: +5"), 400),
        (head(b"Host: a", b"Content-Length: 5, 5"), 400),
        (head(b"Host: a", b"Content-Length: 99999999999999999999"), 400),
        (head(b"Host: a", b"Transfer-Encoding: gzip, chunked"), 501),
        (head(b"Host: a", b"Transfer-Encoding: chunked, identity"), 400),
        (head(b"Host: a", b"Host: b"), 400),
        (head(b"Content-Length: 5"), 400),
        (head(b"Host: a", b"X : y"), 400),
        (head(b"Host: a", b"Folded: y\r\n z"), 400),
        (b"POST / HTTP/1.1\nHost: a\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nA: b\rc\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 400),
        (b"NONSENSE\r\n\r\n", 400),
        (b"\x16\x03\x01\x00\r\n\r\n", 400),
        (head(b"Host: a", b"Expect: a-miracle"), 417),
        (head(b"Host: a", *[b"A%d: b" % n for n in range(200)]), 431),
    ],
)
def test_what_two_parsers_could_read_in_two_ways_is_refused(raw: bytes, status: int) -> None:
    with pytest.raises(ServingError) as caught:
        parse_head(raw)
    assert caught.value.status in (status, 501)


def test_http_1_0_closes_unless_it_asks_not_to() -> None:
    assert not parse_head(b"GET /v2 HTTP/1.0\r\n\r\n").keep_alive
    assert not parse_head(b"GET /v2 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").keep_alive


def test_chunks_come_in_any_pieces() -> None:
    stream = b"5\r\nhello\r\nA;note=x\r\n, world!!!\r\n0\r\nTrailer: t\r\n\r\nGET next"
    for size in (1, 2, 3, 7, len(stream)):
        chunks = Chunks(1000)
        rest = None
        for start in range(0, len(stream), size):
            rest = chunks.feed(stream[start : start + size])
            if rest is not None:
                rest += stream[start + size :]
                break
        assert chunks.body() == b"hello, world!!!"
        assert rest == b"GET next"


@pytest.mark.parametrize(
    "stream",
    [
        b"5\r\nhello!\r\n0\r\n\r\n",
        b"x\r\n",
        b"-1\r\n",
        b"0x5\r\nhello\r\n",
        b"\r\n\r\n",
        b"1" * 2000,
        b"5 5\r\n",
    ],
)
def test_broken_chunks_are_refused(stream: bytes) -> None:
    with pytest.raises(InvalidRequest):
        Chunks(1000).feed(stream)


def test_chunks_stop_at_the_limit_before_they_are_read() -> None:
    with pytest.raises(PayloadTooLarge):
        Chunks(1000).feed(b"FFFFFFFF\r\n")


def test_compressed_bodies_and_bombs() -> None:
    plain = b'{"inputs":[]}' * 10
    assert decompress(gzip.compress(plain), b"gzip", 1000) == plain
    assert decompress(zlib.compress(plain), b"deflate", 1000) == plain
    with pytest.raises(PayloadTooLarge):
        decompress(gzip.compress(bytes(10_000_000)), b"gzip", 1_000_000)
    for broken in (gzip.compress(plain)[:-3], b"not gzip", gzip.compress(plain) + b"more"):
        with pytest.raises(InvalidRequest):
            decompress(broken, b"gzip", 1000)
    with pytest.raises(ServingError) as caught:
        decompress(plain, b"br", 1000)
    assert caught.value.status == 415
