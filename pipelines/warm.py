"""Steps that start warm: kfp's local runner starts a Python for each, which spends seconds on imports alone.

Feast, MLflow and scikit-learn take 6 to 18 s of CPU to import, and a training has seven steps. With
`Steps`, kfp runs the same command of the same compiled pipeline in a fork of one process that has imported
them (pipelines/stepserver.py). Forks come from a process that has done nothing but import; steps share no
state, and one that is killed takes nothing along. However the runner ends, its steps end too.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from components.stepping import OWNER
from pipelines.stepserver import NOW, Request
from slipway.local.launch import identity

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
        # Taken in a signal's handler too, which runs in whatever the main thread is doing.
        self._lock = threading.RLock()
        self._waiting: set[socket.socket] = set()
        self._interrupted = False

    def run(self, source: str, arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> int:
        """The exit code of the step, once it has ended."""
        return self._ask(Request("", source, list(arguments), dict(environment), os.getcwd(), str(log)))

    def run_module(self, module: str, arguments: Sequence[str], log: Path, *, when: bytes = NOW) -> int:
        """What `python -m module` would do, with what is imported by now, or (WARM) once all is."""
        request = Request(module, "", list(arguments), dict(os.environ), os.getcwd(), str(log))
        return self._ask(request, when)

    def _ask(self, request: Request, when: bytes = NOW) -> int:
        if self._interrupted:
            return KILLED
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                socket.send_fds(self._channel, [when], [theirs.fileno()])
            ours.sendall(msgspec.json.encode(request) + b"\n")
            with self._lock:
                if self._interrupted:
                    return KILLED
                self._waiting.add(ours)
            try:
                answer = ours.recv(1)
            except ConnectionResetError:
                # It was killed before it had read all we sent.
                answer = b""
            finally:
                self._waiting.discard(ours)
        return answer[0] if answer else KILLED

    def interrupt(self) -> None:
        """Let all that runs clean up and end, and run nothing more."""
        with self._lock:
            self._interrupted = True
            for connection in list(self._waiting):
                with suppress(OSError):
                    connection.sendall(b"i")

    def close(self) -> None:
        self._channel.close()
        # One that is still importing looks up from it after seconds, and who has interrupted it is waiting.
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(0 if self._interrupted else 5)
        self._process.kill()
        self._process.wait()


@contextmanager
def lent(server: StepServer) -> Iterator[None]:
    """Let all runs within use this server, which stays the caller's to close."""
    global _server
    former, _server = _server, server
    try:
        yield
    finally:
        _server = former


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


def run_module(
    server: StepServer | None, module: str, arguments: Sequence[str], log: Path, *, when: bytes = NOW
) -> int:
    """`python -m module`, with its output in the log; warm where there is a server."""
    if server is not None:
        with suppress(OSError):
            return server.run_module(module, arguments, log, when=when)
    with log.open("wb") as output:
        command = [sys.executable, "-m", module, *arguments]
        return subprocess.run(command, stdout=output, stderr=output, check=False).returncode  # noqa: S603


class Steps:
    """Runs the commands of kfp's SubprocessRunner: by the server where there is one, else each for itself."""

    def __init__(self, server: StepServer | None, log: Path) -> None:
        self._server, self._log = server, log
        self._cold: set[subprocess.Popen[bytes]] = set()
        self._interrupted = False

    @contextmanager
    def installed(self) -> Iterator[None]:
        from kfp.local import subprocess_task_handler as handler

        kfps_own = handler.run_local_subprocess
        handler.run_local_subprocess = self.run
        try:
            yield
        finally:
            handler.run_local_subprocess = kfps_own

    def run(self, full_command: Sequence[str], env_vars: Mapping[str, str] | None = None) -> int:
        """The exit code of the command."""
        # Of a loop that was interrupted kfp would still run all that is in line.
        if self._interrupted:
            return KILLED
        environment = {**os.environ, **(env_vars or {})}
        place = next((at for at, part in enumerate(full_command) if "ephemeral_component.py" in part), None)
        if place is not None and self._server is not None:
            # The server may be gone, for want of memory perhaps: then the step starts the ordinary way.
            with suppress(OSError):
                source, arguments = full_command[place + 1], full_command[place + 2 :]
                return self._server.run(source, arguments, environment, self._log)
        return self._run_cold(full_command, environment)

    def _run_cold(self, command: Sequence[str], environment: Mapping[str, str]) -> int:
        owned = {**environment, OWNER: f"{os.getpid()} {identity(os.getpid())}"}
        with (
            self._log.open("ab") as log,
            subprocess.Popen(  # noqa: S603 (kfp's command, for our own component)
                command, env=owned, stdout=log, stderr=log, start_new_session=True
            ) as process,
        ):
            self._cold.add(process)
            try:
                return process.wait()
            finally:
                self._cold.discard(process)

    def interrupt(self) -> None:
        """Let the steps that run clean up and end, and start no others."""
        self._interrupted = True
        if self._server is not None:
            self._server.interrupt()
        for process in list(self._cold):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)
