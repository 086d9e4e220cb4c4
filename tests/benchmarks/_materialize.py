"""Materialization, ours or Feast's, in a process of its own: prints its best time and peak memory as JSON.

Each time into an empty server; what is imported on the way counts once only.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from datetime import datetime, timedelta
from pathlib import Path

from slipway.features.importing import import_feast

import_feast()

import redis  # noqa: E402

from tests.benchmarks import online  # noqa: E402
from tests.benchmarks._contender import peak_mib  # noqa: E402


def main() -> None:
    warnings.filterwarnings("ignore")
    task = json.loads(sys.stdin.read())
    now = datetime.fromisoformat(task["now"])
    store = online.store_of(Path(task["folder"]), task["store"], task["port"])
    seconds = []
    for _ in range(task["repeats"]):
        redis.Redis(port=task["port"]).flushall()
        began = time.perf_counter()
        with online.quiet():
            store.materialize(now - timedelta(days=30), now)
        seconds.append(time.perf_counter() - began)
    print(json.dumps({"seconds": min(seconds), "peak_mib": peak_mib()}))


if __name__ == "__main__":
    main()
