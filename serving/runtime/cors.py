"""Requests from web pages of other origins (CORS, in the Fetch standard), for origins that are named."""

from __future__ import annotations

import re

from serving.runtime.http1 import Head
from slipway.errors import SettingsError

_ORIGIN = re.compile(r"\*|https?://[^/\s,?#@]+")
ALLOWED_HEADERS = (
    "content-type, authorization, inference-header-content-length, x-request-id, traceparent, tracestate"
)
EXPOSED_HEADERS = (
    "inference-header-content-length, retry-after, traceparent, x-request-id, x-slipway-feature-service, "
    "x-slipway-model-digest, x-slipway-run-id, x-slipway-snapshot"
)
MAX_AGE = 7200
"""Seconds that a browser may keep a permission; what Chromium allows at most."""


class Cors:
    def __init__(self, setting: str) -> None:
        """`setting`: origins with commas between them, or *."""
        self.origins = [origin.strip().rstrip("/") for origin in setting.split(",") if origin.strip()]
        for origin in self.origins:
            if not _ORIGIN.fullmatch(origin):
                raise SettingsError(
                    f"{origin!r} is no origin",
                    where="--cors-origin",
                    fix="write https://host or https://host:port, with commas between several, or *",
                )

    def lines(self, head: Head) -> bytes:
        """Header lines for whatever answers this request; empty for a page that may not read it."""
        origin = head.headers.get(b"origin", b"").decode("latin-1")
        if not origin:
            return b""
        if "*" in self.origins:
            allowed = b"access-control-allow-origin: *\r\n"
        elif origin in self.origins:
            allowed = f"access-control-allow-origin: {origin}\r\nvary: origin\r\n".encode("latin-1")
        else:
            return b"vary: origin\r\n"
        return allowed + f"access-control-expose-headers: {EXPOSED_HEADERS}\r\n".encode()

    @staticmethod
    def is_preflight(head: Head) -> bool:
        headers = head.headers
        return (
            head.method == "OPTIONS" and b"origin" in headers and b"access-control-request-method" in headers
        )

    @staticmethod
    def permission(methods: tuple[str, ...]) -> bytes:
        """What a preflight is answered beside `lines`."""
        return (
            f"access-control-allow-methods: {', '.join(methods)}\r\n"
            f"access-control-allow-headers: {ALLOWED_HEADERS}\r\n"
            f"access-control-max-age: {MAX_AGE}\r\n"
        ).encode()
