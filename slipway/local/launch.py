"""Start one server so that it outlives us and can be found again: run as a script, by path.

    python -I -S launch.py RECORD LOG DATA PROGRAM [ARGUMENT...]

It forks into a session of its own, takes the lock of the data folder, writes its process id and start time
to RECORD, and only then becomes PROGRAM. So a server is on record before it exists: even an `up` that is
killed between two instructions leaves nothing that the next one cannot find. The lock is inherited by the
server and by the children it forks, and ends with the last of them: two servers never share one folder.
Standard input is the lock of the `up`, held until the server is on record: where the `up` is killed while
its launcher works, the next one waits for it.

Nothing but the standard library is imported: the launcher has to start in 20 ms.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time

IN_USE = ".in-use"
"""The lock file in the data folder."""
PATIENCE = 10.0


def identity(pid: int) -> str | None:
    """What tells this process from any other that had, or will have, the same id; None when it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The name stands in brackets and may hold anything, brackets too.
            fields = file.read().rpartition(b")")[2].split()
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            boot = file.read().strip()
    except FileNotFoundError:
        return _identity_by_ps(pid) if not os.path.exists("/proc/self/stat") else None
    except (ProcessLookupError, PermissionError):
        return None
    if fields[0] in (b"Z", b"X"):
        return None
    return f"{fields[19].decode()}@{boot}"


def _identity_by_ps(pid: int) -> str | None:
    """macOS has no /proc."""
    command = ["/bin/ps", "-o", "stat=,lstart=", "-p", str(pid)]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)  # noqa: S603
    state, _, started = answer.stdout.strip().partition(" ")
    return None if not state or state.startswith("Z") else started.strip()


def _take(lock: int) -> bool:
    """A server that is being stopped, by an `up` that was interrupted, needs a moment to let go."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        else:
            return True


def main(record: str, log: str, data: str, program: list[str]) -> None:
    done, recorded = os.pipe()
    if os.fork():
        os.close(recorded)
        os.read(done, 1)  # ends when the child has written its record, or has failed
        return
    os.setsid()
    os.umask(0o077)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for target in (1, 2):
        os.dup2(output, target)
    lock = os.open(os.path.join(data, IN_USE), os.O_RDWR | os.O_CREAT, 0o600)
    os.set_inheritable(lock, True)
    if not _take(lock):
        sys.exit(f"launch: another server uses {data}")
    fresh = f"{record}.new"
    with open(fresh, "w", encoding="utf-8") as file:
        file.write(f"{os.getpid()} {identity(os.getpid())}\n")
    os.replace(fresh, record)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.close(recorded)
    os.chdir(data)
    os.execv(program[0], program)  # noqa: S606


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:])
