"""Requests that differ from those before in one stretch of their body alone.

A client sends the same bytes around its tensors again and again. One C call then compares and cuts each
further request, where going frame by frame takes 10 us: a `struct` where HEADERS and DATA stand next to each
other, an expression where C-core (grpcio) puts a window update between them and one behind. It is exact:
every byte is either compared or handed on.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from struct import Struct
from typing import Any

from serving.runtime.http2 import codes
from serving.runtime.http2.codes import FRAME

WINDOW_BYTES = 13
LONGEST = 512
"""Bytes that are the same: compiling takes 3 us each, once for many requests."""
_KEPT = 256

_escape = re.escape
_STREAM_WINDOW = _escape(FRAME.pack(4 << 8 | codes.WINDOW_UPDATE, 0, 0)[:5])
_TAKEN_WINDOW = rb"(?:" + _STREAM_WINDOW + rb"\1(.{4}))?"
_WHOLE_WINDOW = rb"(?:" + _STREAM_WINDOW + rb"\0\0\0\0(.{4}))?"

Row = tuple[bytes, bytes, bytes, bytes]
"""Stream, increment of its window, the stretch, increment of the connection's window; both may be empty."""


Found = tuple[int, Any, int, bytes]
"""A request of a pattern: stream, RequestHead, what the peer lets us send, the stretch that is its own."""
Take = Callable[[Any, list[Found]], None]
"""Gets the connection and what came together. It makes the streams, and deals with all errors itself."""
TakeRows = Callable[[Any, Any, Sequence[int], Sequence[int], Sequence[bytes]], bool]
"""Gets the connection, the RequestHead of all, the streams, what the peer lets us send on each, and the
stretches. True: it has set the connection's `owed`, which answers them, and they need not be made streams."""

_AT_ONCE = 32
"""Requests that are cut by one `struct`."""


class Pattern:
    """Bodies that are `opening`, a stretch of `size` bytes, and `after`, in one DATA frame."""

    __slots__ = ("after", "body", "bytes", "opening", "size", "tail", "take", "take_rows")

    def __init__(
        self, opening: bytes, size: int, after: bytes, take: Take, take_rows: TakeRows | None
    ) -> None:
        self.opening = opening
        self.size = size
        self.after = after
        self.take = take
        self.take_rows = take_rows
        self.body = len(opening) + size + len(after)
        self.bytes = 9 + self.body
        """Of the DATA frame."""
        self.tail = _compile_tail(opening, size, after)
        """What follows HEADERS: stream and increment of a window update, stream, and as in Row."""


class Usual:
    """A pattern under a header block that comes again byte by byte."""

    __slots__ = ("_row", "_structs", "block", "bytes", "expression", "head", "pattern", "second", "start")

    def __init__(self, head: Any, block: bytes, pattern: Pattern) -> None:
        self.head = head
        self.block = block
        self.pattern = pattern
        self.start = FRAME.pack(len(block) << 8 | codes.HEADERS, codes.END_HEADERS, 0)[:5]
        self.bytes = 9 + len(block) + pattern.bytes
        """Of HEADERS and DATA, without window updates."""
        self.second = block + FRAME.pack(pattern.body << 8 | codes.DATA, codes.END_STREAM, 0)[:5]
        body = f"{len(pattern.opening)}s{pattern.size}s{len(pattern.after)}s"
        self._row = f"5sI{len(self.second)}sI{body}"
        self._structs: dict[int, Struct] = {}
        self.expression = _compile_whole(self.start, block, pattern.opening, pattern.size, pattern.after)

    def begins(self, data: bytes, position: int) -> bool:
        return data.startswith(self.start, position) and data.startswith(self.block, position + 9)

    def plain(self, data: bytes, position: int, most: int, stream_id: int) -> Sequence[bytes]:
        """The stretches of the requests without window updates that stand at `position`, the first of them on
        this stream and each further one on the next: all there are, or none where one of them is different.

        One call and six comparisons for all: 1 us for four, where one after the other takes 4.
        """
        count = min(most, (len(data) - position) // self.bytes, _AT_ONCE)
        if count <= 0 or not data.startswith(self.second, position + FRAME.size):
            return ()
        row = self._structs.get(count)
        if row is None:
            row = self._structs[count] = Struct(">" + self._row * count)
        cells = row.unpack_from(data, position)
        streams = tuple(range(stream_id, stream_id + 2 * count, 2))
        pattern = self.pattern
        if (
            cells[1::7] != streams
            or cells[3::7] != streams
            or cells[2::7] != (self.second,) * count
            or cells[0::7] != (self.start,) * count
            or cells[4::7] != (pattern.opening,) * count
            or cells[6::7] != (pattern.after,) * count
        ):
            return ()
        return cells[5::7]

    def rows(self, data: bytes, position: int) -> list[Row]:
        """The requests of the pattern that follow each other from `position` on."""
        rows: list[Row] = self.expression.findall(data, position)
        increments = sum([len(row[1]) + len(row[3]) for row in rows])
        if len(rows) * self.bytes + increments // 4 * WINDOW_BYTES == len(data) - position:
            return rows
        # Something else stands between them or behind: only what is next to each other counts.
        rows = []
        while (match := self.expression.match(data, position)) is not None:
            rows.append(match.groups(b""))  # type: ignore[arg-type]
            position = match.end()
        return rows


def _data(opening: bytes, size: int, after: bytes, stream: bytes) -> bytes:
    head = FRAME.pack((len(opening) + size + len(after)) << 8 | codes.DATA, codes.END_STREAM, 0)[:5]
    stretch = b"(.{%d})" % size
    return _escape(head) + stream + _escape(opening) + stretch + _escape(after) + _WHOLE_WINDOW


@lru_cache(_KEPT)
def _compile_tail(opening: bytes, size: int, after: bytes) -> re.Pattern[bytes]:
    window = rb"(?:" + _STREAM_WINDOW + rb"(.{4})(.{4}))?"
    return re.compile(window + _data(opening, size, after, rb"(.{4})"), re.DOTALL)


@lru_cache(_KEPT)
def _compile_whole(start: bytes, block: bytes, opening: bytes, size: int, after: bytes) -> re.Pattern[bytes]:
    head = _escape(start) + rb"(.{4})" + _escape(block)
    return re.compile(head + _TAKEN_WINDOW + _data(opening, size, after, rb"\1"), re.DOTALL)
