"""W3C trace context, and spans to an OpenTelemetry collector where one is configured.

OTLP over HTTP takes JSON, so no SDK is needed: a thread posts what a bounded queue holds. A collector that
is slow or dead costs spans, never requests. Configured as OpenTelemetry says: OTEL_EXPORTER_OTLP_ENDPOINT
(or …_TRACES_ENDPOINT), OTEL_SERVICE_NAME, OTEL_EXPORTER_OTLP_HEADERS.
"""

from __future__ import annotations

import logging
import os
import random
import re
import threading
import time
from collections import deque
from collections.abc import Mapping
from time import perf_counter
from typing import Any
from urllib.parse import unquote

import msgspec

from serving.runtime.messages import Batch, InferRequest
from serving.runtime.model import Model
from slipway import __version__

log = logging.getLogger("slipway.tracing")

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
MAX_SPANS = 4096
POST_SECONDS = 5.0


class Trace(msgspec.Struct, frozen=True):
    """Where a request stands in its trace: the caller's span, and ours below it."""

    trace_id: str
    parent_id: str
    span_id: str
    flags: str

    @property
    def sampled(self) -> bool:
        return bool(int(self.flags, 16) & 1)

    @property
    def header(self) -> str:
        """What is passed on: the same trace, our span."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags}"


def parse_traceparent(text: str | None) -> Trace | None:
    """None for what is not valid: the specification says to go on as if it had not been sent."""
    if not text:
        return None
    match = _TRACEPARENT.fullmatch(text.strip())
    if match is None:
        return None
    version, trace_id, parent_id, flags, rest = match.groups()
    if version == "ff" or (version == "00" and rest) or not trace_id.strip("0") or not parent_id.strip("0"):
        return None
    # Spans need not be secret; the system's own random bytes cost 1 us more. Workers forked later get others.
    return Trace(trace_id, parent_id, f"{random.getrandbits(64) or 1:016x}", flags)


class Exporter:
    """Posts spans of sampled requests."""

    def __init__(self, url: str, service: str, headers: Mapping[str, str]) -> None:
        self.url = url
        self.headers = {"content-type": "application/json", **headers}
        self.dropped = 0
        self.sent = 0
        self._service = service
        self._queue: deque[dict[str, Any]] = deque(maxlen=MAX_SPANS)
        self._wake = threading.Event()
        self._stop = False
        # Spans carry wall time, measurements are taken on the monotonic clock.
        self._offset = time.time() - perf_counter()
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)
        self._thread.start()

    def observe(self, model: Model, requests: list[InferRequest], batch: Batch) -> None:
        """An observer of the engine: one span a sampled request."""
        now = perf_counter()
        for request in requests:
            trace = request.trace
            if trace is not None and trace.sampled:
                self._add(model, request, batch, now)

    def _add(self, model: Model, request: InferRequest, batch: Batch, now: float) -> None:
        if len(self._queue) == MAX_SPANS:
            self.dropped += 1
        trace = request.trace
        if trace is None:
            return
        attributes: dict[str, Any] = {
            "slipway.model": model.name,
            "slipway.version": model.version,
            "slipway.digest": model.digest,
            "slipway.request_id": request.request_id,
            "slipway.rows": request.rows,
            "slipway.batch_rows": batch.rows,
            "slipway.queue_ms": round((batch.started - request.submitted) * 1000, 3),
            "slipway.run_ms": round(batch.ran * 1000, 3),
        }
        self._queue.append(
            {
                "traceId": trace.trace_id,
                "spanId": trace.span_id,
                "parentSpanId": trace.parent_id,
                "name": f"infer {model.name}",
                "kind": 2,
                "startTimeUnixNano": str(int((request.arrived + self._offset) * 1e9)),
                "endTimeUnixNano": str(int((now + self._offset) * 1e9)),
                "attributes": [{"key": key, "value": _value(value)} for key, value in attributes.items()],
            }
        )
        if len(self._queue) >= MAX_SPANS // 4:
            self._wake.set()

    def close(self, seconds: float) -> None:
        """Send what is left, within the bound of one post."""
        self._stop = True
        self._wake.set()
        self._thread.join(min(seconds, POST_SECONDS + 1))

    def _run(self) -> None:
        while not self._stop:
            self._wake.wait(1.0)
            self._wake.clear()
            while self._queue:
                spans = [self._queue.popleft() for _ in range(min(512, len(self._queue)))]
                if not self._post(spans):
                    self.dropped += len(spans)
                    break

    def _post(self, spans: list[dict[str, Any]]) -> bool:
        resource = {
            "attributes": [
                {"key": "service.name", "value": {"stringValue": self._service}},
                {"key": "service.version", "value": {"stringValue": __version__}},
            ]
        }
        scope = {"scope": {"name": "slipway.runtime"}, "spans": spans}
        body = msgspec.json.encode({"resourceSpans": [{"resource": resource, "scopeSpans": [scope]}]})
        import urllib.request  # 40 ms with all that it imports, which a server without a collector saves

        request = urllib.request.Request(self.url, body, self.headers, method="POST")  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=POST_SECONDS):  # noqa: S310 - scheme checked at start
                self.sent += len(spans)
                return True
        except OSError as error:
            log.warning("spans are lost, the collector does not take them: %s", error)
            return False


def _value(value: Any) -> dict[str, Any]:
    if isinstance(value, int):
        return {"intValue": str(value)}
    return {"doubleValue": value} if isinstance(value, float) else {"stringValue": str(value)}


def exporter_from(environment: Mapping[str, str] | None = None) -> Exporter | None:
    environ = os.environ if environment is None else environment
    url = environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    base = environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    if not url and base:
        url = base.rstrip("/") + "/v1/traces"
    if not url or not url.startswith(("http://", "https://")):
        return None
    headers = {}
    for pair in environ.get("OTEL_EXPORTER_OTLP_HEADERS", "").split(","):
        name, equals, value = pair.partition("=")
        if equals:
            headers[name.strip()] = unquote(value.strip())
    return Exporter(url, environ.get("OTEL_SERVICE_NAME", "slipway-runtime"), headers)
