"""The first runs of a model: they settle its outputs, time it, and find out whether rows may share a run.

Batching must not change an answer. Kernels that work row by row (tree ensembles, scalers, encoders) give the
same bits whatever the batch; a GEMM blocks its sums by the number of rows, and its last bits differ. So rows
are run alone and together and compared bit for bit; only what agrees is ever batched.
"""

from __future__ import annotations

from time import perf_counter
from typing import Any, Literal

import numpy as np

from serving.runtime.model import Array, Model, TensorSpec
from slipway.errors import SlipwayError

Batching = Literal["exact", "tolerant", "off"]

SIZES = (2, 3, 4, 5, 8, 16, 33, 64, 128, 256)
CHECK_SECONDS = 0.15
"""What the comparison may take; sizes that do not fit into it are not used."""
TOLERANCE = 1e-5


def warm_up(model: Model, *, max_rows: int, batching: Batching) -> None:
    behaviour = model.behaviour
    generator = np.random.default_rng(7)
    sizes = [size for size in SIZES if size <= max_rows]
    rows = _random_rows(model, max(sizes, default=1), generator)
    try:
        model.settle_outputs(model.run_unsettled(_slice(rows, 0, 1, model)))
        behaviour.base_seconds = _timed(model, _slice(rows, 0, 1, model))
    except SlipwayError as error:
        # Random values may be outside what the graph takes; the first real request will tell. Until then
        # the model counts as slow, and its rows run alone.
        behaviour.base_seconds = 0.01
        behaviour.reason = f"the warm-up run failed: {error.what}"
        return
    if not model.has_batch_axis:
        behaviour.reason = "the graph's first axis is not of any length"
    elif batching == "off" or not sizes:
        behaviour.reason = "switched off"
    else:
        _compare(model, rows, sizes, batching)
    _measure_rows(model, rows, sizes)


def _compare(model: Model, rows: dict[str, Array], sizes: list[int], batching: Batching) -> None:
    behaviour = model.behaviour
    until = perf_counter() + CHECK_SECONDS
    singles: list[list[Array]] = []
    verified = 1
    for size in sizes:
        if size > 4 and perf_counter() + 2 * size * behaviour.base_seconds > until:
            behaviour.reason = f"rows alone and together agree up to {verified} rows; for more it is too slow"
            break
        try:
            while len(singles) < size:
                singles.append(model.run(_slice(rows, len(singles), len(singles) + 1, model)))
            together = model.run(_slice(rows, 0, size, model))
        except SlipwayError as error:
            behaviour.reason = f"{size} rows together fail: {error.what}"
            break
        difference = _difference(model, singles[:size], together, batching)
        if difference:
            behaviour.reason = f"{size} rows together: {difference}"
            break
        verified = size
    else:
        behaviour.reason = f"rows alone and together agree up to {verified} rows"
    behaviour.max_rows = verified
    # A pair that agrees by chance proves little.
    behaviour.batchable = verified >= 4


def _difference(model: Model, singles: list[list[Array]], together: list[Array], batching: Batching) -> str:
    for number, spec in enumerate(model.outputs):
        whole = together[number]
        if whole.shape[:1] != (len(singles),):
            return f"output {spec.name!r} has shape {list(whole.shape)}"
        alone = np.concatenate([single[number] for single in singles])
        if alone.shape != whole.shape or alone.dtype != whole.dtype:
            return f"output {spec.name!r} has shape {list(whole.shape)}, alone {list(alone.shape)}"
        if whole.dtype == object:
            if alone.tolist() != whole.tolist():
                return f"output {spec.name!r} differs"
        elif alone.tobytes() != whole.tobytes():
            close = (
                batching == "tolerant"
                and whole.dtype.kind == "f"
                and np.allclose(alone, whole, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True)
            )
            if not close:
                return f"output {spec.name!r} differs in its bits"
    return ""


def _measure_rows(model: Model, rows: dict[str, Array], sizes: list[int]) -> None:
    behaviour = model.behaviour
    if not model.has_batch_axis or not sizes:
        return
    size = max((size for size in sizes if size * behaviour.base_seconds < CHECK_SECONDS / 4), default=2)
    try:
        together = _timed(model, _slice(rows, 0, size, model))
    except SlipwayError:
        behaviour.row_seconds = behaviour.base_seconds
        return
    behaviour.row_seconds = max(0.0, together - behaviour.base_seconds) / (size - 1)


def _timed(model: Model, feeds: dict[str, Array]) -> float:
    """The fastest of a few: the first run of a shape also plans its memory."""
    best = float("inf")
    until = perf_counter() + 0.02
    for _ in range(5):
        began = perf_counter()
        model.run(feeds)
        best = min(best, perf_counter() - began)
        if perf_counter() > until and best < float("inf"):
            break
    return best


def _slice(rows: dict[str, Array], start: int, stop: int, model: Model) -> dict[str, Array]:
    if not model.has_batch_axis:
        return rows
    return {name: array[start:stop] for name, array in rows.items()}


def _random_rows(model: Model, count: int, generator: np.random.Generator) -> dict[str, Array]:
    return {
        spec.name: _random(spec, count if model.has_batch_axis else 1, generator) for spec in model.inputs
    }


def _random(spec: TensorSpec, count: int, generator: np.random.Generator) -> Array:
    shape = (1,) if spec.shape is None else tuple(1 if axis == -1 else axis for axis in spec.shape)
    if spec.shape and spec.shape[0] == -1:
        shape = (count, *shape[1:])
    kind = spec.datatype
    if kind.kind == "s":
        words: Any = np.array(["a", "b", "", "unknown"], object)
        return words[generator.integers(0, 4, shape)]  # type: ignore[no-any-return]
    if kind.kind == "b":
        return generator.integers(0, 2, shape).astype(bool)
    if kind.kind == "i":
        return generator.integers(0, 4, shape).astype(kind.numpy)
    # Several magnitudes: splits of trees and thresholds lie anywhere.
    return (generator.normal(size=shape) * 10.0 ** generator.integers(-1, 3, shape)).astype(kind.numpy)
