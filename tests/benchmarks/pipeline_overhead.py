"""What `slipway run train` costs beyond a plain script that calls the same functions.

Both train on three months of flights, from the command to its end, turn by turn, and find nothing
that was made before: each run has a window that begins a minute later, and a tracking store of its own.
BENCH_HOME names a state folder with the flights in it, to be used again; otherwise they are taken in first,
which takes a minute. BENCH_TURNS is how often each is run.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

SLIPWAY = Path(sys.executable).with_name("slipway")
TURNS = int(os.environ.get("BENCH_TURNS", "2"))
START, END = datetime(2013, 1, 2, tzinfo=UTC), "2013-04-01"
CLOCK = "2013-04-01T20:00:00Z"
CONFIG = '{"model": {"kind": "boosting", "rounds": 80, "learning_rate": 0.15}}'
COMMANDS = {
    "slipway run train": [str(SLIPWAY), "run", "train", "--start={}", f"--end={END}", f"--config={CONFIG}"],
    "plain script": [sys.executable, "-m", "tests.benchmarks._plain_training", "{}", END, CONFIG],
}
TARGET = 1.3
EMPTY = "tracking-empty.db"


@contextlib.contextmanager
def flights() -> Iterator[Path]:
    """A platform with the flights' features, online as of the end of March."""
    with contextlib.ExitStack() as stack:
        kept = os.environ.get("BENCH_HOME")
        home = Path(kept or stack.enter_context(tempfile.TemporaryDirectory(prefix="slipway-bench-")))
        environment = {**os.environ, "SLIPWAY_HOME": str(home)}
        stack.callback(subprocess.run, [SLIPWAY, "down"], env=environment, check=False, capture_output=True)
        words = ["ingest", "features build", "features apply", "features materialize", "models list"]
        for line in [f"up --replay {CLOCK}", *([] if (home / EMPTY).exists() else words)]:
            subprocess.run([SLIPWAY, *line.split()], env=environment, check=True, capture_output=True)
            # MLflow makes its database at the first question: one of its own, in which no model stands.
            environment["SLIPWAY_TRACKING_URI"] = f"sqlite:///{home / EMPTY}"
        yield home


def _seconds(home: Path, command: list[str], turn: int) -> float:
    tracking = home / f"bench-{turn}.db"
    # Without its thirty migrations, which both would have to wait for.
    shutil.copy(home / EMPTY, tracking)
    environment = {**os.environ, "SLIPWAY_HOME": str(home), "SLIPWAY_TRACKING_URI": f"sqlite:///{tracking}"}
    # The benchmark's own process may be told to write no bytecode; a user's is not.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    start = (START + timedelta(minutes=turn)).isoformat()
    began = time.perf_counter()
    done = subprocess.run(
        [word.replace("{}", start) for word in command],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    taken = time.perf_counter() - began
    tracking.unlink()
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return taken


def run() -> None:
    with flights() as home:
        taken: dict[str, list[float]] = {name: [] for name in COMMANDS}
        first = int(time.time()) % 1000
        for turn in range(TURNS):
            names = list(COMMANDS) if turn % 2 == 0 else list(COMMANDS)[::-1]
            for place, name in enumerate(names):
                seconds = _seconds(home, COMMANDS[name], first + 2 * turn + place)
                taken[name].append(seconds)
                print(f"{name:20} {seconds:6.1f} s", flush=True)
        ours, plain = (statistics.median(taken[name]) for name in COMMANDS)
        print(f"median {ours:.1f} s against {plain:.1f} s: {ours / plain:.2f} times (target {TARGET})")
