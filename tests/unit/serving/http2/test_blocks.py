"""A header block that is known but for an id, a trace or a deadline means what decoding all of it says."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.runtime.http2.blocks import NAMES, Blocks
from serving.runtime.http2.codes import ConnectionFault, MalformedRequest
from serving.runtime.http2.hpack import HeaderDecoder, literal, plain_literals
from serving.runtime.http2.request import RequestHead

FIXED = b"\x83\x86\x04\x02/m\x01\x01a\x0f\x10\x10application/grpc" + literal(b"te", b"trailers")
ROOM = 4096


def _block(values: dict[bytes, bytes], more: bytes = b"") -> bytes:
    return FIXED + b"".join(literal(name, value) for name, value in values.items()) + more


def _decoded(block: bytes) -> RequestHead | None:
    """None: refused."""
    try:
        return RequestHead(HeaderDecoder(ROOM).decode(block) or [])
    except (MalformedRequest, ConnectionFault):
        return None


def _learnt(*blocks: bytes, room: int = ROOM) -> Blocks:
    blocks_of = Blocks()
    for block in blocks * 2:
        head = _decoded(block)
        assert head is not None
        blocks_of.learn(block, head, room)
    return blocks_of


def _found(blocks: Blocks, block: bytes) -> RequestHead | None:
    try:
        return blocks.find(block)
    except MalformedRequest:
        assert _decoded(block) is None, block
        return None


def _same(found: RequestHead, block: bytes) -> None:
    whole = _decoded(block)
    assert whole is not None, block
    assert found.headers == whole.headers
    assert (found.method, found.path, found.authority) == (whole.method, whole.path, whole.authority)
    assert (found.content_length, found.key) == (whole.content_length, whole.key)


_VALUES = st.dictionaries(st.sampled_from(NAMES), st.binary(max_size=130), min_size=1)


@given(_VALUES, st.data())
def test_other_values_are_read_as_they_are(first: dict[bytes, bytes], data: st.DataObject) -> None:
    known = _block(dict.fromkeys(first, b"1S"), literal(b"x-more", b"a"))
    blocks = _learnt(known)
    other = {name: data.draw(st.binary(max_size=130)) for name in first}
    for values in (first, other):
        block = _block(values, literal(b"x-more", b"a"))
        found = _found(blocks, block)
        if found is not None:
            _same(found, block)
        readable = all(len(value) < 0x7F for value in values.values())
        assert (found is not None) == (readable and _decoded(block) is not None)


def test_what_is_not_the_same_around_the_values_is_not_found() -> None:
    values = {b"x-request-id": b"call-1", b"traceparent": b"00-1-2-01"}
    known = _block(values)
    blocks = _learnt(known)
    assert blocks.find(known) is not None
    for other in (
        _block(dict(reversed(values.items()))),
        _block(values, literal(b"x-more", b"a")),
        _block({**values, b"grpc-timeout": b"1S"}),
        _block({b"x-request-id": b"call-1"}),
        known[:-1],
        known[: -len(b"00-1-2-01")],
        known.replace(b"/m", b"/n"),
        b"",
    ):
        assert blocks.find(other) is None, other


@pytest.mark.parametrize(
    "block",
    [
        _block({}),
        _block({b"x-request-id": b"a"}, literal(b"x-request-id", b"b")),
        # What looks like an id is the text of another header, in Huffman's code or out of it.
        _block({}, b"\x00\x01x\x17" + literal(b"x-request-id", b"0") + b"1234567")[:-1] + b"\x00\x01y\x01z",
        # A name in the table of the connection, a name of eleven letters.
        _block({}, b"\x00\x0bx-request-i\x64aaaa" + b"b" * 96),
    ],
)
def test_what_is_no_field_of_its_own_is_not_learnt(block: bytes) -> None:
    if _decoded(block) is not None:
        assert not _learnt(block)._known


def test_what_would_pass_the_limit_is_not_learnt() -> None:
    block = _block({b"x-request-id": b"a"})
    assert _learnt(block, room=ROOM)._known
    assert not _learnt(block, room=400)._known


def test_once_is_not_enough_and_the_table_ends_it() -> None:
    block = _block({b"x-request-id": b"a"})
    head = _decoded(block)
    assert head is not None
    blocks = Blocks()
    blocks.learn(block, head, ROOM)
    assert blocks.find(block) is None
    blocks.learn(block, head, ROOM)
    assert blocks.find(block) is not None
    blocks.clear()
    assert blocks.find(block) is None


def test_bytes_changed_at_random_never_mean_something_else() -> None:
    chance = random.Random(11)
    known = _block(
        {b"grpc-timeout": b"5S", b"x-request-id": b"call-17", b"traceparent": b"00-%032x-%016x-01" % (1, 2)},
        literal(b"user-agent", b"grpc-python/1.85.1"),
    )
    blocks = _learnt(known)
    found = 0
    for _ in range(30_000):
        block = bytearray(known)
        for _ in range(chance.randint(1, 3)):
            place = chance.randrange(len(block))
            match chance.randrange(4):
                case 0:
                    block[place] = chance.randrange(256)
                case 1:
                    del block[place]
                case 2:
                    block.insert(place, chance.choice(b"\0\x0b\x0c-x0S\xff"))
                case _:
                    del block[place:]
            if not block:
                break
        head = _found(blocks, bytes(block))
        if head is not None:
            found += 1
            _same(head, bytes(block))
    assert found > 1000, "hardly anything was found, so hardly anything was compared"


def test_fields_are_counted_where_they_begin() -> None:
    assert plain_literals(FIXED) == {FIXED.index(b"\x00\x02te")}
    assert plain_literals(b"\x3f\xe1\x1f\x82\x40\x01a\x01\0\x0f\x2f\x01b\x10\x01c\x01d") == set()
