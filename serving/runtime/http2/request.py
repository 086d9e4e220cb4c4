"""Header validation (RFC 9113, section 8.2 and 8.3)."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from serving.runtime.http2.codes import MalformedRequest
from serving.runtime.http2.hpack import Header

_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
# Section 8.2.1: no NUL, CR, LF; no white space at either end.
_BAD_VALUE = re.compile(rb"[\x00\r\n]|\A[ \t]|[ \t]\Z")
_PSEUDO = frozenset((b":method", b":scheme", b":path", b":authority"))
_CONNECTION_SPECIFIC = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade")
)


class Pattern:
    """Requests that differ from one that was read in their stream and in one stretch of their body alone.

    The connection compares all the rest in one step for each, and hands over what is new. 2 us a request,
    where going frame by frame takes 10.
    """

    __slots__ = ("after", "opening", "size", "take")

    def __init__(self, opening: bytes, size: int, after: bytes, take: Take) -> None:
        self.opening = opening
        self.size = size
        """Of the stretch between `opening` and `after`."""
        self.after = after
        self.take = take


Take = Callable[[Any, "RequestHead", int, list[bytes]], None]
"""Gets connection, head, the first stream, and the stretches of it and the streams that follow, each two
higher. It makes the streams, and deals with all errors itself."""


class RequestHead:
    """The validated headers of a request. Shared by all requests with the same block: never changed."""

    __slots__ = ("authority", "content_length", "headers", "method", "path", "pattern", "prepared")

    def __init__(self, headers: list[Header]) -> None:
        pseudo: dict[bytes, bytes] = {}
        self.headers: list[Header] = []
        self.content_length: int | None = None
        self.prepared: Any = None
        """The application's own, made once a block."""
        self.pattern: Pattern | None = None
        """Set by the application when it has seen a request that will come again but for a part of it."""
        for header in headers:
            name, value = header
            if name[:1] == b":":
                if self.headers:
                    raise MalformedRequest(f"{_show(name)} stands after a regular header")
                if name not in _PSEUDO:
                    raise MalformedRequest(f"{_show(name)} is not a pseudo-header of requests")
                if name in pseudo:
                    raise MalformedRequest(f"{_show(name)} stands there twice")
                if _BAD_VALUE.search(value):
                    raise MalformedRequest(f"{_show(name)} has a character that is not allowed")
                pseudo[name] = value
                continue
            check_field(name, value)
            if name == b"content-length":
                length = int(value) if value.isdigit() and len(value) < 19 else -1
                if length < 0 or self.content_length not in (None, length):
                    raise MalformedRequest(f"content-length is {_show(value)}")
                self.content_length = length
            self.headers.append(header)
        self.method = pseudo.get(b":method", b"")
        self.path = pseudo.get(b":path", b"")
        self.authority = pseudo.get(b":authority", b"")
        if not self.method:
            raise MalformedRequest(":method is missing")
        if self.method == b"CONNECT":
            raise MalformedRequest("CONNECT is for proxies")
        if not pseudo.get(b":scheme"):
            raise MalformedRequest(":scheme is missing")
        if not self.path.startswith(b"/") and not (self.path == b"*" and self.method == b"OPTIONS"):
            raise MalformedRequest(":path is missing or does not begin with a slash")


def check_field(name: bytes, value: bytes) -> None:
    if not _NAME.fullmatch(name):
        raise MalformedRequest(f"{_show(name)} is no header name in lower case")
    if name in _CONNECTION_SPECIFIC:
        raise MalformedRequest(f"{_show(name)} belongs to HTTP/1.1")
    if name == b"te" and value != b"trailers":
        raise MalformedRequest(f"te is {_show(value)}, only trailers may be asked for")
    if _BAD_VALUE.search(value):
        raise MalformedRequest(f"{_show(name)} has a character that is not allowed")


def check_trailers(headers: list[Header], ended: bool) -> None:
    if not ended:
        raise MalformedRequest("trailers do not end the stream")
    for name, value in headers:
        if name[:1] == b":":
            raise MalformedRequest(f"{_show(name)} stands in trailers")
        check_field(name, value)


def _show(text: bytes) -> str:
    return repr(text[:80])[1:]
