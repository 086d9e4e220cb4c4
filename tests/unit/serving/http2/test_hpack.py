"""HPACK against the reference implementation in Python, both ways: tables, sizes, eviction, Huffman."""

from __future__ import annotations

from typing import Any

import hpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.runtime.http2.codes import ConnectionFault
from serving.runtime.http2.hpack import Fields, HeaderDecoder, HeaderEncoder, literal

NAMES = st.sampled_from([b"x-a", b"x-b", b"content-type", b"grpc-status", b"te", b"x-long-name-of-a-header"])
VALUES = st.one_of(st.sampled_from([b"", b"0", b"trailers", b"application/grpc"]), st.binary(max_size=90))
HEADERS = st.lists(st.tuples(NAMES, VALUES), max_size=12)
BLOCKS = st.lists(HEADERS, min_size=1, max_size=12)
SIZES = st.sampled_from([0, 40, 100, 300, 1000, 4096])

# (headers, how they are to be sent): sizes of the table come in between.
STEPS = st.lists(st.one_of(HEADERS, SIZES), min_size=1, max_size=20)


def plain(decoded: Any) -> list[tuple[bytes, bytes]]:
    return [(bytes(name), bytes(value)) for name, value in decoded]


@settings(max_examples=60, deadline=None)
@given(STEPS, st.booleans())
def test_what_hpack_encodes_is_decoded(steps: list[Any], huffman: bool) -> None:
    """Entries pile up, are evicted, and the table changes its size on the way."""
    encoder, decoder = hpack.Encoder(), HeaderDecoder(1 << 20)
    for step in steps:
        if isinstance(step, int):
            # Set to what it is, the reference forgets to tell of the change before.
            if step != encoder.header_table_size:
                encoder.header_table_size = step
        else:
            assert decoder.decode(encoder.encode(step, huffman=huffman)) == step


@settings(max_examples=60, deadline=None)
@given(STEPS, st.integers(0, 3))
def test_what_we_encode_hpack_decodes(steps: list[Any], repeats: int) -> None:
    encoder, decoder = HeaderEncoder(), hpack.Decoder()
    decoder.max_allowed_table_size = 4096
    for step in steps:
        if isinstance(step, int):
            encoder.limit(step)
            continue
        fields = Fields(*step)
        for _ in range(1 + repeats):  # again: by the whole block, while the table stays
            assert plain(decoder.decode(encoder.encode(fields), raw=True)) == step
        known = encoder.known(fields)
        if known is not None:
            assert plain(decoder.decode(known, raw=True)) == step


@settings(max_examples=40, deadline=None)
@given(BLOCKS)
def test_headers_that_are_said_once_stay_out_of_the_table(blocks: list[list[tuple[bytes, bytes]]]) -> None:
    encoder, decoder = HeaderEncoder(), hpack.Decoder()
    before = encoder.changes
    for number, headers in enumerate(blocks):
        extra = literal(b"x-request-id", b"id-%d" % number)
        told = plain(decoder.decode(encoder.encode_once(tuple(headers)) + extra, raw=True))
        assert told == [*headers, (b"x-request-id", b"id-%d" % number)]
    assert encoder.changes == before
    assert not decoder.header_table.dynamic_entries


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60))
def test_both_refuse_or_read_the_same(block: bytes) -> None:
    ours, theirs = HeaderDecoder(1 << 30), hpack.Decoder(max_header_list_size=1 << 30)
    try:
        wanted = plain(theirs.decode(block, raw=True))
    except (hpack.HPACKError, UnicodeDecodeError):
        wanted = None
    try:
        got = ours.decode(block)
    except ConnectionFault:
        got = None
    # Ours keeps to limits that the reference leaves to its user: the size of integers, of the table.
    if got is not None:
        assert got == wanted


def test_huffman_of_every_byte() -> None:
    encoder, decoder = hpack.Encoder(), HeaderDecoder(1 << 20)
    for byte in range(256):
        headers = [(b"x", bytes((byte,)) * 3), (b"y", bytes((byte, 255 - byte)))]
        assert decoder.decode(encoder.encode(headers, huffman=True)) == headers


def test_a_list_too_long_keeps_the_table_right() -> None:
    encoder, decoder = hpack.Encoder(), HeaderDecoder(200)
    assert decoder.decode(encoder.encode([(b"a", b"x" * 90), (b"b", b"y" * 90)])) is None
    assert decoder.decode(encoder.encode([(b"b", b"y" * 90)])) == [(b"b", b"y" * 90)]


@pytest.mark.parametrize(
    ("block", "says"),
    [
        (b"\x80", "index 0"),
        (b"\xff\xff\xff\xff\xff\xff\x0f", "too large"),
        (b"\xff\x80", "inside an integer"),
        (b"\xfe", "no header has the index"),
        (b"\x00\x05ab", "5 bytes"),
        (b"\x00", "before a string"),
        (b"\x3f\xe2\x1f", "settings allow"),
        (b"\x82\x20", "after a header"),
        (b"\x00\x81\xff\x00", "symbol"),
        (b"\x00\x84\xff\xff\xff\xff\x00", "end-of-string"),
    ],
)
def test_a_broken_block_says_what_is_broken(block: bytes, says: str) -> None:
    with pytest.raises(ConnectionFault, match=says):
        HeaderDecoder(1 << 20).decode(block)
