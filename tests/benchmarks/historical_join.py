"""Historical joins on the embedded S3: ours against Feast's duckdb and dask stores and bare Polars.

Each contender answers in a process of its own, in rounds that take turns; a process asks `repeats` times and
its best answer counts, so that imports and cold caches do not. The history is one file, as Polars writes it
(zstd, row groups of 100,000) or as pandas does by default (snappy, one row group).
`BENCH_SHAPES=10,100 BENCH_ROUNDS=3`, `BENCH_WRITERS=pandas` and `BENCH_STORES=ours,duckdb` narrow it down,
`BENCH_TIMEOUT=600` bounds a process; `BENCH_GROWTH=1` measures growth with the source's rows instead and
draws docs/images/historical-join.svg. The peers' environment is made once, below .venv/peers.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from slipway.local import Platform
from slipway.objects import ObjectStore
from slipway.settings import Settings, load_settings

ROOT = Path(__file__).parents[2]
PEERS = ROOT / ".venv" / "peers" / "feast"
# duckdb 1.4.4 is the newest with its S3 extension on PyPI.
PEER_PACKAGES = ("feast[duckdb]==0.67.0", "duckdb==1.4.4", "duckdb-ext-httpfs", "s3fs", "boto3")
STORES = {
    "ours": "slipway.features.offline.PolarsOfflineStore",
    "bare polars": "bare polars",
    "duckdb": "duckdb",
    "dask": "dask",
}
ENTITY_ROWS = 100_000
SPAN = 30 * 86_400 * 1_000_000
TIMEOUT = float(os.environ.get("BENCH_TIMEOUT", "280"))
"""Seconds for one process of a contender."""


def run() -> None:
    peer_python = _peers()
    with tempfile.TemporaryDirectory() as folder:
        platform = Platform(Path(folder) / "home")
        platform.up()
        try:
            settings = load_settings({"SLIPWAY_HOME": str(platform.home.path)}, directory=folder)
            bench = _Bench(settings, Path(folder), peer_python)
            if os.environ.get("BENCH_GROWTH"):
                _growth(bench)
            else:
                _shapes(bench)
        finally:
            platform.down()


class _Bench:
    def __init__(self, settings: Settings, folder: Path, peer_python: Path) -> None:
        self._settings = settings
        self._folder = folder
        self._peer_python = peer_python
        self._objects = ObjectStore.from_settings(settings)

    def prepare(self, rows: int, history: int, writer: str = "polars") -> dict[str, Any]:
        """A history of so many rows, so many a key, in the order of time; and rows that ask for it."""
        random = np.random.default_rng(rows + history)
        start = int(datetime(2013, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000
        keys = rows // history
        micros = pl.Datetime("us", "UTC")
        source = pl.DataFrame(
            {"key": np.repeat(np.arange(keys), history), "ts": start + random.integers(0, SPAN, rows)}
            | {f"f{n}": random.normal(size=rows) for n in range(7)}
            | {f"f{n}": random.integers(0, 1000, rows) for n in range(7, 10)}
        )
        source = source.sort("ts").with_columns(pl.col("ts").cast(micros))
        buffer = io.BytesIO()
        if writer == "pandas":
            source.to_pandas().to_parquet(buffer)
        else:
            source.write_parquet(buffer, row_group_size=100_000)
        uri = self._settings.uri("bench", f"{rows}-{history}-{writer}.parquet")
        self._objects.put(uri, buffer.getvalue())
        entities = self._folder / f"{rows}-{history}.parquet"
        pl.DataFrame(
            {
                "key": random.integers(0, keys, ENTITY_ROWS),
                "event_timestamp": start + random.integers(0, SPAN, ENTITY_ROWS),
            }
        ).with_columns(pl.col("event_timestamp").cast(micros)).write_parquet(entities)
        return {"path": uri, "entities": str(entities)}

    def measure(self, store: str, data: dict[str, Any], repeats: int) -> dict[str, Any] | None:
        s3 = self._settings.s3
        task = {
            **data,
            "store": STORES[store],
            "repeats": repeats,
            "endpoint": s3.endpoint,
            "access_key": s3.access_key,
            "secret_key": s3.secret_key,
        }
        python = self._peer_python if store in ("duckdb", "dask") else Path(sys.executable)
        script = Path(__file__).with_name("_contender.py")
        try:
            done = subprocess.run(
                # -P: beside the script lies a platform.py, which is not the standard library's.
                [python, "-P", "-W", "ignore", script],
                input=json.dumps(task),
                capture_output=True,
                text=True,
                timeout=TIMEOUT,
                check=False,
                env={**os.environ, "PYTHONPATH": str(ROOT)} if python == Path(sys.executable) else None,
            )
        except subprocess.TimeoutExpired:
            return None
        if done.returncode:
            raise RuntimeError(f"{store}: {done.stderr[-2000:]}")
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return answer


def _shapes(bench: _Bench) -> None:
    shapes = [int(shape) for shape in os.environ.get("BENCH_SHAPES", "10,100,1000").split(",")]
    stores = os.environ.get("BENCH_STORES", ",".join(STORES)).split(",")
    rounds = int(os.environ.get("BENCH_ROUNDS", "3"))
    writers = os.environ.get("BENCH_WRITERS", "polars,pandas").split(",")
    for history, writer in itertools.product(shapes, writers):
        data = bench.prepare(1_000_000, history, writer)
        found: dict[str, list[dict[str, Any]]] = {store: [] for store in stores}
        slow: set[str] = set()
        for _ in range(rounds):
            for store in stores:
                if store in slow:
                    continue
                answer = bench.measure(store, data, 1 if store == "dask" else 3)
                if answer is None:
                    print(f"  {store}: no answer within {TIMEOUT} s", flush=True)
                    slow.add(store)
                    continue
                found[store].append(answer)
                if min(answer["seconds"]) > 20:
                    slow.add(store)  # once is enough
        print(f"1 M rows x 10 features by {writer}, {history} rows a key, {ENTITY_ROWS} entity rows")
        _report(found)


def _report(found: dict[str, list[dict[str, Any]]]) -> None:
    times = {store: [min(one["seconds"]) for one in answers] for store, answers in found.items()}
    for store, answers in found.items():
        if not answers:
            continue
        ratio = ""
        if store != "ours" and times.get("ours"):
            # Of the same round each, so that what else the machine does weighs on both.
            ratios = [theirs / ours for theirs, ours in zip(times[store], times["ours"], strict=False)]
            ratio = f"   {statistics.median(ratios):6.2f} x ours"
        print(
            f"  {store:12} median {statistics.median(times[store]):7.2f} s, peak "
            f"{max(one['peak_mib'] for one in answers):6.0f} MiB, {answers[0]['rows']} rows{ratio}",
            flush=True,
        )


def _growth(bench: _Bench) -> None:
    """From 100 k to 10 M rows of source, 100 a key; a contender that got too slow is left out above that."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    sizes = [100_000, 300_000, 1_000_000, 3_000_000, 10_000_000]
    stores = os.environ.get("BENCH_STORES", "ours,bare polars,duckdb,dask").split(",")
    lines: dict[str, list[tuple[int, float, float]]] = {store: [] for store in stores}
    for rows in sizes:
        data = bench.prepare(rows, 100)
        for store in stores:
            if lines[store] and lines[store][-1][1] > 15:
                continue
            answer = bench.measure(store, data, 2 if rows < 10_000_000 else 1)
            if answer is not None:
                lines[store].append((rows, min(answer["seconds"]), answer["peak_mib"]))
                print(
                    f"  {rows:>10} {store:12} {lines[store][-1][1]:7.2f} s {answer['peak_mib']:6.0f} MiB",
                    flush=True,
                )
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for store, points in lines.items():
        style = {"linewidth": 2.5 if store == "ours" else 1.2, "marker": "o", "markersize": 3}
        left.plot([p[0] for p in points], [p[1] for p in points], label=store, **style)
        right.plot([p[0] for p in points], [p[2] for p in points], label=store, **style)
    for axis, title in ((left, "seconds"), (right, "peak memory of the process, MiB")):
        axis.set(xscale="log", yscale="log", xlabel="rows of the source", title=title)
        axis.grid(alpha=0.3, which="both")
    left.legend(frameon=False)
    target = ROOT / "docs" / "images" / "historical-join.svg"
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, metadata={"Date": None})
    print(f"  drawn: {target.relative_to(ROOT)}")


def _peers() -> Path:
    """The Python of an environment with Feast's own stores, made on the first run."""
    python = PEERS / "bin" / "python"
    stamp = PEERS / ".packages"
    if not stamp.exists() or stamp.read_text() != "\n".join(PEER_PACKAGES):
        uv = Path(sys.prefix) / "uv" / "bin" / "uv"
        subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, PEERS], check=True)
        subprocess.run([uv, "pip", "install", "--quiet", "--python", python, *PEER_PACKAGES], check=True)
        stamp.write_text("\n".join(PEER_PACKAGES))
    return python
