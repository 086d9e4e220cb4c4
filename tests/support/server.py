"""Our own server, started as its users start it, and described as its peers are."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.peers import ROOT, Launch, Peer, Ports
from tests.support.process import free_ports, stop, wait_ready


def _launch(bin_: Path, models: Path, scratch: Path, ports: Ports) -> Launch:
    return Launch(
        [
            str(bin_ / "python"),
            "-m",
            "serving.runtime",
            "--model-dir",
            str(models),
            "--http-host",
            "127.0.0.1",
            "--http-port",
            str(ports.http),
            "--grpc-port",
            str(ports.grpc),
        ],
        {"PYTHONPATH": str(ROOT)},
    )


class _Here(Peer):
    """In the environment of the tests, which has all that it needs."""

    def install(self) -> Path:
        return Path(sys.executable).parent


OURS = _Here("slipway", "Slipway", (), _launch)

_LOCKED = ROOT / "requirements" / "serving.txt"
INSTALLED = Peer(
    "slipway", "Slipway", ("--require-hashes", "--requirement", str(_LOCKED), "--no-deps"), _launch
)
"""As its image has it: the locked set of the serving extra and nothing else."""


@dataclass(frozen=True)
class Running:
    process: subprocess.Popen[bytes]
    http: int
    grpc: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http}"

    @property
    def grpc_address(self) -> str:
        return f"127.0.0.1:{self.grpc}"


@contextmanager
def running_server(
    models: Path,
    scratch: Path,
    *options: str,
    environment: dict[str, str] | None = None,
    wait: bool = True,
    log_unread: bool = False,
) -> Iterator[Running]:
    """Our server over a folder of models; stopped at the end.

    `wait` for readiness asks plain HTTP; `log_unread` gives it a pipe for its log, which nobody reads.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    ports = Ports(*free_ports(3))
    launch = _launch(Path(sys.executable).parent, models, scratch, ports)
    log = scratch / "server.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*launch.command, *options],
            env={**os.environ, **launch.environment, **(environment or {})},
            cwd=scratch,
            stdout=subprocess.PIPE if log_unread else out,
            stderr=subprocess.STDOUT,
        )
    try:
        if wait:
            wait_ready(process, ports.http, "/v2/health/ready", log)
        yield Running(process, ports.http, ports.grpc, log)
    finally:
        stop(process)
