"""Structured logs: one JSON object a line on standard error."""

from __future__ import annotations

import logging
import os
import threading
import time
from queue import SimpleQueue

import msgspec

MAX_PENDING = 1024
"""Writes that may wait for their reader."""
_FIELDS = ("request_id", "trace_id", "model", "version", "status", "kind", "path", "milliseconds")


class JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        for field in _FIELDS:
            value = record.__dict__.get(field)
            if value not in (None, ""):
                line[field] = value
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line, enc_hook=str).decode()


class Writer:
    """Writes to a descriptor from a thread: a pipe that nobody reads must not stop the loop."""

    def __init__(self, descriptor: int = 2) -> None:
        self._descriptor = descriptor
        self._queue: SimpleQueue[bytes | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    @property
    def full(self) -> bool:
        return self._queue.qsize() >= MAX_PENDING

    def write(self, lines: bytes) -> None:
        """Dropped when too many wait already."""
        if not self.full:
            self._queue.put(lines)

    def close(self, seconds: float = 1.0) -> None:
        """Write what is left, as far as somebody reads it."""
        self._queue.put(None)
        self._thread.join(seconds)

    def _run(self) -> None:
        while (lines := self._queue.get()) is not None:
            rest = memoryview(lines)
            while rest:
                try:
                    rest = rest[os.write(self._descriptor, rest) :]
                except BlockingIOError:
                    time.sleep(0.01)
                except OSError:
                    break  # the reader is gone; so may be the next line's, or not


class _Handler(logging.Handler):
    def __init__(self, writer: Writer) -> None:
        super().__init__()
        self.setFormatter(JsonFormatter())
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._writer.write(self.format(record).encode() + b"\n")
        except Exception:
            self.handleError(record)


def configure(level: str) -> Writer:
    """What comes back is closed at the end."""
    writer = Writer()
    root = logging.getLogger("slipway")
    root.handlers[:] = [_Handler(writer)]
    root.setLevel(level.upper())
    root.propagate = False
    return writer
