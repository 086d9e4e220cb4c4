"""The state folder: what lies where, and how it is written so that a crash leaves either old or new.

.slipway/
  lock              held by the up or down that runs
  demo.lock         held by the demo that runs
  secrets.json      keys and passwords, made at the first up (0600)
  state.json        ports
  connection.json   addresses and credentials for slipway.settings (0600)
  run/              one record a server: process id and start time
  logs/             one log a server
  s3/  online/      data and configuration of the servers
  serving/models/   the models that are served here
  mlflow.db         tracking and model registry
  feast.db          feature registry
  runs/             artifacts, events and log of each local pipeline run
  aside/  pages/    what the demo does beside its main work, and what it shows
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import msgspec

from slipway.errors import PlatformBusy, PlatformError, StateDamaged
from slipway.settings import CONNECTION_FILE

PRIVATE_FILE, PRIVATE_FOLDER = 0o600, 0o700
_T = TypeVar("_T")


class Secrets(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    access_key: str
    secret_key: str
    password: str
    signing_key: str
    """Signs what the S3 server's own parts ask of each other, so that nobody reads around the front door."""

    @classmethod
    def fresh(cls) -> Secrets:
        return cls(
            access_key="SLIP" + secrets.token_hex(8).upper(),
            secret_key=secrets.token_urlsafe(30),
            password=secrets.token_urlsafe(24),
            signing_key=secrets.token_urlsafe(32),
        )


class State(msgspec.Struct, frozen=True):
    ports: dict[str, int] = {}
    clock: str = "wall"
    """The now of the features' TTLs: `wall`, or a moment of a recorded year that is replayed."""


class Home:
    """The folder and the names in it."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).absolute()
        self.secrets = self.path / "secrets.json"
        self.state = self.path / "state.json"
        self.connection = self.path / CONNECTION_FILE
        self.tracking = self.path / "mlflow.db"
        self.features = self.path / "feast.db"

    def record(self, server: str) -> Path:
        return self.path / "run" / server

    def log(self, server: str) -> Path:
        return self.path / "logs" / f"{server}.log"

    def data(self, server: str) -> Path:
        return self.path / server

    def prepare(self, servers: tuple[str, ...]) -> None:
        """Make the folders, private to their owner, and clear away what a killed writer left half-written."""
        with explained(self.path):
            for folder in (self.path, *(self.path / name for name in ("run", "logs", *servers))):
                folder.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
            if self.path.stat().st_mode & 0o077:
                self.path.chmod(PRIVATE_FOLDER)
            for leftover in self.path.rglob("*.new"):
                if leftover.parent in (self.path, self.path / "run"):
                    leftover.unlink(missing_ok=True)

    @contextmanager
    def locked(self, patience: float, *, what: str = "up or down", name: str = "lock") -> Iterator[int]:
        """Hold a lock: one up or down at a time. However its holder dies, the system frees it.

        Answers the handle of its file; who inherits that holds the lock too.
        """
        path = self.path / name
        with explained(self.path):
            self.path.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE_FILE)
        try:
            _wait_for(handle, time.monotonic() + patience, path, what)
            os.ftruncate(handle, 0)
            os.pwrite(handle, str(os.getpid()).encode(), 0)
            yield handle
        finally:
            os.close(handle)


def _wait_for(handle: int, deadline: float, path: Path, what: str) -> None:
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                holder = os.pread(handle, 20, 0).decode(errors="replace") or "unknown"
                raise PlatformBusy(
                    f"another {what} holds the lock (process {holder})",
                    where=str(path),
                    fix="wait until it is done, or end it; another SLIPWAY_HOME is a platform of its own",
                ) from None
            time.sleep(0.05)
        else:
            return


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn what the file system refuses into an error that says what to do."""
    try:
        yield
    except OSError as error:
        where = str(error.filename or path)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise PlatformError(
                "there is no space left on the disk",
                where=where,
                fix="free some space, then run `slipway up` again; what was stored is intact",
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            fix = "give the folder to the user that runs slipway, or set SLIPWAY_HOME to another"
        elif error.errno in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR):
            fix = "move what stands there out of the way, or set SLIPWAY_HOME to another folder"
        else:
            fix = None
        raise StateDamaged(
            f"the state folder cannot be used: {error.strerror}", where=where, fix=fix
        ) from error


def write_private(path: Path, content: bytes) -> None:
    """Replace a file that only its owner may read, in one step: a crash leaves the old one or the new one."""
    fresh = path.with_name(f"{path.name}.new")
    with explained(path):
        fresh.unlink(missing_ok=True)
        handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_FILE)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, path)


def write_json(path: Path, value: object) -> None:
    write_private(path, msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n")


def read_json(path: Path, kind: type[_T]) -> _T | None:
    """What the file says; None when it is missing, empty or not readable as such."""
    with explained(path):
        try:
            return msgspec.json.decode(path.read_bytes(), type=kind)
        except (FileNotFoundError, msgspec.MsgspecError, UnicodeDecodeError):
            return None
