"""What was served, counted into the bins of the training baseline: the monitor compares the two.

Counting is put off: a run leaves its input arrays in a list, and every thousand rows numpy counts them at
once, 0.03 us a value.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from serving.runtime.messages import Batch, InferRequest, Rows, kept
from serving.runtime.metrics import Lines
from serving.runtime.model import Array, Model
from slipway.baseline import Baseline, CategoryBaseline, NumericBaseline, stability_index
from slipway.errors import ContractMismatch

if TYPE_CHECKING:
    from serving.runtime.engine import Engine

FOLD_ROWS = 1024
MAX_PENDING_ARRAYS = 512


class _Counted:
    """One feature or output: where its values lie in the arrays, and what was counted."""

    def __init__(self, baseline: NumericBaseline | CategoryBaseline, tensor: int, column: int) -> None:
        self.baseline = baseline
        self.tensor = tensor
        self.column = column
        self.counts = np.zeros(len(baseline.shape), np.int64)
        if isinstance(baseline, NumericBaseline):
            self._edges = np.array(baseline.edges, np.float64)
        else:
            self._bins = dict(baseline.bins())

    def count(self, values: Array) -> None:
        baseline = self.baseline
        if isinstance(baseline, NumericBaseline):
            numbers = values.astype(np.float64, copy=False)
            missing = np.isnan(numbers)
            places = np.searchsorted(self._edges, numbers, side="right")
            places[missing] = len(baseline.counts)
            self.counts += np.bincount(places, minlength=len(self.counts))
        else:
            for value, count in Counter(values.tolist()).items():
                self.counts[self._bins.get(value, len(baseline.values))] += count

    @property
    def index(self) -> float:
        return stability_index(self.baseline.shape, self.counts.tolist())


class DriftCounter:
    """Of one loaded model version."""

    def __init__(self, model: Model, baseline: Baseline) -> None:
        self.rows = 0
        self._pending: list[tuple[list[Array], list[Array]]] = []
        self._pending_rows = 0
        self.features = self._place_features(model, baseline)
        numbers = model.output_numbers
        self.outputs = [
            _Counted(out, numbers[out.name], -1) for out in baseline.outputs if out.name in numbers
        ]

    @staticmethod
    def _place_features(model: Model, baseline: Baseline) -> list[_Counted]:
        places: dict[str, tuple[int, int]] = {}
        if model.contract is not None:
            for tensor in model.contract.inputs:
                for column, described in enumerate(tensor.columns):
                    places[described.name] = (model.input_numbers[tensor.name], column)
        for number, spec in enumerate(model.inputs):
            places.setdefault(spec.name, (number, 0))
        unknown = [feature.name for feature in baseline.features if feature.name not in places]
        if unknown:
            raise ContractMismatch(
                f"the drift baseline has {', '.join(unknown)}, which the contract does not",
                where=f"model {model.name}/{model.version}",
                fix="publish the baseline of this very model",
            )
        return [_Counted(feature, *places[feature.name]) for feature in baseline.features]

    def observe(self, inputs: list[Array], outputs: list[Array], rows: int) -> None:
        self._pending.append((inputs, outputs))
        self._pending_rows += rows
        if self._pending_rows >= FOLD_ROWS or len(self._pending) >= MAX_PENDING_ARRAYS:
            self.fold()

    def fold(self) -> None:
        if not self._pending:
            return
        pending, self._pending = self._pending, []
        self.rows += self._pending_rows
        self._pending_rows = 0
        for which, counted in ((0, self.features), (1, self.outputs)):
            joined: dict[int, Array] = {}
            for one in counted:
                array = joined.get(one.tensor)
                if array is None:
                    # Two axes for all: (n), (n, 1) and (n, k) alike; the rest of an image is one long row.
                    parts = [arrays[which][one.tensor] for arrays in pending]
                    array = joined[one.tensor] = np.concatenate(
                        [part.reshape(len(part), -1) for part in parts]
                    )
                one.count(array[:, one.column])


def expose(counter: DriftCounter, lines: Lines, labels: dict[str, str]) -> None:
    """Cumulative counts by bin, so that a monitor can take any window; and the index of all so far."""
    counter.fold()
    for one in counter.features:
        for place, count in enumerate(one.counts.tolist()):
            lines.sample(
                "slipway_drift_values_total",
                {**labels, "feature": one.baseline.name, "bin": str(place)},
                count,
            )


class Drift:
    """All counters of the server; they outlive a model that is unloaded for want of memory."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._counters: dict[tuple[str, str, str], DriftCounter] = {}
        engine.on_load(self._adopt)
        engine.on_batch(self._observe, self._observe_rows)

    def _adopt(self, model: Model) -> None:
        baseline = model.extras.get("baseline")
        if baseline is None:
            return
        key = (model.name, model.version, model.digest)
        found = self._counters.get(key)
        if found is None:
            found = self._counters[key] = DriftCounter(model, baseline)
        model.extras["drift"] = found

    def _observe(self, model: Model, requests: list[InferRequest], batch: Batch) -> None:
        counter = model.extras.get("drift")
        if counter is not None:
            counter.observe(*kept(batch), batch.rows)

    def _observe_rows(self, model: Model, rows: Rows) -> None:
        counter = model.extras.get("drift")
        if counter is not None:
            counter.observe(*kept(rows), len(rows.arrived))

    def expose(self, lines: Lines) -> None:
        loaded = [
            (entry.model, entry.model.extras["drift"])
            for entry in self._engine.repository.index()
            if entry.model is not None and "drift" in entry.model.extras
        ]
        lines.family("slipway_drift_values_total", "counter", "served values by bin of the baseline")
        for model, counter in loaded:
            expose(counter, lines, {"model": model.name, "version": model.version})
        lines.family("slipway_drift_rows_total", "counter", "rows that were counted")
        for model, counter in loaded:
            lines.sample(
                "slipway_drift_rows_total", {"model": model.name, "version": model.version}, counter.rows
            )
        lines.family("slipway_drift_index", "gauge", "population stability index of all since the start")
        for model, counter in loaded:
            for one in (*counter.features, *counter.outputs):
                labels = {"model": model.name, "version": model.version, "feature": one.baseline.name}
                lines.sample("slipway_drift_index", labels, one.index)

    def report(self, model: Model) -> dict[str, Any] | None:
        """The raw counts, for a monitor that would rather have JSON than Prometheus."""
        counter: DriftCounter | None = model.extras.get("drift")
        if counter is None:
            return None
        counter.fold()
        return {
            "model": model.name,
            "version": model.version,
            "digest": model.digest,
            "rows": counter.rows,
            "features": {one.baseline.name: one.counts.tolist() for one in counter.features},
            "outputs": {one.baseline.name: one.counts.tolist() for one in counter.outputs},
        }
