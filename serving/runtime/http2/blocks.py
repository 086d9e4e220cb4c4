"""Header blocks that are like one before but for an id, a trace or a deadline.

C-core and most other clients send these as literals that no table keeps. What stands around the values is
compared by its bytes; only the values are read anew, in a tenth of the time. That is exact: a block is read
from left to right, so with the same table equal bytes up to a value are read equally, and those after it too.
"""

from __future__ import annotations

import re

from serving.runtime.http2.hpack import ENTRY_OVERHEAD, plain_literals
from serving.runtime.http2.request import RequestHead

NAMES = (b"grpc-timeout", b"x-request-id", b"traceparent")
"""Whose values may change with every call."""
_LONGEST = 0x7E
"""Of a value: its length is one byte, which says that it is not in Huffman's code."""
_FIELD = re.compile(
    rb"\0(?:\x0c(?=grpc-timeout|x-request-id)|\x0b(?=traceparent))(%b)[\0-\x7e]" % b"|".join(NAMES)
)
_KEPT = 32

_Rest = tuple[bytes, ...]


class Blocks:
    """Of one connection, for as long as its table stays."""

    __slots__ = ("_known", "_seen")

    def __init__(self) -> None:
        self._known: dict[_Rest, tuple[RequestHead, list[int]]] = {}
        """The head of the first such block, and where in its headers the values stand."""
        self._seen: set[_Rest] = set()
        """Learning takes as long as ten calls; what comes only once is not learnt."""

    def clear(self) -> None:
        self._known.clear()
        self._seen.clear()

    def find(self, block: bytes) -> RequestHead | None:
        """The head that the block means; raises MalformedRequest for a value that is none."""
        rest, values, _ = _cut(block)
        known = self._known.get(rest)
        return None if known is None else known[0].with_values(known[1], values)

    def learn(self, block: bytes, head: RequestHead, room: int) -> None:
        """A block that was read without a change of the table; `room`: bytes that its headers may have."""
        rest, values, fields = _cut(block)
        if not values:
            return
        if rest not in self._seen:
            if len(self._seen) >= _KEPT:
                self._seen.clear()
            self._seen.add(rest)
            return
        names = [name for name, _ in head.headers]
        size = sum([len(name) + len(value) + ENTRY_OVERHEAD for name, value in (*head.key, *head.headers)])
        # What looks like such a field must be one, and the only one of its name.
        if (
            fields.keys() <= plain_literals(block)
            and all(names.count(name) == 1 for name in fields.values())
            and size + _LONGEST * len(values) <= room
        ):
            if len(self._known) >= _KEPT:
                self._known.clear()
            self._known[rest] = (head, [names.index(name) for name in fields.values()])


def _cut(block: bytes) -> tuple[_Rest, list[bytes], dict[int, bytes]]:
    """What stands around the values; the values; the names of their fields by where they seem to begin."""
    rest, values, fields = [], [], {}
    position = 0
    while (match := _FIELD.search(block, position)) is not None:
        start = match.end()
        rest.append(block[position : start - 1])
        position = start + block[start - 1]
        values.append(block[start:position])
        fields[match.start()] = match[1]
    if position > len(block):
        return (), [], {}
    rest.append(block[position:])
    return tuple(rest), values, fields
