"""The servers' logs: the last lines, following, and a bound on their size."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

LIMIT = 16 * 2**20
"""A log that is larger when its server starts is put aside; one older log is kept."""
_BLOCK = 64 * 1024


def rotate(log: Path) -> None:
    if log.exists() and log.stat().st_size > LIMIT:
        log.replace(log.with_name(f"{log.name}.1"))


def last_lines(log: Path, count: int, *, end: int | None = None) -> list[str]:
    """The last lines of a log, or of what it held up to `end`; none when there is no log."""
    if count <= 0 or not log.exists():
        return []
    with log.open("rb") as file:
        position = file.seek(0, os.SEEK_END) if end is None else end
        tail = b""
        while position and tail.count(b"\n") <= count:
            step = min(_BLOCK, position)
            position = file.seek(position - step)
            tail = file.read(step) + tail
    return tail.decode(errors="replace").splitlines()[-count:]


class Follower:
    """Whole lines of one log: the last ones, and those after; also when it is put aside for a new one."""

    def __init__(self, log: Path) -> None:
        self._log = log
        found = log.stat() if log.exists() else None
        self._position = found.st_size if found else 0
        self._inode = found.st_ino if found else None
        self._rest = b""

    def last_lines(self, count: int) -> list[str]:
        """Those from before it began to follow: between them and the new ones none is lost or doubled."""
        return last_lines(self._log, count, end=self._position)

    def new_lines(self) -> list[str]:
        try:
            file = self._log.open("rb")
        except FileNotFoundError:
            return []
        with file:
            found = os.fstat(file.fileno())
            if found.st_ino != self._inode or found.st_size < self._position:
                self._inode, self._position, self._rest = found.st_ino, 0, b""
            file.seek(self._position)
            block = file.read()
        self._position += len(block)
        *lines, self._rest = (self._rest + block).split(b"\n")
        return [line.decode(errors="replace") for line in lines]


def follow(followers: Mapping[str, Follower], *, poll: float = 0.2) -> Iterator[tuple[str, str]]:
    """Name and line of what is written to these logs from now on, for ever."""
    while True:
        for name, follower in followers.items():
            for line in follower.new_lines():
                yield name, line
        time.sleep(poll)
