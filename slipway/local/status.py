"""What `status` answers, as types; and how it measures."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import msgspec

ServerState = Literal["healthy", "unhealthy", "stopped"]


class ServerStatus(msgspec.Struct, frozen=True):
    name: str
    software: str
    state: ServerState
    ports: dict[str, int]
    endpoint: str | None
    size_bytes: int
    """What its data takes on the disk."""
    log: str
    version: str | None = None
    pid: int | None = None
    uptime_seconds: float | None = None
    memory_bytes: int | None = None
    problem: str | None = None


class TrackingStatus(msgspec.Struct, frozen=True):
    """Tracking is a database in a file; no server runs for it."""

    uri: str
    size_bytes: int


class PlatformStatus(msgspec.Struct, frozen=True):
    home: str
    up: bool
    """Every server answered a real request just now."""
    servers: tuple[ServerStatus, ...]
    tracking: TrackingStatus
    bucket: str
    disk_free_bytes: int
    slipway_version: str


def size_on_disk(path: Path) -> int:
    """Bytes of blocks in use, below a folder or of a file; what vanishes meanwhile counts as nothing."""
    try:
        if not path.is_dir():
            return path.stat().st_blocks * 512
        with os.scandir(path) as entries:
            return sum(size_on_disk(Path(entry.path)) for entry in entries if not entry.is_symlink())
    except OSError:
        return 0
