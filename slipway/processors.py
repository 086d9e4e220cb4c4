"""How many processors this process may use: what it was given, or less where its container has a quota."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def processors(root: Path = Path("/")) -> int:
    """The affinity mask, or the tightest quota of its control groups, rounded up; at least 1."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    whole = [-(-quota // period) for quota, period in _quotas(root) if quota > 0 and period > 0]
    return max(1, min([available, *whole]))


def _quotas(root: Path) -> Iterator[tuple[int, int]]:
    """Microseconds in every so many: of the group and of all that it is in. In a container there is one, the
    root of what it sees; a service of systemd lies deeper.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        lines = []
    paths = {kind: path for _, kind, path in (line.split(":", 2) for line in lines if line.count(":") > 1)}
    base = root / "sys/fs/cgroup"
    for group in _upwards(base, paths.get("", "/")):
        yield from _read(group, ("cpu.max",))
    old = next((kind for kind in paths if "cpu" in kind.split(",")), "cpu")
    for folder in (old, "cpu"):
        for group in _upwards(base / folder, paths.get(old, "/")):
            yield from _read(group, ("cpu.cfs_quota_us", "cpu.cfs_period_us"))


def _upwards(base: Path, path: str) -> Iterator[Path]:
    """From the group to the root. What is not there lies outside of what a container sees."""
    group = base / path.strip("/")
    while group != base and base in group.parents:
        yield group
        group = group.parent
    yield base


def _read(group: Path, names: tuple[str, ...]) -> Iterator[tuple[int, int]]:
    try:
        words = [word for name in names for word in (group / name).read_text().split()]
        quota, period = words
        yield int(quota), int(period)
    except (OSError, ValueError):
        return  # there is none, or it is "max"
