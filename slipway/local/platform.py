"""The embedded platform: S3, the online store and tracking, in one folder, without Docker.

`up` is the only way to mend: it looks at what is there, keeps what is healthy, and makes the rest so. It can
be killed at any point, and run by several at once.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from slipway import __version__
from slipway.clock import parse_clock
from slipway.errors import PlatformDown, PlatformError, ServerFailed, StateDamaged
from slipway.local import process
from slipway.local.home import PRIVATE_FILE, Home, Secrets, State, read_json, write_json
from slipway.local.launch import IN_USE
from slipway.local.logs import last_lines, rotate
from slipway.local.model_server import ModelServer
from slipway.local.ports import choose, is_free
from slipway.local.process import Process
from slipway.local.servers import NotReady, ObjectStore, OnlineStore, Refused, Server
from slipway.local.status import PlatformStatus, ServerStatus, TrackingStatus, size_on_disk
from slipway.settings import Settings

Tell = Callable[[str], None]

START_PATIENCE = 60.0
"""Seconds for a server to get healthy. The second start takes one; replaying a large log takes longer."""
DATA_PATIENCE = 15.0
"""Seconds for what is stored to be readable after that."""
HUNG_GRACE = 4.0
"""Seconds for a server that does not answer to end by itself."""
LOCK_PATIENCE = 90.0
_STEP = 0.02
_LEAST_SPACE = 256 * 2**20
"""Below this the S3 server turns its volumes read-only, so that an up would only seem to work."""


def _silent(_: str) -> None:
    pass


@dataclass(slots=True)
class _Up:
    """What one `up` knows and has done so far."""

    lock: int
    secrets: Secrets
    ports: dict[str, int]
    clock: str
    started: list[Server] = field(default_factory=list)


class Platform:
    """One embedded platform; its folder is its name."""

    def __init__(self, home: str | os.PathLike[str], *, bucket: str = "slipway") -> None:
        self.home = Home(home)
        self.store = ObjectStore(bucket)
        self.online = OnlineStore()
        self.serving = ModelServer()
        self.servers: tuple[Server, ...] = (self.store, self.online, self.serving)

    @classmethod
    def of(cls, settings: Settings) -> Platform:
        return cls(settings.home, bucket=settings.s3.bucket)

    def up(self, tell: Tell = _silent, *, clock: str | None = None) -> PlatformStatus:
        """Start what does not run, mend what is broken, and leave alone what is healthy.

        `tell` hears, one line each, what was found amiss and what was done about it. `clock` replays a
        recorded year: that moment is the now of the features' TTLs, here and in the runtime, until another
        is given; `wall` goes back to the real time.
        """
        with self.home.locked(LOCK_PATIENCE) as lock:
            self.home.prepare(tuple(server.name for server in self.servers))
            if short := self.short_of_space():
                raise PlatformError(
                    short,
                    where=str(self.home.path),
                    fix="free some space, then run `slipway up` again; what was stored is intact",
                )
            self._end_those_of_a_deleted_folder(tell)
            run = _Up(lock, self._secrets(tell), self._ports(tell), self._clock(clock))
            try:
                self._start_those_not_healthy((self.store, self.online), run, tell)
                if self.store in run.started:
                    self._await_data(run, tell)
                if self._publish(run):
                    # The runtime reads the addresses when it starts, and these are new.
                    self._stop(self.serving)
                if self.serving.wanted(self.home):
                    self._start_those_not_healthy((self.serving,), run, tell)
                    self._publish(run)
            except BaseException:
                # Also when interrupted: what this up began and did not finish must not stay.
                for server in run.started:
                    self._stop(server)
                raise
        return self.status()

    def down(self) -> list[str]:
        """Stop what up started, children included; answers the names of what ran. Data stays."""
        orphans = self._end_those_of_a_deleted_folder(_silent)
        if not self.home.path.is_dir():
            return orphans
        with self.home.locked(LOCK_PATIENCE):
            return orphans + [server.name for server in reversed(self.servers) if self._stop(server)]

    def short_of_space(self) -> str | None:
        """What is wrong where the disk is so full that S3 refuses every write; None where it is not."""
        free = shutil.disk_usage(_existing(self.home.path)).free
        if free >= _LEAST_SPACE:
            return None
        return f"the disk has {free >> 20} MiB left, and the servers need {_LEAST_SPACE >> 20}"

    def require(self) -> None:
        """Raise PlatformDown unless every server runs; costs a millisecond, asks the servers nothing."""
        running = {server.name: self._running(server) for server in self._wanted()}
        down = [name for name, found in running.items() if found is None or found.ending]
        if down or not self.home.connection.exists():
            raise PlatformDown(
                f"the embedded platform is not up ({', '.join(down) or 'never started'})",
                where=str(self.home.path),
                fix="slipway up",
            )

    @property
    def models(self) -> Path:
        """Where models are put for the runtime to serve: `<name>/<digest>/`."""
        return self.serving.models(self.home)

    def serving_url(self) -> str:
        """The runtime's address; PlatformDown until a model was put there and `up` was called."""
        state = read_json(self.home.state, State) or State()
        if self._running(self.serving) is None or "serving" not in state.ports:
            raise PlatformDown("no model is served here", where=str(self.models), fix="slipway run train")
        return self.serving.endpoint(state.ports)

    def status(self) -> PlatformStatus:
        """What runs, how healthy it is by a real request, where it listens and what it takes."""
        secrets = read_json(self.home.secrets, Secrets)
        state = read_json(self.home.state, State) or State()
        servers = tuple(self._status(server, secrets, state.ports) for server in self._wanted())
        tracking = self.home.tracking
        return PlatformStatus(
            home=str(self.home.path),
            up=all(server.state == "healthy" for server in servers),
            servers=servers,
            tracking=TrackingStatus(uri=f"sqlite:///{tracking}", size_bytes=size_on_disk(tracking)),
            bucket=self.store.bucket,
            disk_free_bytes=shutil.disk_usage(_existing(self.home.path)).free,
            slipway_version=__version__,
        )

    def _status(self, server: Server, secrets: Secrets | None, ports: Mapping[str, int]) -> ServerStatus:
        known = {name: ports[name] for name in server.ports if name in ports}
        answer = ServerStatus(
            name=server.name,
            software=server.software,
            state="stopped",
            ports=known,
            endpoint=server.endpoint(known) if known else None,
            size_bytes=size_on_disk(self.home.data(server.name)),
            log=str(self.home.log(server.name)),
        )
        found = self._running(server)
        if found is None:
            killed = self.home.record(server.name).exists()
            return msgspec.structs.replace(
                answer,
                problem="it ended without a `slipway down`; `slipway up` starts it again" if killed else None,
            )
        answer = msgspec.structs.replace(
            answer, pid=found.pid, uptime_seconds=found.uptime(), memory_bytes=found.memory()
        )
        if found.ending:
            problem = "it is being stopped; `slipway up` starts it again"
            return msgspec.structs.replace(answer, state="unhealthy", problem=problem)
        if secrets is None or len(known) < len(server.ports):
            problem = "its credentials or ports are not on record; `slipway up` mends that"
            return msgspec.structs.replace(answer, state="unhealthy", problem=problem)
        try:
            version = server.check(secrets, known, timeout=3.0)
        except NotReady as error:
            return msgspec.structs.replace(answer, state="unhealthy", problem=str(error))
        return msgspec.structs.replace(answer, state="healthy", version=version)

    def _wanted(self) -> list[Server]:
        return [server for server in self.servers if server.wanted(self.home)]

    def _secrets(self, tell: Tell) -> Secrets:
        path = self.home.secrets
        found = read_json(path, Secrets)
        if found is None:
            if path.exists():
                tell(f"{path.name} was damaged: new credentials were made")
            found = Secrets.fresh()
            write_json(path, found)
        elif path.stat().st_mode & 0o077:
            path.chmod(PRIVATE_FILE)
            tell(f"{path.name} could be read by others: now it is private")
        return found

    def _clock(self, asked: str | None) -> str:
        if asked is not None:
            parse_clock(asked)
            return asked
        return (read_json(self.home.state, State) or State()).clock

    def _ports(self, tell: Tell) -> dict[str, int]:
        found = read_json(self.home.state, State)
        if found is None and self.home.state.exists():
            tell(f"{self.home.state.name} was damaged: ports are chosen anew")
        return dict(found.ports) if found else {}

    def _running(self, server: Server) -> Process | None:
        found = process.read_record(self.home.record(server.name))
        return found if found is not None and found.alive() else None

    def _start_those_not_healthy(self, servers: Sequence[Server], run: _Up, tell: Tell) -> None:
        ill = [server for server in servers if not self._healthy(server, run)]
        for server in ill:
            self._start(server, run, tell)
        for server in ill:
            self._await(server, run, tell)

    def _healthy(self, server: Server, run: _Up) -> bool:
        found = self._running(server)
        if found is None or found.ending or any(name not in run.ports for name in server.ports):
            return False
        # A server may be busy: one slow answer is no reason to end it.
        deadline = time.monotonic() + 5.0
        while True:
            try:
                self._ready(server, run)
            except Refused:
                return False
            except NotReady:
                if time.monotonic() > deadline or self._running(server) is None:
                    return False
            else:
                return True
            time.sleep(0.1)

    def _start(self, server: Server, run: _Up, tell: Tell) -> None:
        """Start one server afresh, on its old ports where they are still free."""
        record, log, data = (
            place(server.name) for place in (self.home.record, self.home.log, self.home.data)
        )
        found = self._running(server)
        if found and found.ending:
            tell(f"{server.name} was being stopped: it is started again")
        elif found:
            tell(f"{server.name} ran but did not answer: it is started again")
        elif record.exists():
            tell(f"{server.name} had ended without a `slipway down`: it is started again")
        self._stop(server, grace=HUNG_GRACE)
        self._free(server, data, tell)
        others = [port for name, port in run.ports.items() if name not in server.ports]
        chosen = choose(self.home.path, server.ports, run.ports, avoid=others)
        for name, port in chosen.items():
            if run.ports.get(name, port) != port:
                tell(f"port {run.ports[name]} is taken by another program: {name} moves to {port}")
        run.ports.update(chosen)
        write_json(self.home.state, State(ports=run.ports, clock=run.clock))
        rotate(log)
        arguments = server.configure(self.home, run.secrets, run.ports)
        program = [str(server.executable()), *arguments]
        run.started.append(server)
        process.start(
            program, record=record, log=log, data=data, environment=server.environment(), lock=run.lock
        )

    def _free(self, server: Server, data: Path, tell: Tell) -> None:
        """Nobody else may use the data folder: end a server of ours that lost its record."""
        if not process.in_use(data):
            return
        for found in process.users(data, server.program):
            tell(f"process {found.pid} served {data.name} without being on record: it was ended")
            process.stop(found, grace=server.stop_grace)
        if not process.released(data, patience=5.0):
            raise StateDamaged(
                f"another process uses the data of {server.name}",
                where=str(data),
                fix=f"end the process that holds {data / IN_USE} open (`fuser` names it)",
            )

    def _end_those_of_a_deleted_folder(self, tell: Tell) -> list[str]:
        """Servers whose folder was deleted under them: what they hold is lost, and no record names them."""
        if self.home.secrets.exists():
            return []
        ended = []
        for server in reversed(self.servers):
            for found in process.users(self.home.data(server.name), server.program, deleted=True):
                # The S3 server waits for files that are gone; there is nothing left to write in peace.
                process.stop(found, grace=HUNG_GRACE)
                tell(f"process {found.pid} served {server.name} of a folder that was deleted: it was ended")
                ended.append(server.name)
        return ended

    def _await(self, server: Server, run: _Up, tell: Tell) -> None:
        """Until it answers a real request; says why when it does not."""
        deadline = time.monotonic() + START_PATIENCE
        problem = "it never ran"
        moves = 0
        while time.monotonic() < deadline:
            try:
                self._ready(server, run)
            except NotReady as answer:
                problem = str(answer)
            else:
                return
            if self._running(server) is None:
                if moves == 3 or all(is_free(run.ports[name]) for name in server.ports):
                    problem = "it ended at once"
                    break
                # Somebody took one of its ports after we had looked.
                moves += 1
                self._start(server, run, tell)
            time.sleep(_STEP)
        log = self.home.log(server.name)
        tail = "\n".join(f"    {line}" for line in last_lines(log, 12))
        raise ServerFailed(
            f"{server.name} ({server.software}) did not start: {problem}\n{tail}",
            where=str(log),
            fix="the log says why; `slipway up` tries again",
        )

    def _ready(self, server: Server, run: _Up) -> None:
        if server is self.store:
            self.store.prepare_bucket(run.secrets, run.ports, timeout=5.0)
        server.check(run.secrets, run.ports, timeout=3.0)

    def _await_data(self, run: _Up, tell: Tell) -> None:
        deadline = time.monotonic() + DATA_PATIENCE
        while True:
            try:
                return self.store.check_data(run.secrets, run.ports, timeout=5.0)
            except NotReady as problem:
                if time.monotonic() > deadline:
                    # One object that cannot be read must not keep all others from being used.
                    return tell(f"{problem}: what is stored may be damaged; the log of s3 says more")
            time.sleep(_STEP)

    def _publish(self, run: _Up) -> bool:
        """Write down for slipway.settings how to reach what runs; True when that is news to the runtime."""
        online = self.online.endpoint(run.ports).replace("://", f"://:{run.secrets.password}@")
        document: dict[str, object] = {
            "s3": {
                "endpoint": self.store.endpoint(run.ports),
                "access_key": run.secrets.access_key,
                "secret_key": run.secrets.secret_key,
            },
            "online": {"url": online},
            "features": {"clock": run.clock},
        }
        if all(name in run.ports for name in self.serving.ports):
            document["serving"] = {"url": self.serving.endpoint(run.ports)}
        found = read_json(self.home.connection, dict)
        if found == document:
            return False
        write_json(self.home.connection, document)
        # Of its own address it need not be told.
        return found is None or {**found, "serving": None} != {**document, "serving": None}

    def _stop(self, server: Server, *, grace: float | None = None) -> bool:
        """Stop one server if it is surely ours; True when it ran."""
        record = self.home.record(server.name)
        found = process.read_record(record)
        ran = found is not None and found.alive()
        if found is not None and ran:
            process.note_ending(record, found)
        if found is not None:
            process.stop(found, grace=server.stop_grace if grace is None else grace)
        if ran:
            # A process of many threads counts as ended before the last of them lets go of its files.
            process.released(self.home.data(server.name), patience=5.0)
        record.unlink(missing_ok=True)
        return ran


def _existing(path: Path) -> Path:
    return next(parent for parent in (path, *path.parents) if parent.exists())
