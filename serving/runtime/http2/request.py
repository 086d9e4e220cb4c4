"""Header validation (RFC 9113, section 8.2 and 8.3)."""

from __future__ import annotations

import re
from typing import Any

from serving.runtime.http2.codes import MalformedRequest
from serving.runtime.http2.hpack import Header
from serving.runtime.http2.patterns import Pattern

_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_plain_value = re.compile(rb"[!-~]+").fullmatch
_PSEUDO = frozenset((b":method", b":scheme", b":path", b":authority"))
_CONNECTION_SPECIFIC = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade")
)


_FIXED = _PSEUDO | {b"content-type", b"content-length", b"te", b"grpc-encoding", b"content-encoding"}
"""What a request is by. All other headers may change from call to call (deadlines, ids, traces)."""
_KNOWN_NAMES = 512

_known_names: set[bytes] = set()
"""Names that have been found right: looking one up takes a tenth of the check."""


class RequestHead:
    """The validated headers of a request. Shared by all requests with the same block: never changed."""

    __slots__ = (
        "authority",
        "base",
        "content_length",
        "headers",
        "key",
        "method",
        "path",
        "pattern",
        "prepared",
    )

    def __init__(self, headers: list[Header]) -> None:
        pseudo: dict[bytes, bytes] = {}
        self.headers: list[Header] = []
        self.content_length: int | None = None
        self.prepared: Any = None
        """The application's own, made once a block."""
        self.pattern: Pattern | None = None
        """Of a base: set by the application when requests come again and again but for a part of the body."""
        self.base = self
        """The first head with the same fixed headers."""
        self.key = fixed_headers(headers)
        for header in headers:
            name, value = header
            if name[:1] == b":":
                if self.headers:
                    raise MalformedRequest(f"{_show(name)} stands after a regular header")
                if name not in _PSEUDO:
                    raise MalformedRequest(f"{_show(name)} is not a pseudo-header of requests")
                if name in pseudo:
                    raise MalformedRequest(f"{_show(name)} stands there twice")
                _check_value(name, value)
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

    def varied(self, headers: list[Header]) -> RequestHead | None:
        """The head of a request with the same fixed headers; None when it has to be looked at as a whole.

        Costs a third of the constructor: what is the same has been checked.
        """
        pseudo = sum([1 for name, _ in self.key if name[:1] == b":"])
        if headers[pseudo - 1] != self.key[pseudo - 1]:
            return None  # a regular header stands before one of those
        head = RequestHead.__new__(RequestHead)
        head.headers = regular = headers[pseudo:]
        for name, value in regular:
            if name not in _FIXED:
                check_field(name, value)
        head.method, head.path, head.authority = self.method, self.path, self.authority
        head.content_length = self.content_length
        head.prepared = head.pattern = None
        head.base, head.key = self, self.key
        return head

    def with_values(self, places: list[int], values: list[bytes]) -> RequestHead:
        """As `varied`, where only these of its regular headers have other values."""
        head = RequestHead.__new__(RequestHead)
        head.headers = regular = self.headers.copy()
        for place, value in zip(places, values, strict=True):
            name = regular[place][0]
            if _plain_value(value) is None:
                _check_value(name, value)
            regular[place] = (name, value)
        head.method, head.path, head.authority = self.method, self.path, self.authority
        head.content_length = self.content_length
        head.prepared = head.pattern = None
        head.base, head.key = self.base, self.key
        return head


def fixed_headers(headers: list[Header]) -> tuple[Header, ...]:
    """In their order: heads with the same ones are made of the first."""
    return tuple([header for header in headers if header[0] in _FIXED])


def check_field(name: bytes, value: bytes) -> None:
    if name in _known_names:
        _check_value(name, value)
        return
    if not _NAME.fullmatch(name):
        raise MalformedRequest(f"{_show(name)} is no header name in lower case")
    if name in _CONNECTION_SPECIFIC:
        raise MalformedRequest(f"{_show(name)} belongs to HTTP/1.1")
    if name == b"te" and value != b"trailers":
        raise MalformedRequest(f"te is {_show(value)}, only trailers may be asked for")
    _check_value(name, value)
    if name != b"te":
        if len(_known_names) >= _KNOWN_NAMES:
            _known_names.clear()
        _known_names.add(name)


def _check_value(name: bytes, value: bytes) -> None:
    """Section 8.2.1: no NUL, CR, LF; no white space at either end."""
    if b"\n" in value or b"\r" in value or b"\0" in value or value.strip(b" \t") != value:
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
