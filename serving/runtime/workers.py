"""Several processes on one port: the kernel spreads connections over them (SO_REUSEPORT).

Each worker is a whole server. They find each other by abstract Unix sockets, which need no file system, for
two things: /metrics adds all of them up, and load and unload reach them all.
"""

from __future__ import annotations

import asyncio
import logging
import mmap
import os
import signal
import socket
import struct
import sys
import time
import traceback
from typing import TYPE_CHECKING, Any

import msgspec

from serving.runtime.config import Config
from serving.runtime.metrics import merge
from slipway.errors import SlipwayError

if TYPE_CHECKING:
    from serving.runtime.engine import Engine

log = logging.getLogger("slipway.workers")
ANSWER_SECONDS = 2.0
LOAD_SECONDS = 120.0
ENDINGS = (signal.SIGTERM, signal.SIGINT)


class Fate:
    """What workers tell the one that starts them, in memory that all of them share."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 2)

    def tell_started(self) -> None:
        """A worker has its models."""
        self._memory[0] = 1

    def tell_failed(self) -> None:
        """A worker ended by an error that it could name, and not by a signal or a crash."""
        self._memory[1] = 1

    @property
    def hopeless(self) -> bool:
        """Wrong settings, a port that is taken, no models: starting again would not help."""
        return bool(self._memory[1] and not self._memory[0])


class Siblings:
    """The other workers, as one of them sees them."""

    def __init__(self, family: str, number: int, count: int, fate: Fate, *, first: bool) -> None:
        self.fate = fate
        self.first = first
        """It listens while it loads, so that readiness can be asked; others listen when they can answer."""
        self.family = family
        self.number = number
        self.others = [other for other in range(count) if other != number]
        self._server: asyncio.AbstractServer | None = None
        self._engine: Any = None

    def _address(self, number: int) -> str:
        return f"\0slipway-{self.family}-{number}"

    async def open(self, engine: Engine) -> None:
        self._engine = engine
        engine.siblings = self
        # Bound and connected here: uvloop hands paths to C, where a leading NUL ends them.
        server = socket.socket(socket.AF_UNIX)
        server.bind(self._address(self.number))
        self._server = await asyncio.start_unix_server(self._answer, sock=server)

    def close(self) -> None:
        if self._server is not None:
            self._server.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Only processes of the same user get an answer: an abstract socket has no file permissions."""
        try:
            peer = writer.get_extra_info("socket")
            credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
            if struct.unpack("3i", credentials)[1] != os.getuid():
                return
            verb, name = msgspec.json.decode(await reader.readline(), type=tuple[str, str])
            answer = b""
            try:
                if verb == "metrics":
                    answer = self._engine.metrics.exposition()
                elif verb == "load":
                    await self._engine.load_here(name)
                elif verb == "unload":
                    await self._engine.unload_here(name)
            except SlipwayError as error:
                answer = str(error).encode()
            writer.write(answer)
            await writer.drain()
        except (OSError, msgspec.MsgspecError, asyncio.IncompleteReadError) as error:
            log.warning("a sibling was not answered: %s", error)
        finally:
            writer.close()

    async def _ask(self, number: int, verb: str, name: str, seconds: float) -> bytes | None:
        try:
            async with asyncio.timeout(seconds):
                client = socket.socket(socket.AF_UNIX)
                client.connect(self._address(number))
                client.setblocking(False)
                reader, writer = await asyncio.open_unix_connection(sock=client)
                writer.write(msgspec.json.encode((verb, name)) + b"\n")
                answer = await reader.read()
                writer.close()
                return answer
        except (OSError, TimeoutError) as error:
            log.warning("worker %d does not answer %s: %s", number, verb, error or "too slow")
            return None

    async def metrics(self, own: bytes) -> bytes:
        answers = await asyncio.gather(*(self._ask(n, "metrics", "", ANSWER_SECONDS) for n in self.others))
        return merge([own, *(answer for answer in answers if answer)])

    async def tell(self, verb: str, name: str) -> None:
        await asyncio.gather(*(self._ask(n, verb, name, LOAD_SECONDS) for n in self.others))


def supervise(config: Config) -> int:
    """Start the workers, start again those that die, and pass SIGTERM on."""
    family = f"{os.getpid()}-{int(time.time())}"
    children: dict[int, int] = {}
    started: dict[int, float] = {}
    fate = Fate()
    stopping = False

    def start(number: int, *, first: bool = False) -> None:
        # A signal in between would find a child that nobody knows of, or one that handles it as the parent.
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDINGS)
        pid = os.fork()
        if pid:
            children[pid], started[pid] = number, time.monotonic()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDINGS)
            if stopping:
                os.kill(pid, signal.SIGTERM)
            return
        for signum in ENDINGS:
            signal.signal(signum, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDINGS)
        code = 1
        try:
            from serving.runtime.server import run

            run(config, Siblings(family, number, config.workers, fate, first=first))
            code = 0
        except SlipwayError as error:
            print(f"slipway: {error}", file=sys.stderr)
            fate.tell_failed()
            code = error.exit_code
        except BaseException:
            traceback.print_exc()
            fate.tell_failed()
        finally:
            sys.stderr.flush()
            os._exit(code)

    def stop(signum: int, frame: object) -> None:
        nonlocal stopping
        stopping = True
        for pid in list(children):
            os.kill(pid, signal.SIGTERM)

    for signum in ENDINGS:
        signal.signal(signum, stop)
    for number in range(config.workers):
        start(number, first=number == 0)
    while children:
        pid, status = os.wait()
        number = children.pop(pid, -1)
        code = os.waitstatus_to_exitcode(status)
        if stopping or number < 0:
            continue
        if code == 2 or (code > 0 and fate.hopeless):
            stop(0, None)
            stopping = True
            return max(code, 1)
        print(f"slipway: worker {number} ended with {code}; starting it again", file=sys.stderr)
        # A model that ends its worker at once must not take a whole core.
        time.sleep(max(0.0, 1.0 - (time.monotonic() - started.pop(pid))))
        if not stopping:
            start(number)
    return 0
