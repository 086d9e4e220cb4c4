"""Ids for requests that came without one: unique over processes, and cheap by the batch."""

from __future__ import annotations

import itertools
import secrets

from serving.runtime.http2 import literal

DIGITS = 3
_LOW_DIGITS = [b"%0*x" % (DIGITS, low) for low in range(16**DIGITS)]
MOST = len(_LOW_DIGITS)
"""Ids that can be had in one go."""


class RequestIds:
    def __init__(self) -> None:
        self._prefix = secrets.token_hex(6).encode() + b"-"
        self._serial = itertools.count()
        self._next_low = MOST
        self._head = b""
        self._header_head = b""

    def new(self) -> str:
        start = self._reserve(1)
        return (self._head + _LOW_DIGITS[start]).decode()

    def new_headers(self, count: int) -> tuple[list[bytes], bytes, int]:
        """As many x-request-id headers, all of one length; what their ids begin with, and the number which
        ends the first of them, in DIGITS hexadecimal digits.

        The low digits are looked up: a fifth of what formatting a number takes.
        """
        start = self._reserve(count)
        head = self._header_head
        return [head + low for low in _LOW_DIGITS[start : start + count]], self._head, start

    def _reserve(self, count: int) -> int:
        if self._next_low + count > MOST:
            self._head = b"%b%07x" % (self._prefix, next(self._serial) & 0xFFFFFFF)
            self._header_head = literal(b"x-request-id", self._head + _LOW_DIGITS[0])[: -len(_LOW_DIGITS[0])]
            self._next_low = 0
        start = self._next_low
        self._next_low += count
        return start
