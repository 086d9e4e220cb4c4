"""kill -9 of `slipway features materialize`: what is there is right, and the next run finishes."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
import redis

from slipway.features.answer import Status
from slipway.features.keys import view_prefix
from slipway.features.lookup import FeatureLookup
from slipway.features.service import describe_service
from slipway.features.store import open_store
from slipway.settings import load_settings
from tests.integration.features.test_manage_and_parity import NOW, project
from tests.valkey import ValkeyServer

__all__ = ["project"]

KEYS = 300_000


def write_many(folder: Path) -> pl.DataFrame:
    names = pl.Series("carrier", [f"carrier-{number}" for number in range(KEYS)])
    frame = pl.DataFrame(
        {
            "carrier": names,
            "ts": pl.repeat(NOW - timedelta(minutes=5), KEYS, eager=True).cast(pl.Datetime("us", "UTC")),
            "mean": pl.Series(np.arange(KEYS), dtype=pl.Float32),
            "flights": np.arange(KEYS),
        }
    )
    frame.write_parquet(folder / "delays.parquet")
    return frame


def test_a_killed_materialization_is_finished_by_the_next(project: Path, valkey: ValkeyServer) -> None:
    write_many(project)
    slipway = str(Path(sys.executable).with_name("slipway"))
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(project),
        "PYTHONPATH": str(Path(__file__).parents[3]),
        "PYTHONWARNINGS": "ignore",
    }

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [slipway, "features", *words],
            cwd=project,
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
        )

    applied = run("apply", "--json")
    assert applied.returncode == 0, applied.stderr
    settings = load_settings({}, directory=project)
    store = open_store(settings)
    service = describe_service(store, "delay")
    pattern = view_prefix("shop", "delays") + b"*"
    asked = [f"carrier-{number}" for number in range(0, KEYS, 97)]

    def read() -> tuple[list[str], list[float], list[str]]:
        lookup = FeatureLookup.of_service(service, settings)
        answer = lookup.read_now({"carrier": asked, "origin": ["JFK"] * len(asked)})
        lookup.close_now()
        at = lookup.columns.index("delays__mean")
        states = [Status(code).name for code in answer.status[:, at].tolist()]
        values = answer.tensors["delays__mean"].tolist()
        wrong = [
            name
            for name, value, state in zip(asked, values, states, strict=True)
            if state == "PRESENT" and value != float(name.partition("-")[2])
        ]
        return states, values, wrong

    with redis.Redis(port=valkey.port) as client:
        before = client.dbsize()
        # Of other tests, on the same store.
        others = sum(1 for _ in client.scan_iter(pattern, count=5000))
        process = subprocess.Popen(
            [slipway, "features", "materialize", "delays"], cwd=project, env=environment
        )
        try:
            # In slices, and stopped while it is looked at: on a busy machine it could end before the look.
            while process.poll() is None and client.dbsize() <= before:
                process.send_signal(signal.SIGCONT)
                time.sleep(0.05)
                process.send_signal(signal.SIGSTOP)
        finally:
            process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "it was done before the kill"
        written = sum(1 for _ in client.scan_iter(pattern, count=5000)) - others
        assert 0 < written < KEYS

        states, _, wrong = read()
        assert set(states) == {"PRESENT", "NOT_FOUND"}
        assert wrong == []
        # Feast has not been told that this stretch is done, so an incremental run does not skip it.
        assert store.get_feature_view("delays").materialization_intervals == []

        done = run("materialize", "delays", "--incremental", "--json")
        assert done.returncode == 0, done.stderr
        assert sum(1 for _ in client.scan_iter(pattern, count=5000)) == KEYS + others
        states, _, wrong = read()
        assert (set(states), wrong) == ({"PRESENT"}, [])
        store.teardown()
