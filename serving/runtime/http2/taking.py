"""Requests of a known pattern, taken in one step each where they stand in what came in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from serving.runtime.http2 import codes
from serving.runtime.http2.codes import FRAME, WORD, ErrorCode
from serving.runtime.http2.control import Control
from serving.runtime.http2.limits import Limits
from serving.runtime.http2.patterns import LONGEST, WINDOW_BYTES, Found, Pattern, Take, TakeRows, Usual
from serving.runtime.http2.request import RequestHead

_word = WORD.unpack


class Taking(Control):
    """Two ways: HEADERS and DATA by one expression where the header block is that of the request before, DATA
    alone where an id, a trace or a deadline of the call's own is in the block. What is found is gathered and
    handed over once, before anything else happens on the connection."""

    __slots__ = ("_block_before", "_consumed", "_continuing", "_found", "_found_pattern", "_usual", "owed")

    def __init__(self, limits: Limits, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(limits, loop)
        self._consumed = 0
        """Received on the connection since we last returned credit."""
        self._continuing = False
        self._usual: Usual | None = None
        self._block_before = b""
        self._found: list[Found] = []
        self._found_pattern: Pattern | None = None
        self.owed: Callable[[], None] | None = None
        """Answers requests that are no streams; called before anything else happens on the connection."""

    def close(self) -> None:
        self._answer_owed()
        super().close()

    def fail(self, code: ErrorCode, reason: str) -> None:
        self._answer_owed()
        super().fail(code, reason)

    def _answer_owed(self) -> None:
        if self.owed is not None:
            self.owed()

    def _take_usual(self, usual: Usual, data: bytes, position: int) -> int:
        """Take the requests of the usual pattern; the answer is where the first other frame begins."""
        limits, pattern, head = self.limits, usual.pattern, usual.head
        size, initial_window = pattern.body, self.initial_window
        room = limits.concurrent_streams - len(self.streams) - len(self._found)
        credit = limits.connection_window // 2 - self._consumed
        if self._continuing or self._drained_above != codes.LARGEST_STREAM_ID:
            return position
        if self._found_pattern is not pattern:
            self._hand_over()
            self._found_pattern = pattern
        if room > 0 and credit >= size:
            beyond = self._take_plain(usual, data, position, min(room, credit // size))
            if beyond > position:
                return beyond
        if not usual.begins(data, position):
            return position
        whole_increments = updates = 0
        stream_id = self._last_id + 2
        found = self._found
        before = len(found)
        number = int.from_bytes
        for its_id, increment, part, whole_increment in usual.rows(data, position):
            credit -= size
            room -= 1
            if number(its_id, "big") != stream_id or room < 0 or credit < 0:
                break
            window = initial_window
            if increment:
                window += number(increment, "big")
                if not initial_window < window <= codes.LARGEST_WINDOW:
                    break
                updates += 1
            if whole_increment:
                grown = whole_increments + number(whole_increment, "big")
                if whole_increments < grown <= codes.LARGEST_WINDOW - self._window:
                    whole_increments = grown
                    updates += 1
                else:
                    room = 0  # a fault, which is told as such when its frame is come to
            found.append((stream_id, head, window, part))
            stream_id += 2
        taken = len(found) - before
        beyond = position + usual.bytes * taken + WINDOW_BYTES * updates
        self._last_id = stream_id - 2
        self._consumed += size * taken
        if updates:
            self._annoy(updates)
        if whole_increments:
            self._window += whole_increments
            if self._blocked:
                self._pump()
        if (
            taken
            and not before
            and pattern.take_rows is not None
            and len(data) - beyond < FRAME.size
            and pattern.take_rows(
                self, head, [one[0] for one in found], [one[2] for one in found], [one[3] for one in found]
            )
        ):
            found.clear()
        return beyond

    def _take_plain(self, usual: Usual, data: bytes, position: int, most: int) -> int:
        """Those without window updates."""
        whole, head, pattern = usual.bytes, usual.head, usual.pattern
        stream_id = self._last_id + 2
        while most > 0 and len(data) - position >= whole:
            parts = usual.plain(data, position, most, stream_id)
            if not parts:
                # One of them is different, and maybe not the first.
                parts = usual.plain(data, position, 1, stream_id)
                if not parts:
                    break
            count = len(parts)
            position += whole * count
            most -= count
            beyond = stream_id + 2 * count
            streams = range(stream_id, beyond, 2)
            self._last_id = beyond - 2
            self._consumed += pattern.body * count
            window = self.initial_window
            # With less than a frame's head behind them nothing else happens before the next read.
            if (
                self._found
                or pattern.take_rows is None
                or len(data) - position >= FRAME.size
                or not pattern.take_rows(self, head, streams, (window,) * count, parts)
            ):
                self._found += [(own, head, window, part) for own, part in zip(streams, parts, strict=True)]
            stream_id = beyond
        return position

    def _take_body(
        self, pattern: Pattern, head: RequestHead, stream_id: int, data: bytes, position: int
    ) -> int:
        """Take the body that stands at `position` if it is of the pattern; the answer is where it ends."""
        match = pattern.tail.match(data, position)
        if match is None:
            return position
        window_of, increment, its_id, part, whole_increment = match.groups()
        window = self.initial_window
        if window_of is not None:
            window += _word(increment)[0]
            if window_of != its_id or not self.initial_window < window <= codes.LARGEST_WINDOW:
                return position
        if (
            int.from_bytes(its_id, "big") != stream_id
            or self._consumed + pattern.body > self.limits.connection_window // 2
        ):
            return position
        position = match.end()
        if window_of is not None:
            self._annoy(1)
        if whole_increment is not None:
            position -= WINDOW_BYTES  # taken as every other one
        if self._found_pattern is not pattern:
            self._hand_over()
            self._found_pattern = pattern
        self._consumed += pattern.body
        self._found.append((stream_id, head, window, part))
        return position

    def _hand_over(self) -> None:
        """Give the application what was found, before anything else happens to it."""
        if self._found and self._found_pattern is not None:
            found, self._found = self._found, []
            self._found_pattern.take(self, found)

    def _learn_usual(self, head: RequestHead, block: bytes) -> None:
        """A block that comes twice in a row is waited for."""
        pattern, usual = head.base.pattern, self._usual
        if block != self._block_before:
            self._block_before = block
        elif pattern is not None and (usual is None or usual.pattern is not pattern or usual.block != block):
            self._usual = Usual(head, block, pattern) if len(block) <= LONGEST else None

    # What the application calls

    def expect(
        self,
        head: RequestHead,
        opening: bytes,
        size: int,
        after: bytes,
        take: Take,
        take_rows: TakeRows | None = None,
    ) -> None:
        """Requests with these fixed headers are of a pattern: let `take` have them, where they are; or
        `take_rows`, where nothing came behind them."""
        body = len(opening) + size + len(after)
        if (
            body <= min(self.limits.frame_size, self.limits.stream_window)
            and len(opening) + len(after) <= LONGEST
            and head.content_length is None
        ):
            head.base.pattern = Pattern(opening, size, after, take, take_rows)

    def forget_pattern(self, head: RequestHead) -> None:
        """It does not hold any more."""
        head.base.pattern = None
        self._usual = None
