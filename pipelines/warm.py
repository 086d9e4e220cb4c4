"""Steps that start warm: kfp's local runner starts a Python for each, which spends seconds on imports alone.

Feast, MLflow and scikit-learn take 6 to 18 s of CPU to import, and a training has seven steps. Within
`warm_steps`, kfp runs the same command of the same compiled pipeline in a fork of one process that has
imported them (pipelines/stepserver.py). Forks come from a process that has done nothing but import; steps
share no state, and one that is killed takes nothing along.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from pipelines.stepserver import Request

KILLED = -9
"""What subprocess reports of a process that was killed, and what stands for any step without an answer."""

_server: StepServer | None = None


class StepServer:
    """One process to fork steps from; safe for several threads."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 (our own module)
                [sys.executable, "-m", "pipelines.stepserver", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        self._channel = ours

    def run(self, source: str, arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> int:
        """The exit code of the step, once it has ended."""
        return self._ask(Request("", source, list(arguments), dict(environment), os.getcwd(), str(log)))

    def run_module(self, module: str, arguments: Sequence[str], log: Path) -> int:
        """What `python -m module` would do, warm."""
        return self._ask(Request(module, "", list(arguments), dict(os.environ), os.getcwd(), str(log)))

    def _ask(self, request: Request) -> int:
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                socket.send_fds(self._channel, [b"+"], [theirs.fileno()])
            ours.sendall(msgspec.json.encode(request))
            ours.shutdown(socket.SHUT_WR)
            answer = ours.recv(1)
        return answer[0] if answer else KILLED

    def close(self) -> None:
        self._channel.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        self._process.kill()
        self._process.wait()


@contextmanager
def step_server() -> Iterator[StepServer | None]:
    """A server for all runs within; the outermost one's. None where forks are not safe.

    On macOS, system libraries that an import may have touched do not survive a fork.
    """
    global _server
    if _server is not None or not sys.platform.startswith("linux"):
        yield _server
        return
    _server = StepServer()
    try:
        yield _server
    finally:
        _server.close()
        _server = None


def run_module(server: StepServer | None, module: str, arguments: Sequence[str], log: Path) -> int:
    """`python -m module`, with its output in the log; warm where there is a server."""
    if server is not None:
        with suppress(OSError):
            return server.run_module(module, arguments, log)
    with log.open("wb") as output:
        command = [sys.executable, "-m", module, *arguments]
        return subprocess.run(command, stdout=output, stderr=output, check=False).returncode  # noqa: S603


@contextmanager
def warm_steps(server: StepServer | None, log: Path) -> Iterator[None]:
    """Let kfp's SubprocessRunner run its commands by the server, with their output in the log."""
    if server is None:
        yield
        return
    from kfp.local import subprocess_task_handler as handler

    cold = handler.run_local_subprocess

    def run_local_subprocess(full_command: list[str], env_vars: dict[str, str] | None = None) -> int:
        place = next((at for at, part in enumerate(full_command) if "ephemeral_component.py" in part), None)
        if place is None:
            return int(cold(full_command=full_command, env_vars=env_vars))
        environment = {**os.environ, **(env_vars or {})}
        try:
            return server.run(full_command[place + 1], full_command[place + 2 :], environment, log)
        except OSError:
            # It is gone, for want of memory perhaps: this step starts the ordinary way.
            return int(cold(full_command=full_command, env_vars=env_vars))

    handler.run_local_subprocess = run_local_subprocess
    try:
        yield
    finally:
        handler.run_local_subprocess = cold
