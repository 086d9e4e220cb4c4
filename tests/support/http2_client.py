"""gRPC by hand on python-hyper's h2, a client of another make than grpcio: it shows what that hides."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.settings

from tests.support.messages import SERVICE


@dataclass
class Answer:
    headers: dict[str, str] = field(default_factory=dict)
    """Trailers too."""
    data: bytes = b""
    parts: int = 0
    """DATA frames that had something in them."""
    ended: bool = False
    reset: int | None = None

    @property
    def status(self) -> int:
        return int(self.headers["grpc-status"])

    @property
    def message(self) -> bytes:
        """The one message that it holds."""
        assert self.data[:1] == b"\0"
        assert int.from_bytes(self.data[1:5], "big") == len(self.data) - 5
        return self.data[5:]


class Http2Client:
    def __init__(self, port: int, *, window: int | None = None) -> None:
        self.h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=True, header_encoding="utf-8")
        )
        self.answers: dict[int, Answer] = defaultdict(Answer)
        self.goaway: h2.events.ConnectionTerminated | None = None
        self.pings = 0
        self.closed = False
        self.socket = socket.create_connection(("127.0.0.1", port), 60)
        self.socket.settimeout(60)
        if window is not None:
            initial = {h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window}
            self.h2.local_settings = h2.settings.Settings(client=True, initial_values=initial)
        self.h2.initiate_connection()
        self.flush()
        while self.h2.outbound_flow_control_window < 1 << 20:
            self.read()  # the server's settings and its window

    def __enter__(self) -> Http2Client:
        return self

    def __exit__(self, *error: object) -> None:
        self.socket.close()

    def flush(self) -> None:
        self.socket.sendall(self.h2.data_to_send())

    def call(
        self,
        message: Any,
        method: str = "ModelInfer",
        *metadata: tuple[str, str],
        end: bool = True,
        flag: bytes = b"\0",
    ) -> int:
        """Queue a call (`flush` sends it); the answer is its stream. `message` may be bytes."""
        stream: int = self.h2.get_next_available_stream_id()
        head = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", f"/{SERVICE}/{method}"),
            (":authority", "test"),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            *metadata,
        ]
        content = message if isinstance(message, bytes) else message.SerializeToString()
        self.h2.send_headers(stream, head)
        framed = flag + struct.pack(">I", len(content)) + content
        for at in range(0, len(framed), 16_384):
            last = at + 16_384 >= len(framed)
            self.h2.send_data(stream, framed[at : at + 16_384], end_stream=end and last)
        return stream

    def read(self) -> None:
        """What has come, at least something; windows are given back, unless they were made small."""
        try:
            data = self.socket.recv(1 << 16)
        except ConnectionResetError:
            data = b""
        if not data:
            self.closed = True
            return
        for event in self.h2.receive_data(data):
            if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
                self.answers[event.stream_id].headers.update(event.headers)
            elif isinstance(event, h2.events.DataReceived):
                answer = self.answers[event.stream_id]
                answer.data += event.data
                answer.parts += bool(event.data)
                if event.flow_controlled_length:
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.StreamEnded):
                self.answers[event.stream_id].ended = True
            elif isinstance(event, h2.events.StreamReset):
                self.answers[event.stream_id].reset = int(event.error_code)
            elif isinstance(event, h2.events.PingAckReceived):
                self.pings += 1
            elif isinstance(event, h2.events.ConnectionTerminated):
                self.goaway = event
        # A server that hangs up takes nothing more, but what it said before is still to be read.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.flush()

    def until(self, *streams: int, seconds: float = 60) -> list[Answer]:
        """The answers to these, when all have ended."""
        deadline = time.monotonic() + seconds
        while not all(self.answers[stream].ended for stream in streams):
            assert time.monotonic() < deadline, f"no end of {streams}: {dict(self.answers)}"
            assert not self.closed, f"hung up: {self.goaway}"
            self.read()
        return [self.answers[stream] for stream in streams]
