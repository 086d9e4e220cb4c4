"""How materialization and reads grow: with the rows of the source, and with the keys in the store."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import redis
from feast.infra.online_stores.helpers import _redis_key
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value

from tests.benchmarks import online
from tests.benchmarks.historical_join import ROOT
from tests.valkey import ValkeyServer

SIZES = [100_000, 300_000, 1_000_000, 3_000_000, 10_000_000]
RESULTS = ROOT / ".bench" / "online-growth.json"
"""What was measured so far, for the picture: sizes can be measured one by one."""
BOUND = float(os.environ.get("BENCH_TIMEOUT", "120"))
"""Seconds for one materialization."""
ENTITIES = 10
READS = 200
MOST_KEYS = 3_000_000
EACH_A_KEY = "ours, each row a key"
SECONDS = "materialize: seconds"
MEMORY = "materialize: peak memory of the process, MiB"
P50 = f"read {ENTITIES} entities x {len(online.FEATURES)} features: p50, ms"
Found = dict[str, dict[str, dict[str, float]]]
"""Panel, line, size: value."""


def run() -> None:
    sizes = [int(size) for size in os.environ.get("BENCH_SIZES", ",".join(map(str, SIZES))).split(",")]
    found: Found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        for size in sizes:
            print(f"  {size:,} rows", flush=True)
            for title, name, value in _measure(Path(folder), size):
                found.setdefault(title, {}).setdefault(name, {})[str(size)] = value
                RESULTS.parent.mkdir(exist_ok=True)
                RESULTS.write_text(json.dumps(found, indent=1))
                print(f"    {title}: {name:28} {value:8.3f}", flush=True)
    _draw(found)


def _measure(folder: Path, rows: int) -> Iterator[tuple[str, str, float]]:
    """(panel, line, value): 100 k keys whose rows grow, ours and Feast's; keys of one row each, ours."""
    now = datetime.now(UTC)
    lines = [
        ("ours, 100 k keys", "ours", online.KEYS),
        ("duckdb -> redis, 100 k keys", "peer", online.KEYS),
        (EACH_A_KEY, "ours", rows),
    ]
    written = 0
    for name, store, keys in lines if rows <= MOST_KEYS else lines[:2]:
        if keys != written:
            _write_source(folder / "drivers.parquet", rows, keys, now)
            written = keys
        with ValkeyServer(folder / "valkey") as valkey:
            task: dict[str, Any] = {
                "folder": str(folder),
                "store": store,
                "port": valkey.port,
                "now": now.isoformat(),
            }
            task["repeats"] = 2 if store == "ours" and rows <= 1_000_000 else 1
            answer = _materialize(task)
            if answer is None:
                print(f"    {name}: no end in {BOUND:.0f} s", flush=True)
                continue
            kept = redis.from_url(valkey.url).info("keyspace")
            # Ours may keep the schemas under a key of its own.
            assert sum(database["keys"] for database in kept.values()) in (keys, keys + 1), kept
            yield SECONDS, name, answer["seconds"]
            yield MEMORY, name, answer["peak_mib"]
            if name == EACH_A_KEY:
                for reader, p50 in _read(folder, valkey, keys, now).items():
                    yield P50, reader, p50 * 1e3


def _materialize(task: dict[str, Any]) -> dict[str, float] | None:
    try:
        done = subprocess.run(
            [sys.executable, "-m", "tests.benchmarks._materialize"],
            input=json.dumps(task),
            capture_output=True,
            text=True,
            timeout=BOUND,
            check=False,
            cwd=ROOT,
        )
    except subprocess.TimeoutExpired:
        return None
    if done.returncode:
        raise RuntimeError(f"{task['store']}: {done.stderr[-2000:]}")
    answer: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return answer


def _write_source(path: Path, rows: int, keys: int, now: datetime) -> None:
    """In the order of time; each key as often as every other."""
    random = np.random.default_rng(rows)
    moments = np.sort(random.integers(0, 29 * 86_400 * 1_000_000, rows))
    start = int((now - timedelta(days=29, hours=1)).timestamp() * 1e6)
    names = pl.Series([f"driver-{n}" for n in range(keys)])
    pl.DataFrame(
        {
            "driver": names.gather(random.permutation(rows) % keys),
            "ts": pl.Series(start + moments).cast(pl.Datetime("us", "UTC")),
        }
        | {name: random.random(rows) for name in online.FEATURES}
    ).write_parquet(path, row_group_size=100_000)


def _read(folder: Path, valkey: ValkeyServer, keys: int, now: datetime) -> dict[str, float]:
    """p50 with so many keys in the store. Beside ours, which are there, lie Feast's: copies of one value that
    Feast wrote, for by itself it would write for minutes.
    """
    ours, peer = (online.store_of(folder, name, valkey.port) for name in ("ours", "peer"))
    _write_source(folder / "drivers.parquet", 1, 1, now)
    with online.quiet():
        peer.materialize(now - timedelta(days=30), now)
    _copy(redis.Redis(port=valkey.port, db=1), keys)
    random = np.random.default_rng(0)
    asked = [[f"driver-{n}" for n in random.integers(0, keys, ENTITIES)] for _ in range(READS)]
    return online.read_p50(ours, peer, valkey.url, asked)


COPIES = """
for number = ARGV[3], ARGV[4] do
  local name = string.format('driver-%d', number)
  redis.call('COPY', KEYS[1], ARGV[1] .. struct.pack('<I4', #name) .. name .. ARGV[2], 'REPLACE')
end
"""


def _copy(client: Any, keys: int) -> None:
    """On the server: from here each key would take 40 us."""

    def key(number: int) -> bytes:
        entity = EntityKey(join_keys=["driver"], entity_values=[Value(string_val=f"driver-{number}")])
        return _redis_key("peer", entity, entity_key_serialization_version=3)

    head, tail = key(0).split(struct.pack("<I", len("driver-0")) + b"driver-0")
    copies = client.register_script(COPIES)
    for start in range(1, keys, 10_000):
        copies(keys=[key(0)], args=[head, tail, start, min(start + 10_000, keys) - 1])
    assert client.dbsize() == keys
    assert client.exists(key(keys - 1))


def _draw(found: Found) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(13, 3.6), layout="constrained")
    for axis, title in zip(axes, (SECONDS, MEMORY, P50), strict=True):
        for name, values in found[title].items():
            points = sorted((int(size), value) for size, value in values.items())
            style = {"linewidth": 2.5 if name.startswith(("ours", "lookup")) else 1.2, "markersize": 3}
            axis.plot(*zip(*points, strict=True), label=name, marker="o", **style)
        axis.set(xscale="log", yscale="log", title=title)
        axis.set(xlabel="keys in the store" if title == P50 else "rows of the source")
        axis.grid(alpha=0.3, which="both")
        # Room above the lines for their names.
        axis.set_ylim(top=4 * axis.get_ylim()[1])
        axis.legend(frameon=False, fontsize=8, loc="upper left")
    target = ROOT / "docs" / "images" / "online-growth.svg"
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, metadata={"Date": None})
    print(f"  drawn: {target.relative_to(ROOT)}")
