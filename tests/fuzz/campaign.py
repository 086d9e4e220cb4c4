"""One target's inputs: how many, what they cost, how memory grew, and which were the last when it fails.

A failure leaves its last inputs in files, and they can be tried by themselves:
`python -m pytest tests/fuzz -m fuzz -k TARGET --fuzz-replay .fuzz/TARGET`. The seeds are fixed, so the whole
run can be repeated too; `--fuzz-seed` gives others.
"""

from __future__ import annotations

import gc
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

from tests.support.mutate import inputs

GROUP = 16
"""Connections that are fed at the same time: any of them may be what broke it."""
GROWTH = 24 << 20
"""Bytes, after the quarter of the inputs in which caches fill."""


class Campaign:
    def __init__(self, name: str, count: int, replay: Path | None, seed: int = 0) -> None:
        self.name = name
        self.count = count
        self.seen = 0
        self._replay = replay
        self._seed = seed
        self._last: deque[bytes] = deque(maxlen=GROUP)
        self._settled: int | None = None
        self._began = time.process_time()

    def inputs(self, seeds: Sequence[bytes], *, seed: int, share: int = 1) -> Iterator[bytes]:
        """The seeds, then mutations of them; `share`: in how many parts a target asks for its inputs."""
        if self._replay is not None:
            for file in sorted(self._replay.iterdir()):
                yield self._remember(file.read_bytes())
            return
        for sent in inputs(seeds, self.count // share, seed + 1000 * self._seed):
            yield self._remember(sent)

    def _remember(self, sent: bytes) -> bytes:
        self._last.append(sent)
        self.seen += 1
        if self.seen == self.count // 4:
            self._settled = _resident()
        return sent

    def check_growth(self) -> None:
        grown = self.grown
        assert grown < GROWTH, f"{self.name}: {grown >> 20} MiB more after {self.seen} inputs"

    @property
    def grown(self) -> int:
        return 0 if self._settled is None else _resident() - self._settled

    def summary(self) -> str:
        seconds = time.process_time() - self._began
        return (
            f"{self.name}: {self.seen:,} inputs in {seconds:,.0f} s of CPU, {self.grown / (1 << 20):+.1f} MiB"
        )

    def save(self, folder: Path) -> Path:
        """The last inputs, oldest first."""
        target = folder / self.name
        target.mkdir(parents=True, exist_ok=True)
        for old in target.iterdir():
            old.unlink()
        for number, sent in enumerate(self._last):
            (target / f"{number:02}.bin").write_bytes(sent)
        return target


def _resident() -> int:
    gc.collect()
    return int(psutil.Process().memory_info().rss)
