"""Sampled predictions, kept as Parquet for the monitor.

The serving side appends references to a bounded queue and goes on; a thread turns them into rows and writes
a file a minute. When the queue is full or the store is dead, predictions are dropped and counted.
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections import deque
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import msgspec
import numpy as np

from serving.runtime.config import Config
from serving.runtime.messages import Batch, InferRequest, Rows, kept
from serving.runtime.metrics import Lines
from serving.runtime.model import Array, Model, TensorSpec
from serving.runtime.parquet import Kind, write_parquet
from slipway.errors import SettingsError

log = logging.getLogger("slipway.capture")
MAX_PENDING = 4096
"""Runs that wait to be written; each holds the arrays of at most one batch."""
MAX_COLUMNS = 512
"""Wider tensors (images) are kept as one JSON text a row."""


class _Taken(NamedTuple):
    model: Model
    stamp: int
    picked: list[tuple[str, str, int, int]]
    """Request id, trace id, first row, row after the last."""
    inputs: list[Array]
    outputs: list[Array]


class Capture:
    def __init__(self, uri: str, rate: float, seconds: float) -> None:
        self.rate = rate
        self.seconds = seconds
        self.dropped = 0
        self.written = 0
        self.files = 0
        self.failures = 0
        self._put = _writer(uri)
        self._queue: deque[_Taken] = deque()
        self._random = random.Random()
        # The next request to take is drawn, not every request: the others cost one subtraction.
        self._skip = self._gap()
        self._offset = time.time() - perf_counter()
        self._stop = threading.Event()
        self._serial = 0
        self._name = f"{os.environ.get('HOSTNAME', 'local')}-{os.getpid()}-{int(time.time())}"
        self._thread = threading.Thread(target=self._run, name="capture", daemon=True)
        self._thread.start()

    def _gap(self) -> int:
        """How many requests to let pass: geometric, so that each is taken with the same chance."""
        if self.rate >= 1.0:
            return 0
        return int(self._random.expovariate(1.0) / -np.log1p(-self.rate)) if self.rate > 0 else 1 << 62

    def observe(self, model: Model, requests: list[InferRequest], batch: Batch) -> None:
        """An observer of the engine."""
        if self._skip >= len(requests):
            self._skip -= len(requests)
            return
        picked = []
        place = self._skip
        while place < len(requests):
            request = requests[place]
            first = sum(other.rows for other in requests[:place])
            last = batch.rows if len(requests) == 1 else first + request.rows
            trace = request.trace.trace_id if request.trace is not None else ""
            picked.append((request.request_id, trace, first, last))
            place += 1 + self._gap()
        self._skip = place - len(requests)
        self._keep(model, requests[0].arrived, picked, batch)

    def observe_rows(self, model: Model, rows: Rows) -> None:
        """As `observe`, for requests that were no objects: single rows without a trace."""
        count = len(rows.arrived)
        if self._skip >= count:
            self._skip -= count
            return
        picked = []
        place = self._skip
        while place < count:
            picked.append((rows.request_id(place), "", place, place + 1))
            place += 1 + self._gap()
        self._skip = place - count
        self._keep(model, rows.arrived[0], picked, rows)

    def _keep(
        self,
        model: Model,
        arrived: float,
        picked: list[tuple[str, str, int, int]],
        run: Batch | Rows,
    ) -> None:
        if len(self._queue) >= MAX_PENDING:
            self.dropped += len(picked)
            return
        stamp = int((arrived + self._offset) * 1e6)
        self._queue.append(_Taken(model, stamp, picked, *kept(run)))

    def close(self, seconds: float) -> None:
        """Write what is left, if the store takes it in time."""
        self._stop.set()
        self._thread.join(seconds)

    def expose(self, lines: Lines) -> None:
        for name, value in (
            ("written", self.written),
            ("dropped", self.dropped),
            ("files", self.files),
            ("failures", self.failures),
        ):
            lines.family(f"slipway_capture_{name}_total", "counter", f"prediction capture: {name}")
            lines.sample(f"slipway_capture_{name}_total", {}, value)

    def _run(self) -> None:
        while not self._stop.wait(self.seconds):
            self._flush()
        self._flush()

    def _flush(self) -> None:
        groups: dict[tuple[str, str], list[_Taken]] = {}
        while self._queue:
            taken = self._queue.popleft()
            groups.setdefault((taken.model.name, taken.model.digest), []).append(taken)
        for group in groups.values():
            try:
                self._write(group)
            except Exception as error:
                self.failures += 1
                self.dropped += sum(len(taken.picked) for taken in group)
                log.warning("captured predictions are lost: %s", str(error).split("\n")[0])

    def _write(self, group: list[_Taken]) -> None:
        model = group[0].model
        table = _table(model, group)
        moment = time.gmtime(group[0].stamp / 1e6)
        self._serial += 1
        path = (
            f"model={model.name}/version={model.version}/date={time.strftime('%Y-%m-%d', moment)}/"
            f"{self._name}-{self._serial:06d}.parquet"
        )
        self._put(path, write_parquet(table))
        self.files += 1
        self.written += sum(len(taken.picked) for taken in group)


def _table(model: Model, group: list[_Taken]) -> dict[str, tuple[Kind, list[Any]]]:
    """A row for every predicted row: where it belongs, what went in, what came out."""
    table: dict[str, tuple[Kind, list[Any]]] = {
        "timestamp": ("timestamp", []),
        "request_id": ("string", []),
        "trace_id": ("string", []),
        "row": ("int64", []),
        "model_digest": ("string", []),
    }
    for taken in group:
        for request_id, trace_id, first, last in taken.picked:
            for row in range(last - first):
                for name, value in (
                    ("timestamp", taken.stamp),
                    ("request_id", request_id),
                    ("trace_id", trace_id or None),
                    ("row", row),
                    ("model_digest", model.digest),
                ):
                    table[name][1].append(value)
    names = (
        {tensor.name: [c.name for c in tensor.columns] for tensor in model.contract.inputs}
        if model.contract
        else {}
    )
    for which, specs in ((0, model.inputs), (1, model.outputs)):
        for number, spec in enumerate(specs):
            rows = []
            for taken in group:
                array = (taken.inputs, taken.outputs)[which][number]
                flat = array.reshape(len(array), -1) if array.ndim else array.reshape(1, 1)
                rows += [flat[first:last] for _, _, first, last in taken.picked]
            _add(table, spec, rows, names.get(spec.name) if which == 0 else None)
    return table


def _add(
    table: dict[str, tuple[Kind, list[Any]]], spec: TensorSpec, rows: list[Array], columns: list[str] | None
) -> None:
    widths = {part.shape[1] for part in rows}
    kind: Kind = {"f": "double", "i": "int64", "b": "bool", "s": "string"}[spec.datatype.kind]  # type: ignore[assignment]
    width = widths.pop() if len(widths) == 1 else 0
    if not 0 < width <= MAX_COLUMNS or (spec.datatype.name == "UINT64"):
        texts = [msgspec.json.encode(row).decode() for part in rows for row in part.tolist()]
        table[_free(table, spec.name)] = ("string", texts)
        return
    if columns is None or len(columns) != width:
        columns = [spec.name] if width == 1 else [f"{spec.name}[{place}]" for place in range(width)]
    joined = np.concatenate(rows)
    for place, name in enumerate(columns):
        table[_free(table, name)] = (kind, joined[:, place].tolist())


def _free(table: dict[str, tuple[Kind, list[Any]]], name: str) -> str:
    """An output may bear the name of an input."""
    while name in table:
        name += "_out"
    return name


def _writer(uri: str) -> Any:
    if not uri.startswith("s3://"):
        root = Path(uri.removeprefix("file://"))

        def put_file(path: str, content: bytes) -> None:
            target = root / path
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = target.with_suffix(".partial")
            partial.write_bytes(content)
            partial.rename(target)

        return put_file
    from serving.runtime.storage import S3Storage, s3_options

    return S3Storage(uri, s3_options()).write


def capture_from(config: Config) -> Capture:
    if not 0 <= config.capture_rate <= 1 or config.capture_seconds <= 0:
        raise SettingsError(
            f"capture rate {config.capture_rate}, every {config.capture_seconds} s",
            fix="set --capture-rate between 0 and 1 and --capture-seconds above 0",
        )
    return Capture(config.capture_uri, config.capture_rate, config.capture_seconds)
