"""`python -m tests.benchmarks` lists and runs the benchmarks; names as arguments run only those."""

from __future__ import annotations

import importlib
import os
import pkgutil
import platform
import signal
import sys
import time

import tests.benchmarks


def names() -> list[str]:
    return sorted(
        module.name
        for module in pkgutil.iter_modules(tests.benchmarks.__path__)
        if not module.name.startswith("_")
    )


def main(arguments: list[str]) -> int:
    known = names()
    if unknown := [name for name in arguments if name not in known and name != "--list"]:
        print(f"no benchmark named {', '.join(unknown)}; there are: {', '.join(known)}", file=sys.stderr)
        return 2
    modules = {
        name: importlib.import_module(f"tests.benchmarks.{name}")
        for name in ([] if "--list" in arguments else arguments) or known
    }
    if "--list" in arguments:
        for name, module in modules.items():
            print(f"{name:24} {(module.__doc__ or '').strip().splitlines()[0]}")
        return 0
    # A benchmark that is told to stop still stops the servers that it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    print(f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}")
    failed = []
    for name, module in modules.items():
        print(f"\n== {name}: {(module.__doc__ or '').strip().splitlines()[0]}", flush=True)
        began = time.monotonic()
        try:
            module.run()
        except Exception as error:  # one benchmark that fails must not hide the figures of the others
            failed.append(name)
            print(f"{name} failed: {type(error).__name__}: {error}", file=sys.stderr)
        print(f"-- {name} took {time.monotonic() - began:.0f} s", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
