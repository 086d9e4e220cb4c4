"""How soon a server answers after it is started, what memory it takes, and how large its packages are."""

from __future__ import annotations

import contextlib
import http.client
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from tests.benchmarks._scenarios import SCENARIOS
from tests.conformance.target import json_tensor
from tests.support.models import zoo
from tests.support.peers import Peer, Ports
from tests.support.process import free_ports, resident_bytes, stop

STARTS = 5
_SCENARIO = SCENARIOS["json-16"]


def footprint_table(servers: list[Peer]) -> str:
    lines = [
        f"### Start, memory, size (GB-30; {STARTS} starts)",
        "",
        "| server | exec to first answer, s | resident after load, MB | installed, MB |",
        "| --- | ---: | ---: | ---: |",
    ]
    with tempfile.TemporaryDirectory() as scratch:
        models = _SCENARIO.write(Path(scratch) / "models")
        starts: dict[str, list[float]] = {peer.name: [] for peer in servers}
        resident: dict[str, int] = {}
        for number in range(STARTS):
            for peer in servers:
                folder = Path(scratch) / f"{peer.name}-{number}"
                folder.mkdir()
                seconds, memory = _start(peer, models, folder, load=number == STARTS - 1)
                starts[peer.name].append(seconds)
                resident[peer.name] = memory
    for peer in servers:
        lines.append(
            f"| {peer.title} | {statistics.median(starts[peer.name]):.2f} "
            f"| {resident[peer.name] / 1e6:.0f} | {installed_bytes(peer) / 1e6:.0f} |"
        )
    return "\n".join(lines)


def _start(peer: Peer, models: Path, folder: Path, load: bool) -> tuple[float, int]:
    ports = Ports(*free_ports(3))
    inputs = zoo()["boosted30"].sample(np.random.default_rng(1), 1)
    body = json.dumps({"inputs": [json_tensor("X", "FP32", inputs["X"])]}).encode()
    # What a peer writes before it can start (a configuration of its own) is not part of its start.
    launch = peer.prepare(models, folder, ports)
    began = time.perf_counter()
    process = peer.spawn(launch, folder, folder / "server.log")
    try:
        while not _answers(ports.http, peer.infer.format(model="boosted30"), body):
            if process.poll() is not None or time.perf_counter() - began > 90:
                raise RuntimeError(f"{peer.name}: {(folder / 'server.log').read_text()[-500:]}")
            time.sleep(0.005)
        seconds = time.perf_counter() - began
        if load:
            _SCENARIO.start(peer, ports, 2.0)
        return seconds, resident_bytes(process.pid)
    finally:
        stop(process)


def _answers(port: int, path: str, body: bytes) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(connection):
        connection.request("POST", path, body, {"Content-Type": "application/json"})
        return connection.getresponse().status == 200
    return False


def installed_bytes(peer: Peer) -> int:
    """Blocks of all files in the environment, links not followed: what they add to an image."""
    return sum(
        path.lstat().st_size
        for path in peer.environment.rglob("*")
        if path.is_file() and not path.is_symlink()
    )
