"""Every fault of a frame that RFC 9113 names, with the answer that it asks for; floods; flow control."""

from __future__ import annotations

import pytest

from serving.runtime.http2 import Limits
from tests.unit.serving.http2.peer import (
    CONTINUATION,
    DATA,
    GOAWAY,
    HEAD,
    HEADERS,
    PING,
    PREFACE,
    PRIORITY,
    PUSH,
    RST,
    SETTINGS,
    WINDOW,
    Peer,
    frame,
    setting,
    word,
)

END_STREAM, ACK, END_HEADERS, PADDED, PRIORITIZED = 1, 1, 4, 8, 0x20
PROTOCOL, FLOW, CLOSED, SIZE, REFUSED, COMPRESSION, CALM = 1, 3, 5, 6, 7, 9, 11

OPEN = frame(HEADERS, END_HEADERS, 1, HEAD)
WHOLE = frame(HEADERS, END_HEADERS | END_STREAM, 1, HEAD)


def literal(name: bytes, value: bytes) -> bytes:
    return b"\x00" + bytes((len(name),)) + name + bytes((len(value),)) + value


def head(*more: bytes) -> bytes:
    return frame(HEADERS, END_HEADERS | END_STREAM, 1, HEAD + b"".join(more))


CONNECTION_FAULTS = [
    ("4.2 a frame longer than the settings", frame(DATA, 0, 1, bytes(16385)), SIZE),
    ("4.3 a block that HPACK cannot read", frame(HEADERS, END_HEADERS, 1, b"\x80"), COMPRESSION),
    ("5.1 DATA on an idle stream", frame(DATA, END_STREAM, 1, b"a"), PROTOCOL),
    ("5.1 RST_STREAM on an idle stream", frame(RST, 0, 1, word(8)), PROTOCOL),
    ("5.1 WINDOW_UPDATE on an idle stream", frame(WINDOW, 0, 1, word(8)), PROTOCOL),
    ("5.1.1 an even stream", frame(HEADERS, END_HEADERS | END_STREAM, 2, HEAD), PROTOCOL),
    (
        "5.1.1 a lower stream",
        frame(HEADERS, 5, 5, HEAD) + frame(HEADERS, 5, 3, HEAD),
        PROTOCOL,
    ),
    ("5.1 HEADERS on a closed stream", WHOLE + WHOLE, CLOSED),
    ("6.1 DATA on stream 0", frame(DATA, 0, 0, b"a"), PROTOCOL),
    ("6.1 padding longer than the frame", OPEN + frame(DATA, PADDED, 1, b"\x09a"), PROTOCOL),
    ("6.1 no room for the padding's length", OPEN + frame(DATA, PADDED, 1, b""), SIZE),
    ("6.2 HEADERS on stream 0", frame(HEADERS, 5, 0, HEAD), PROTOCOL),
    ("6.2 HEADERS with too much padding", frame(HEADERS, 5 | PADDED, 1, b"\xff" + HEAD), PROTOCOL),
    ("6.2 HEADERS too short for a priority", frame(HEADERS, 5 | PRIORITIZED, 1, b"abc"), SIZE),
    ("6.3 PRIORITY on stream 0", frame(PRIORITY, 0, 0, bytes(5)), PROTOCOL),
    ("6.4 RST_STREAM on stream 0", frame(RST, 0, 0, word(8)), PROTOCOL),
    ("6.4 RST_STREAM of 3 bytes", OPEN + frame(RST, 0, 1, b"abc"), SIZE),
    ("6.5 SETTINGS on a stream", frame(SETTINGS, 0, 1, b""), PROTOCOL),
    ("6.5 SETTINGS of 5 bytes", frame(SETTINGS, 0, 0, bytes(5)), SIZE),
    ("6.5 an acknowledgement with content", frame(SETTINGS, ACK, 0, bytes(6)), SIZE),
    ("6.5.2 ENABLE_PUSH is 2", setting(2, 2), PROTOCOL),
    ("6.5.2 an initial window of 2^31", setting(4, 1 << 31), FLOW),
    ("6.5.2 a largest frame of 100", setting(5, 100), PROTOCOL),
    ("6.5.2 a largest frame of 2^24", setting(5, 1 << 24), PROTOCOL),
    ("6.6 PUSH_PROMISE", OPEN + frame(PUSH, END_HEADERS, 1, word(2)), PROTOCOL),
    ("6.7 PING on a stream", frame(PING, 0, 1, bytes(8)), PROTOCOL),
    ("6.7 PING of 7 bytes", frame(PING, 0, 0, bytes(7)), SIZE),
    ("6.8 GOAWAY on a stream", frame(GOAWAY, 0, 1, bytes(8)), PROTOCOL),
    ("6.8 GOAWAY of 7 bytes", frame(GOAWAY, 0, 0, bytes(7)), SIZE),
    ("6.9 WINDOW_UPDATE of 3 bytes", frame(WINDOW, 0, 0, b"abc"), SIZE),
    ("6.9 a window update of 0", frame(WINDOW, 0, 0, word(0)), PROTOCOL),
    ("6.9.1 a window over 2^31-1", frame(WINDOW, 0, 0, word((1 << 31) - 1)) * 2, FLOW),
    ("6.9.2 settings that lift a stream's window over 2^31-1",
     OPEN + frame(WINDOW, 0, 1, word((1 << 31) - 1 - 65535)) + setting(4, 70000), FLOW),
    ("6.10 CONTINUATION without HEADERS", frame(CONTINUATION, END_HEADERS, 1, HEAD), PROTOCOL),
    ("6.10 another frame within a block", frame(HEADERS, 0, 1, HEAD) + frame(PING, 0, 0, bytes(8)), PROTOCOL),
    (
        "6.10 CONTINUATION of another stream",
        frame(HEADERS, 0, 1, HEAD) + frame(CONTINUATION, 4, 3, b""),
        PROTOCOL,
    ),
]  # fmt: skip

STREAM_FAULTS = [
    ("5.1 DATA after END_STREAM", OPEN + frame(RST, 0, 1, word(8)) + frame(DATA, 0, 1, b"a"), CLOSED),
    ("5.3.1 a stream that depends on itself",
     frame(HEADERS, 5 | PRIORITIZED, 1, word(1) + b"\0" + HEAD), PROTOCOL),
    ("6.3 PRIORITY of 4 bytes", OPEN + frame(PRIORITY, 0, 1, bytes(4)), SIZE),
    ("6.9 a stream's window update of 0", OPEN + frame(WINDOW, 0, 1, word(0)), PROTOCOL),
    ("6.9.1 a stream's window over 2^31-1", OPEN + frame(WINDOW, 0, 1, word((1 << 31) - 1)), FLOW),
    ("8.1 trailers that do not end the stream",
     OPEN + frame(HEADERS, END_HEADERS, 1, literal(b"a", b"b")), PROTOCOL),
    ("8.1 a pseudo-header in trailers", OPEN + frame(HEADERS, 5, 1, b"\x83"), PROTOCOL),
    ("8.1.1 a content-length that is too small", frame(HEADERS, 4, 1, HEAD + literal(b"content-length", b"1"))
     + frame(DATA, 1, 1, b"abc"), PROTOCOL),
    ("8.1.1 a content-length without content", head(literal(b"content-length", b"1")), PROTOCOL),
    ("8.2 upper case", head(literal(b"A", b"b")), PROTOCOL),
    ("8.2.1 a line feed in a value", head(literal(b"a", b"b\nc")), PROTOCOL),
    ("8.2.1 white space around a value", head(literal(b"a", b" b")), PROTOCOL),
    ("8.2.2 connection", head(literal(b"connection", b"close")), PROTOCOL),
    ("8.2.2 te that is not trailers", head(literal(b"te", b"gzip")), PROTOCOL),
    ("8.3 an unknown pseudo-header", head(literal(b":new", b"1")), PROTOCOL),
    ("8.3 a pseudo-header of answers", head(b"\x88"), PROTOCOL),
    ("8.3 a pseudo-header twice", head(b"\x83"), PROTOCOL),
    ("8.3 a pseudo-header after others", head(literal(b"a", b"b"), b"\x84"), PROTOCOL),
    ("8.3.1 no method", frame(HEADERS, 5, 1, b"\x86\x84"), PROTOCOL),
    ("8.3.1 no path", frame(HEADERS, 5, 1, b"\x83\x86"), PROTOCOL),
    ("8.3.1 no scheme", frame(HEADERS, 5, 1, b"\x83\x84"), PROTOCOL),
]  # fmt: skip


@pytest.mark.parametrize(
    ("sent", "code"), [case[1:] for case in CONNECTION_FAULTS], ids=[c[0] for c in CONNECTION_FAULTS]
)
async def test_a_fault_of_the_connection_ends_it_with_the_reason(sent: bytes, code: int) -> None:
    peer = Peer()
    peer.send(sent)
    assert await peer.fate() == ("goaway", code)
    peer.send(frame(PING, 0, 0, bytes(8)))
    assert await peer.frames() == []


@pytest.mark.parametrize(
    ("sent", "code"), [case[1:] for case in STREAM_FAULTS], ids=[c[0] for c in STREAM_FAULTS]
)
async def test_a_fault_of_a_stream_ends_that_stream_alone(sent: bytes, code: int) -> None:
    peer = Peer()
    peer.send(sent)
    assert await peer.fate() == ("reset", code)
    peer.send(frame(HEADERS, 5, 7, HEAD))
    kinds = [(kind, stream) for kind, _, stream, _ in await peer.frames()]
    assert kinds == [(HEADERS, 7), (DATA, 7), (HEADERS, 7)]


@pytest.mark.parametrize("cut", range(1, 60, 7))
async def test_frames_may_come_in_any_pieces(cut: int) -> None:
    peer = Peer(greet=False)
    sent = (
        PREFACE + frame(SETTINGS, 0, 0, b"") + OPEN + frame(DATA, PADDED | END_STREAM, 1, b"\x03hello\0\0\0")
    )
    for at in range(0, len(sent), cut):
        peer.send(sent[at : at + cut])
    found = await peer.frames()
    assert [payload for kind, _, _, payload in found if kind == DATA] == [b"hello"]


async def test_unknown_frames_and_settings_are_ignored() -> None:
    peer = Peer()
    peer.send(frame(0x42, 7, 1, b"abc") + setting(0x99, 5) + WHOLE)
    assert await peer.fate() is None


FLOODS = {
    "resets": b"".join(frame(HEADERS, 4, n, HEAD) + frame(RST, 0, n, word(8)) for n in range(1, 4001, 2)),
    "pings": frame(PING, 0, 0, bytes(8)) * 5000,
    "settings": setting(4, 65535) * 2000,
    "empty data": OPEN + frame(DATA, 0, 1, b"") * 5000,
    "empty continuations": frame(HEADERS, 0, 1, HEAD) + frame(CONTINUATION, 0, 1, b"") * 100,
    "a block without end": frame(HEADERS, 0, 1, HEAD)
    + frame(CONTINUATION, 0, 1, literal(b"a", b"b" * 100) * 150) * 10,
    "priorities": frame(PRIORITY, 0, 1, bytes(5)) * 5000,
    "unknown frames": frame(0x42, 0, 0, b"") * 5000,
    "window updates": frame(WINDOW, 0, 0, word(1)) * 5000,
}


@pytest.mark.parametrize("flood", FLOODS)
async def test_a_flood_is_cut_off(flood: str) -> None:
    peer = Peer()
    peer.send(FLOODS[flood])
    fate = await peer.fate()
    while fate == ("reset", 8):
        fate = await peer.fate()
    assert fate == ("goaway", CALM)


async def test_busy_clients_are_no_flood() -> None:
    """Pings and window updates beside answers, as gRPC's clients send them."""
    peer = Peer()
    for stream in range(1, 20_001, 2):
        peer.send(
            frame(HEADERS, 5, stream, HEAD) + frame(WINDOW, 0, 0, word(20)) + frame(PING, 0, 0, bytes(8))
        )
        if stream % 1000 == 1:
            assert await peer.fate() is None


async def test_more_streams_than_may_be_open_are_refused() -> None:
    peer = Peer(Limits(concurrent_streams=3))
    peer.send(b"".join(frame(HEADERS, 4, stream, HEAD) for stream in (1, 3, 5, 7)))
    assert await peer.fate() == ("reset", REFUSED)


async def test_an_answer_waits_for_room_and_nothing_else_does() -> None:
    peer = Peer()
    peer.send(setting(4, 10) + OPEN + frame(DATA, 1, 1, b"x" * 25))
    peer.send(frame(HEADERS, 5, 3, HEAD))
    found = await peer.frames()
    assert [(kind, stream, len(payload)) for kind, _, stream, payload in found if kind == DATA] == [
        (DATA, 1, 10),
        (DATA, 3, 5),
    ]
    peer.send(frame(WINDOW, 0, 1, word(10)))
    peer.send(setting(4, 15))
    found = await peer.frames()
    assert b"".join(payload for kind, _, _, payload in found if kind == DATA) == b"x" * 15
    assert found[-1][:3] == (HEADERS, 5, 1)


async def test_a_body_larger_than_the_window_is_read_as_credit_returns() -> None:
    peer = Peer(Limits(stream_window=65535, connection_window=100_000))
    peer.send(frame(HEADERS, 4, 1, HEAD))
    sent, room = 0, 65535
    while sent < 400_000:
        size = min(16384, room)
        assert size, "no credit came back"
        peer.send(frame(DATA, 0, 1, bytes(size)))
        sent, room = sent + size, room - size
        room += sum(
            int.from_bytes(payload, "big")
            for kind, _, stream, payload in await peer.frames()
            if (kind, stream) == (WINDOW, 1)
        )
    peer.send(frame(DATA, 1, 1, b""))
    peer.send(frame(WINDOW, 0, 0, word(1 << 20)) + frame(WINDOW, 0, 1, word(1 << 20)))
    assert sum(len(payload) for kind, _, _, payload in await peer.frames() if kind == DATA) == sent


async def test_who_sends_beyond_the_window_is_stopped() -> None:
    peer = Peer(Limits(stream_window=100))
    peer.send(OPEN + frame(DATA, 0, 1, bytes(101)))
    assert await peer.fate() == ("reset", FLOW)


async def test_a_drain_ends_what_is_open_and_takes_nothing_new() -> None:
    peer = Peer()
    peer.send(OPEN)
    peer.connection.drain()
    ((kind, _, _, payload), ping) = await peer.frames()
    assert (kind, payload[:4], ping[0]) == (GOAWAY, word((1 << 31) - 1), PING)
    peer.send(frame(HEADERS, 4, 3, HEAD))  # was under way
    peer.send(frame(PING, ACK, 0, ping[3]))
    ((kind, _, _, payload),) = await peer.frames()
    assert (kind, payload[:4]) == (GOAWAY, word(3))
    peer.send(frame(HEADERS, 5, 5, HEAD))
    assert await peer.frames() == []
    for stream in (1, 3):
        peer.send(frame(DATA, 1, stream, b"bye"))
    answered = {stream for kind, _, stream, _ in await peer.frames() if kind == DATA}
    assert (answered, peer.transport.closed) == ({1, 3}, True)


async def test_http1_is_told_where_it_is() -> None:
    peer = Peer(greet=False)
    peer.send(b"GET / HTTP/1.1\r\n\r\n")
    assert bytes(peer.transport.written).endswith(b"HTTP/1.1 400 Bad Request\r\n\r\n")
