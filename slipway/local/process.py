"""Server processes: start, recognise, stop. Never touches a process that is not surely ours."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from slipway.local import launch
from slipway.local.launch import IN_USE, identity

_STEP = 0.02
_ENDING = " ending"
LAUNCH_PATIENCE = 30.0


@dataclass(frozen=True, slots=True)
class Process:
    """One server process, as its launcher put it on record."""

    pid: int
    identity: str
    ending: bool = False
    """It has been told to end, or is about to be: what it still answers says nothing."""

    def alive(self) -> bool:
        return identity(self.pid) == self.identity

    def uptime(self) -> float | None:
        """Seconds since it started."""
        ticks, _, _ = self.identity.partition("@")
        try:
            with open("/proc/uptime", encoding="ascii") as file:
                since_boot = float(file.read().split()[0])
            return max(0.0, since_boot - int(ticks) / os.sysconf("SC_CLK_TCK"))
        except (OSError, ValueError):
            return None

    def memory(self) -> int | None:
        """Resident bytes."""
        try:
            with open(f"/proc/{self.pid}/statm", encoding="ascii") as file:
                return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except (OSError, ValueError, IndexError):
            return None


def read_record(record: Path) -> Process | None:
    """The process on record, dead or alive; None when there is no record or it is not readable as one."""
    try:
        pid, _, found = record.read_text().strip().partition(" ")
        known = found.removesuffix(_ENDING)
        return Process(int(pid), known, known != found) if known else None
    except (OSError, ValueError):
        return None


def note_ending(record: Path, process: Process) -> None:
    """Put on record that this process is being stopped, before it is: whoever stops it may be killed."""
    fresh = record.with_name(f"{record.name}.new")
    with suppress(OSError):  # a full disk must not keep a server running
        fresh.write_text(f"{process.pid} {process.identity}{_ENDING}\n")
        os.replace(fresh, record)


def start(
    program: Sequence[str],
    *,
    record: Path,
    log: Path,
    data: Path,
    environment: Mapping[str, str],
    lock: int = subprocess.DEVNULL,
) -> None:
    """Start a server in a session of its own; it is on record before it runs.

    The launcher keeps the file `lock` open until then, though we may be killed meanwhile.
    """
    record.unlink(missing_ok=True)
    log.touch(mode=0o600)
    launcher = [sys.executable, "-I", "-S", launch.__file__, str(record), str(log), str(data), *program]
    ended, working = os.pipe()
    with os.fdopen(ended), os.fdopen(working, "w") as output, log.open("ab") as stderr:
        try:
            running = subprocess.Popen(  # noqa: S603 - our own launcher, with our own arguments
                launcher,
                env=dict(environment),
                stdin=lock,
                stdout=output,
                stderr=stderr,
                close_fds=True,
                # A Ctrl-C is for us alone: what the launcher began it has to put on record.
                start_new_session=True,
            )
            output.close()
            select.select([ended], [], [], LAUNCH_PATIENCE)
        except BaseException:
            # Interrupted, maybe within Popen: whoever stops the server now needs its record.
            output.close()
            select.select([ended], [], [], LAUNCH_PATIENCE)
            raise
    if running.wait(LAUNCH_PATIENCE):
        raise subprocess.CalledProcessError(running.returncode, launcher)


def stop(process: Process, *, grace: float) -> bool:
    """End a process and what it forked: politely, then not. True when it had to be killed."""
    killed = False
    if process.alive():
        _signal(process, signal.SIGTERM)
        if not _gone(process, grace):
            killed = True
            _signal(process, signal.SIGKILL)
            _gone(process, 10.0)
    if not _taken(process.pid):
        # No live process has this number, and the kernel gives it to none while its group has members:
        # whatever is in that group is what our server forked.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    return killed


def _taken(pid: int) -> bool:
    return identity(pid) is not None


def _signal(process: Process, number: signal.Signals) -> None:
    try:
        if not hasattr(os, "pidfd_open"):
            os.kill(process.pid, number)
            return
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    try:
        # The handle stays with this one process; asked again, the identity cannot be that of a successor.
        if process.alive():
            signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        pass
    finally:
        os.close(handle)


def _gone(process: Process, patience: float) -> bool:
    deadline = time.monotonic() + patience
    while process.alive():
        if time.monotonic() > deadline:
            return False
        time.sleep(_STEP)
    return True


def in_use(data: Path) -> bool:
    """Whether a server, or something it forked, still holds the lock of this data folder."""
    try:
        handle = os.open(data / IN_USE, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def released(data: Path, *, patience: float) -> bool:
    """Wait until nobody holds the lock of this data folder; False when somebody still does."""
    deadline = time.monotonic() + patience
    while in_use(data):
        if time.monotonic() > deadline:
            return False
        time.sleep(_STEP)
    return True


def users(data: Path, program: str, *, deleted: bool = False) -> list[Process]:
    """The processes of this program that hold the data folder's lock file open: ours, whatever is on record.
    `deleted`: that of a folder which was here and is gone, though another may have its name by now.

    Only /proc tells; elsewhere the answer is empty.
    """
    wanted = str((data / IN_USE).resolve()) + (" (deleted)" if deleted else "")
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            holds = os.path.basename(os.readlink(entry / "exe")) == program and any(
                os.readlink(handle) == wanted for handle in (entry / "fd").iterdir()
            )
        except OSError:
            continue
        if holds and (known := identity(int(entry.name))) is not None:
            found.append(Process(int(entry.name), known))
    return found
