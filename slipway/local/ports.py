"""Ports of the embedded servers: the same after every restart, on 127.0.0.1, never one that is taken."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path

HOST = "127.0.0.1"
TWIN = 10_000
"""How far above its port the S3 server's admin part looks for its gRPC port, whatever it was told."""
# With their twins, below the range from which systems give outgoing connections their ports (Linux: 32768).
_FIRST, _LAST = 20_000, 22_767


def is_free(port: int) -> bool:
    """Whether a server could listen there now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As the servers do: connections that are still closing do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def choose(
    home: Path, names: Iterable[str], wanted: Mapping[str, int], avoid: Iterable[int] = ()
) -> dict[str, int]:
    """A port for every name: the wanted one while it is free, else the next free one.

    The search begins at a place that follows from the folder's path: two platforms seldom meet, and one
    whose state was lost finds its old ports again.
    """
    digest = hashlib.sha256(str(home.resolve()).encode()).digest()
    span = _LAST - _FIRST + 1
    start = int.from_bytes(digest[:4], "big") % span
    candidates = (_FIRST + (start + step) % span for step in range(span))
    used = set(avoid)
    chosen: dict[str, int] = {}
    missing = []
    for name in names:
        port = wanted.get(name)
        if port is not None and port not in used and is_free(port) and is_free(port + TWIN):
            chosen[name] = port
            used.add(port)
        else:
            missing.append(name)
    for name in missing:
        chosen[name] = next(
            port for port in candidates if port not in used and is_free(port) and is_free(port + TWIN)
        )
        used.add(chosen[name])
    return chosen
