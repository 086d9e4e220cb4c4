"""Servers as processes of their own: free ports, a wait until they answer, an end that is certain."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from slipway.local.ports import is_free
from tests.support.peers import Peer, Ports

# Between the ports of embedded platforms (slipway.local.ports) and those that a system gives to outgoing
# connections: one of these that was free a moment ago may be anybody's when the server comes to take it. Each
# worker of a session has a share, and goes round in it.
_FIRST, _SHARES, _SHARE = 23_000, 16, 437
_mine = _FIRST + int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % _SHARES * _SHARE
_begin = random.Random().randrange(_SHARE)
_round = (_mine + (_begin + step) % _SHARE for step in itertools.count())


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago, and that nobody here was given lately."""
    return list(itertools.islice(filter(is_free, _round), count))


@contextlib.contextmanager
def closed_port() -> Iterator[int]:
    """A port on which nobody listens, and nobody can begin to."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def get(port: int, path: str, timeout: float = 2.0) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    finally:
        connection.close()


def wait_ready(
    process: subprocess.Popen[bytes], port: int, path: str, log: Path, seconds: float = 60, step: float = 0.05
) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with {process.returncode}:\n{log.read_text()[-3000:]}")
        with contextlib.suppress(OSError, http.client.HTTPException):
            if get(port, path) == 200:
                return
        time.sleep(step)
    raise RuntimeError(f"no answer at {path} for {seconds} s:\n{log.read_text()[-3000:]}")


def stop(process: subprocess.Popen[bytes], seconds: float = 10) -> int:
    """End the process and its children: asked first, then made to."""
    try:
        children = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        children = []
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(seconds)
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    return int(process.returncode)


def _tree(pid: int) -> list[psutil.Process]:
    parent = psutil.Process(pid)
    return [parent, *parent.children(recursive=True)]


def cpu_seconds(pid: int) -> float:
    """CPU time of the tree by the scheduler's nanoseconds: the usual counters tick in 10 ms."""
    total = 0
    for process in _tree(pid):
        for thread in Path(f"/proc/{process.pid}/task").glob("*/schedstat"):
            with contextlib.suppress(OSError):
                total += int(thread.read_text().split()[0])
    return total / 1e9


def resident_bytes(pid: int) -> int:
    """Memory of the process tree: what each process has alone, and the largest shared part once."""
    private, shared = 0, [0]
    for process in _tree(pid):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            memory = process.memory_full_info()
            private += memory.uss
            shared.append(memory.rss - memory.uss)
    return private + max(shared)


@contextlib.contextmanager
def running_peer(peer: Peer, models: Path, scratch: Path) -> Iterator[tuple[subprocess.Popen[bytes], Ports]]:
    scratch.mkdir(parents=True, exist_ok=True)
    ports = Ports(*free_ports(3))
    log = scratch / "server.log"
    process = peer.start(models.resolve(), scratch, ports, log)
    try:
        wait_ready(process, ports.http, peer.ready, log, seconds=90, step=0.2)
        yield process, ports
    finally:
        stop(process)
