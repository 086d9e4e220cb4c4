"""One JSON line a request on standard error, for those who ask for it; over REST and gRPC.

The loop only appends to a list; a thread makes lines of it five times a second. When nobody
reads standard error, lines are dropped and counted, and requests go on.
"""

from __future__ import annotations

import threading
import time
from time import perf_counter

import msgspec

from serving.runtime.http1 import Exchange
from serving.runtime.logs import Writer
from serving.runtime.metrics import Lines

FLUSH_SECONDS = 0.2
MAX_PENDING = 65536
_encode = msgspec.json.Encoder().encode_lines


class Line(msgspec.Struct, omit_defaults=True):
    time: str
    level: str
    logger: str
    message: str
    microseconds: int
    status: int = 0
    """Of HTTP; gRPC's calls have a status by name."""
    grpc_status: str = ""
    request_id: str = ""
    trace_id: str = ""
    model: str = ""
    version: str = ""


class Access(msgspec.Struct):
    """What the loop leaves for the thread."""

    arrived: float
    answered: float
    message: str
    status: int
    request_id: str
    trace_id: str
    model: str
    version: str
    grpc_status: str = ""


class AccessLog:
    def __init__(self, writer: Writer) -> None:
        self.dropped = 0
        self._writer = writer
        self._pending: list[Access] = []
        # Lines carry wall time, measurements are taken on the monotonic clock.
        self._offset = time.time() - perf_counter()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="access-log", daemon=True)
        self._thread.start()

    def answered(self, exchange: Exchange, data: bytes) -> None:
        """`data` answers the exchange and is about to leave."""
        head = exchange.head
        at = data.find(b"x-request-id: ", 0, data.find(b"\r\n\r\n"))
        identity = data[at + 14 : data.find(b"\r", at)].decode("latin-1") if at >= 0 else head.request_id
        model, version = (*head.arguments, "", "")[:2]
        self.add(
            Access(
                exchange.arrived,
                perf_counter(),
                f"{head.method} {head.target.decode('latin-1')}" if head.method else "not a request",
                int(data[9:12]),
                identity,
                head.trace.trace_id if head.trace is not None else "",
                model,
                version,
            )
        )

    def add(self, access: Access) -> None:
        if len(self._pending) >= MAX_PENDING:
            self.dropped += 1
        else:
            self._pending.append(access)

    def expose(self, lines: Lines) -> None:
        lines.family("slipway_access_log_dropped_total", "counter", "access log lines that nobody took")
        lines.sample("slipway_access_log_dropped_total", {}, self.dropped)

    def close(self, seconds: float) -> None:
        """Hand over what is left."""
        self._stop.set()
        self._thread.join(seconds)

    def _run(self) -> None:
        while not self._stop.wait(FLUSH_SECONDS):
            self._flush()
        self._flush()

    def _flush(self) -> None:
        taken, self._pending = self._pending, []
        if self._writer.full:
            self.dropped += len(taken)
        elif taken:
            self._writer.write(_encode([self._line(access) for access in taken]))

    def _line(self, access: Access) -> Line:
        wall = access.answered + self._offset
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(wall))
        return Line(
            f"{stamp}.{int(wall % 1 * 1000):03d}Z",
            "info",
            "slipway.access",
            access.message,
            round((access.answered - access.arrived) * 1e6),
            access.status,
            access.grpc_status,
            access.request_id,
            access.trace_id,
            access.model,
            access.version,
        )
