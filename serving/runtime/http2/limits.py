"""What HTTP/2 connections may ask for. The defaults suit gRPC between trusted networks' clients."""

from __future__ import annotations

from dataclasses import dataclass

from serving.runtime.http2.codes import DEFAULT_FRAME_SIZE


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    connections: int = 10_000
    """Open at once, over the whole front; who comes later is told so and let go."""
    concurrent_streams: int = 256
    stream_window: int = 1 << 20
    """What a peer may send on one stream before we return credit."""
    connection_window: int = 8 << 20
    frame_size: int = DEFAULT_FRAME_SIZE
    header_list: int = 16 << 10
    """Bytes of decoded headers, each counted with 32 more, as RFC 9113 does."""
    header_block: int = 32 << 10
    """Compressed bytes over HEADERS and all its CONTINUATIONs."""
    continuations: int = 16
    """Frames that may continue one header block."""
    write_buffer: int = 256 << 10
    """Above this much unread output the connection reads no more."""
    preface_seconds: float = 10.0
    """For the preface and for each header block to be whole, and for SETTINGS to be acknowledged."""
    stalled_seconds: float = 30.0
    """Without any progress of a half-sent request or a half-read answer."""
    idle_seconds: float = 0.0
    """Without a stream, before the connection is drained; 0 is for ever, as gRPC's own servers do it."""
    ping_after_seconds: float = 60.0
    """Silence before we ask whether the peer is still there."""
    ping_answer_seconds: float = 20.0
    age_seconds: float = 0.0
    """Age at which a connection is drained, so that clients spread over new replicas; 0 is never."""
    nuisance_burst: int = 4000
    """Credit for frames that cost us work and bring nothing: resets (4 each), pings, empty frames."""
    nuisance_per_second: int = 200
