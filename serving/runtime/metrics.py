"""What is counted, and how Prometheus reads it.

Counting must cost next to nothing: a run leaves its clock readings in lists, and numpy works them out and
sorts them into buckets when a list has grown or when somebody looks. 0.2 us a request for five histograms,
where a counter object with labels and a lock takes 1 us each.
"""

from __future__ import annotations

import os
import resource
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from serving.runtime.messages import Batch, InferRequest, Rows
from serving.runtime.model import Array, Model
from slipway import __version__

if TYPE_CHECKING:
    from serving.runtime.engine import Engine

SECONDS = (
    0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
    10.0,
)  # fmt: skip
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 1024)
STAGES = ("decode", "features", "queue", "run", "encode")
_FOLD_AT = 1024
"""Clock readings that wait to be counted, 170 bytes a request, for each model: 9 MB at most for fifty."""


class Histogram:
    __slots__ = ("bounds", "counts", "edges", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.edges = np.array(bounds)
        self.counts = np.zeros(len(bounds) + 1, np.int64)
        self.total = 0.0

    def add(self, values: np.ndarray[Any, Any]) -> None:
        places = np.searchsorted(self.edges, values, side="left")
        self.counts += np.bincount(places, minlength=len(self.counts))
        self.total += float(values.sum())


class ModelStatistics:
    """Of one version of one model; it outlives the loaded model, so that counters never go back."""

    def __init__(self) -> None:
        self.loads = 0
        self.requests = 0
        self.rows = 0
        self.runs = 0
        self.total = Histogram(SECONDS)
        self.stages = {stage: Histogram(SECONDS) for stage in STAGES}
        self.batch_rows = Histogram(ROWS)
        self.feature_status: Counter[str] = Counter()
        self.feature_age: dict[str, float] = {}
        self.feature_seconds: list[float] = []
        self.store_failures = 0
        self._requests: list[tuple[float, float, float]] = []
        """Arrived, submitted, decoded."""
        self._runs: list[tuple[int, int, float, float, float, float]] = []
        """How many of those requests, rows, started, ran, delivering, done."""
        # Of requests that were no objects; numbers become an array in half the time that tuples take.
        self._arrived: list[float] = []
        self._submitted: list[float] = []
        self._express_runs: list[tuple[int, int, float, float, float, float]] = []

    def count(self, requests: list[InferRequest], batch: Batch) -> None:
        now = perf_counter()
        self._requests += [(request.arrived, request.submitted, request.decoded) for request in requests]
        self._runs.append((len(requests), batch.rows, batch.started, batch.ran, batch.delivering, now))
        if len(self._requests) > _FOLD_AT:
            self.fold()

    def count_rows(self, rows: Rows) -> None:
        self._arrived += rows.arrived
        self._submitted += rows.submitted
        number = len(rows.arrived)
        self._express_runs.append(
            (number, number, rows.started, rows.delivering - rows.started, rows.delivering, rows.done)
        )
        if len(self._arrived) > _FOLD_AT:
            self.fold()

    def fold(self) -> None:
        if self.feature_seconds:
            self.stages["features"].add(np.array(self.feature_seconds))
            self.feature_seconds.clear()
        if self._runs:
            arrived, submitted, decoded = np.array(self._requests).T
            self._add(arrived, submitted, decoded, self._runs)
            self._requests.clear()
            self._runs.clear()
        if self._express_runs:
            arrived = np.array(self._arrived)
            self._add(arrived, np.array(self._submitted), np.zeros(len(arrived)), self._express_runs)
            self._arrived.clear()
            self._submitted.clear()
            self._express_runs.clear()

    def _add(
        self,
        arrived: Array,
        submitted: Array,
        decoded: Array,
        runs: list[tuple[int, int, float, float, float, float]],
    ) -> None:
        number, rows, started, ran, delivering, now = np.array(runs).T
        of = np.repeat(np.arange(len(number)), number.astype(np.int64))
        self.requests += len(of)
        self.rows += int(rows.sum())
        self.runs += len(number)
        self.total.add(now[of] - arrived)
        # Where features were read between decoding and the queue, the decoding was timed apart.
        self.stages["decode"].add(np.where(decoded > 0, decoded, submitted - arrived))
        self.stages["queue"].add(started[of] - submitted)
        self.stages["run"].add(ran)
        self.stages["encode"].add((now - delivering) / number)
        self.batch_rows.add(rows)


class Metrics:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.models: dict[tuple[str, str], ModelStatistics] = {}
        self.errors: Counter[tuple[str, str, str]] = Counter()
        """By model, protocol and kind."""
        self.extra: list[Any] = []
        """Callables that add lines of their own (connections, capture)."""
        engine.on_batch(self._count, self._count_rows)
        engine.on_load(self._adopt)

    def _adopt(self, model: Model) -> None:
        key = (model.name, model.version)
        found = self.models.get(key)
        if found is None:
            found = self.models[key] = ModelStatistics()
        found.loads += 1
        model.extras["statistics"] = found

    def _count(self, model: Model, requests: list[InferRequest], batch: Batch) -> None:
        model.extras["statistics"].count(requests, batch)

    def _count_rows(self, model: Model, rows: Rows) -> None:
        model.extras["statistics"].count_rows(rows)

    def count_error(self, model: str, protocol: str, kind: str) -> None:
        """`model` may be what a caller made up: only known names become labels."""
        known = model if model in self.engine.repository.entries else ""
        self.errors[(known, protocol, kind)] += 1

    def exposition(self) -> bytes:
        lines = Lines()
        lines.family("slipway_info", "gauge", "the version that runs")
        lines.sample("slipway_info", {"version": __version__}, 1)
        self._models(lines)
        self._statistics(lines)
        lines.family("slipway_request_errors_total", "counter", "requests that were answered with an error")
        for (model, protocol, kind), count in sorted(self.errors.items()):
            lines.sample(
                "slipway_request_errors_total", {"model": model, "protocol": protocol, "kind": kind}, count
            )
        for add in self.extra:
            add(lines)
        _process(lines)
        return lines.text()

    def _models(self, lines: Lines) -> None:
        entries = self.engine.repository.index()
        lines.family("slipway_model_ready", "gauge", "1: loaded and answering")
        for entry in entries:
            labels = {"model": entry.place.name, "version": entry.place.version}
            lines.sample("slipway_model_ready", labels, int(entry.model is not None))
        loaded = [entry.model for entry in entries if entry.model is not None]
        lines.family("slipway_model_memory_bytes", "gauge", "what a loaded model takes")
        for model in loaded:
            lines.sample("slipway_model_memory_bytes", _model_labels(model), model.memory)
        lines.family("slipway_queue_depth", "gauge", "requests that wait or run")
        for model in loaded:
            lines.sample("slipway_queue_depth", _model_labels(model), model.lane.depth)
        lines.family("slipway_memory_budget_bytes", "gauge", "what all models may take; 0: no limit")
        lines.sample("slipway_memory_budget_bytes", {}, self.engine.config.memory_budget)

    def _statistics(self, lines: Lines) -> None:
        labelled = [
            ({"model": name, "version": version}, found)
            for (name, version), found in sorted(self.models.items())
        ]
        for _, found in labelled:
            found.fold()
        for name, help, attribute in (
            ("slipway_model_loads_total", "times that it was loaded", "loads"),
            ("slipway_requests_total", "requests that were answered", "requests"),
            ("slipway_rows_total", "rows that were predicted", "rows"),
            ("slipway_runs_total", "calls of ONNX Runtime", "runs"),
            (
                "slipway_feature_store_failures_total",
                "reads that the store left unanswered",
                "store_failures",
            ),
        ):
            lines.family(name, "counter", help)
            for labels, found in labelled:
                lines.sample(name, labels, getattr(found, attribute))
        lines.family("slipway_request_seconds", "histogram", "from the whole request to the written answer")
        for labels, found in labelled:
            lines.histogram("slipway_request_seconds", labels, found.total)
        lines.family("slipway_stage_seconds", "histogram", "the same, by stage; run and encode once a run")
        for labels, found in labelled:
            for stage, histogram in found.stages.items():
                lines.histogram("slipway_stage_seconds", {**labels, "stage": stage}, histogram)
        lines.family("slipway_batch_rows", "histogram", "rows that shared a run")
        for labels, found in labelled:
            lines.histogram("slipway_batch_rows", labels, found.batch_rows)
        lines.family(
            "slipway_feature_values_total", "counter", "feature values by what the store said of them"
        )
        for labels, found in labelled:
            for status, count in sorted(found.feature_status.items()):
                lines.sample("slipway_feature_values_total", {**labels, "status": status}, count)
        lines.family("slipway_feature_age_seconds", "gauge", "age of the oldest value in the last request")
        for labels, found in labelled:
            for view, age in sorted(found.feature_age.items()):
                lines.sample("slipway_feature_age_seconds", {**labels, "view": view}, age)


def _model_labels(model: Model) -> dict[str, str]:
    return {"model": model.name, "version": model.version}


class Lines:
    """The text exposition format."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def family(self, name: str, kind: str, help: str) -> None:
        self._lines.append(f"# HELP {name} {help}\n# TYPE {name} {kind}")

    def sample(self, name: str, labels: Mapping[str, str], value: float) -> None:
        self._lines.append(f"{name}{_labels(labels.items())} {_number(value)}")

    def histogram(self, name: str, labels: Mapping[str, str], histogram: Histogram) -> None:
        """Nothing of one that counted nothing: 500 models that nobody asks would take 5 MB and a second."""
        count = int(histogram.counts.sum())
        if not count:
            return
        start = f"{name}_bucket{_labels([*labels.items(), ('le', '')])[:-2]}"
        below = 0
        for bound, inside in zip(histogram.bounds, histogram.counts.tolist(), strict=False):
            below += inside
            self._lines.append(f'{start}{_number(bound)}"}} {below}')
        self._lines.append(f'{start}+Inf"}} {count}')
        self.sample(f"{name}_sum", labels, histogram.total)
        self.sample(f"{name}_count", labels, count)

    def text(self) -> bytes:
        return ("\n".join(self._lines) + "\n").encode()


def _labels(labels: Iterable[tuple[str, str]]) -> str:
    text = ",".join(f'{name}="{_escape(value)}"' for name, value in labels)
    return f"{{{text}}}" if text else ""


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else repr(float(value))


_started = time.time()


def _process(lines: Lines) -> None:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    lines.family("process_cpu_seconds_total", "counter", "user and system time")
    lines.sample("process_cpu_seconds_total", {}, usage.ru_utime + usage.ru_stime)
    lines.family("process_resident_memory_bytes", "gauge", "resident memory")
    lines.sample("process_resident_memory_bytes", {}, resident_bytes())
    lines.family("process_start_time_seconds", "gauge", "start, seconds since the epoch")
    lines.sample("process_start_time_seconds", {}, _started)
    lines.family("process_open_fds", "gauge", "open file descriptors")
    lines.sample("process_open_fds", {}, len(os.listdir("/proc/self/fd")))


def resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def merge(texts: list[bytes]) -> bytes:
    """The expositions of several workers as one: counters and buckets add up, so do memory and depth."""
    order: list[str] = []
    values: dict[str, float] = {}
    for text in texts:
        for line in text.decode().splitlines():
            if line.startswith("#"):
                if line not in values:
                    values[line] = 0.0
                    order.append(line)
                continue
            name, _, value = line.rpartition(" ")
            if name not in values:
                order.append(name)
                values[name] = float(value)
            elif name.startswith(_LARGEST):
                values[name] = max(values[name], float(value))
            else:
                values[name] += float(value)
    lines = [line if line.startswith("#") else f"{line} {_number(values[line])}" for line in order]
    return ("\n".join(lines) + "\n").encode()


_LARGEST = (
    "slipway_info", "slipway_model_ready", "slipway_memory_budget_bytes", "slipway_feature_age_seconds",
    "slipway_drift_index", "process_start_time_seconds",
)  # fmt: skip
