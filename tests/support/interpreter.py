"""The Python in which servers are measured: that of BENCH_PYTHON, else that of the tests.

How it was built matters as much as what runs in it: one built with profile-guided optimization, as those of
the images and of the distributions are, takes a seventh less CPU than one that was not.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

_LOOK = """
import json, platform, sys, sysconfig, time

def step(number, kept={}):
    kept[number & 7] = (number, str(number & 63))
    return len(kept)

def loop():
    began = time.perf_counter()
    for number in range(20_000):
        step(number)
    return time.perf_counter() - began

arguments = sysconfig.get_config_var("CONFIG_ARGS") or ""
print(json.dumps({
    "version": platform.python_version(),
    "base": sys.base_prefix,
    "configured": "--enable-optimizations" in arguments,
    "loop_ms": min(loop() for _ in range(40)) * 1000,
}))
"""


@dataclass(frozen=True)
class Interpreter:
    executable: Path
    version: str
    base: Path
    """Its sys.base_prefix."""
    configured: bool
    """With --enable-optimizations. Debian optimizes without saying so there."""
    loop_ms: float
    """Of 20,000 calls that do a little: the measure of what its build gives."""

    @property
    def minor(self) -> str:
        return "python" + ".".join(self.version.split(".")[:2])

    @property
    def tag(self) -> str:
        """Tells its environments from those of others, which may be of the same version."""
        return f"{self.version}-{hashlib.sha256(str(self.base).encode()).hexdigest()[:6]}"

    def __str__(self) -> str:
        if self.configured:
            build = "built with --enable-optimizations"
        elif self.base == Path("/usr"):
            build = "as the distribution builds it, optimized by profile"
        else:
            build = "built without --enable-optimizations"
        return (
            f"Python {self.version}, {build}; 20,000 calls of the reference loop take {self.loop_ms:.2f} ms"
        )


@lru_cache
def interpreter() -> Interpreter:
    return look_at(os.environ.get("BENCH_PYTHON") or sys.executable)


def look_at(executable: str) -> Interpreter:
    try:
        run = subprocess.run(
            [executable, "-I", "-c", _LOOK], check=True, timeout=60, capture_output=True, text=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise RuntimeError(f"BENCH_PYTHON={executable} does not run: {error}") from error
    found = json.loads(run.stdout)
    return Interpreter(
        Path(executable), found["version"], Path(found["base"]), found["configured"], found["loop_ms"]
    )
