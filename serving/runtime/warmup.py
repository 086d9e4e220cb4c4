"""The first runs of a model: they settle its outputs, time it, and find out whether rows may share a run.

Batching must not change an answer. So the graph must keep its rows apart, operator by operator (`rows`), and
its kernels must give a row the same bits whatever the batch: trees, scalers and encoders do, a GEMM may block
its sums by the number of rows. Rows are run alone and together and compared bit for bit.
"""

from __future__ import annotations

import logging
from time import perf_counter
from typing import Any, Literal

import numpy as np

from serving.runtime.graph import Graph, read_graph
from serving.runtime.model import Array, Model, TensorSpec
from serving.runtime.rows import Finding, follow_rows
from slipway.errors import SlipwayError

log = logging.getLogger("slipway.warmup")
Batching = Literal["exact", "tolerant", "off"]

SIZES = (2, 3, 4, 5, 6, 7, 8, 11, 13, 16, 23, 33, 64, 100, 128, 256)
"""Kernels take rows by 4, 6, 8, 12 or 16, and what is left over by kernels of their own."""
CHECK_SECONDS = 0.15
"""What the comparison may take; sizes that do not fit into it are not used."""
CHECK_BYTES = 16 << 20
"""Of one input, likewise."""
TOLERANCE = 1e-5
MAX_KEYS = 64
"""Shapes of requests that are compared, where a model takes many."""


def warm_up(model: Model, content: bytes, *, max_rows: int, batching: Batching) -> None:
    """`content`: the file that the model was loaded from."""
    behaviour = model.behaviour
    graph, finding = _read(model, content)
    sizes = [size for size in SIZES if size <= max_rows]
    rows = random_rows(model, graph, max(sizes, default=1))
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
    elif batching == "exact" and not finding.apart:
        behaviour.reason = f"requests do not share runs, rows may change one another: {finding.reason}"
    elif batching == "exact" and finding.sums and not _shows_sums(model):
        behaviour.reason = "requests do not share runs: no output shows in which order floats are added up"
    elif any(spec.shape is None or -1 in spec.shape[1:] for spec in model.inputs):
        behaviour.reason = "how many rows may run together is compared for each shape that comes"
        behaviour.batchable, behaviour.max_rows, behaviour.limits = True, max(sizes), {}
        model.comparison = (graph, sizes, batching)
    else:
        verified, behaviour.reason = _compare(model, rows, sizes, batching, behaviour.base_seconds)
        # A pair that agrees by chance proves little.
        behaviour.batchable = verified >= 4
        behaviour.max_rows = verified
    _measure_rows(model, rows, sizes)


def compare_shape(model: Model, key: Any) -> None:
    """Find out how many rows of this key may share a run. In a thread: it takes CHECK_SECONDS or so."""
    limits = model.behaviour.limits
    if limits is None or model.comparison is None:
        return
    graph, sizes, batching = model.comparison
    try:
        widest = max((int(np.prod(tail, dtype=object)) for tail in key), default=1) * 8
        sizes = [size for size in sizes if size * widest <= CHECK_BYTES]
        rows = random_rows(model, graph, max(sizes, default=1), key)
        base = _timed(model, _slice(rows, 0, 1, model))
        verified, reason = _compare(model, rows, sizes, batching, base)
        limits[key] = verified if verified >= 4 else 0
        log.debug("model %s, rows of %s: %s", model.name, key, reason)
    except SlipwayError as error:
        log.debug("model %s, rows of %s: %s", model.name, key, error)


def _read(model: Model, content: bytes) -> tuple[Graph, Finding]:
    try:
        graph = read_graph(content)
    except (ValueError, IndexError, TypeError, RecursionError) as error:
        # ONNX Runtime could read it; what could not be followed is not claimed to keep rows apart.
        return Graph(), Finding(False, f"its graph could not be followed ({error})", True)
    inputs = [(spec.name, spec.shape) for spec in model.inputs]
    return graph, follow_rows(graph, inputs, model.output_names)


def _shows_sums(model: Model) -> bool:
    return any(spec.datatype.kind == "f" for spec in model.outputs)


def _compare(
    model: Model, rows: dict[str, Array], sizes: list[int], batching: Batching, base_seconds: float
) -> tuple[int, str]:
    """Up to how many rows alone and together agree, and what was found."""
    until = perf_counter() + CHECK_SECONDS
    singles: list[list[Array]] = []
    verified = 1
    row_seconds = base_seconds
    stopped = ""

    def differ(size: int) -> str:
        try:
            while len(singles) < size:
                singles.append(model.run(_slice(rows, len(singles), len(singles) + 1, model)))
            together = model.run(_slice(rows, 0, size, model))
        except SlipwayError as error:
            return f"they fail: {error.what}"
        return _difference(model, singles[:size], together, batching)

    for size in sizes:
        expected = (size - len(singles)) * base_seconds + size * row_seconds
        if size > 4 and perf_counter() + expected > until:
            stopped = "for more it is too slow"
            break
        began, before = perf_counter(), len(singles)
        difference = differ(size)
        row_seconds = max(0.0, perf_counter() - began - (size - before) * base_seconds) / size
        if difference:
            # Its bits depend on how many rows there are, or on where a row lies. Where fewer agreed, that was
            # by chance: saturated probabilities hide much, and those of real rows are others.
            return 1, f"{size} rows together: {difference}"
        verified = size
    if verified > 1 and not _vary(singles):
        return 1, "all random rows have the same answer, which shows nothing about rows together"
    found = f"rows alone and together agree up to {verified} rows" if verified > 1 else ""
    return verified, "; ".join(filter(None, (found, stopped)))


def _vary(singles: list[list[Array]]) -> bool:
    return any(
        array.tolist() != first.tolist()
        for single in singles[1:]
        for array, first in zip(single, singles[0], strict=True)
    )


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
    """A copy, which lies in memory as what a request brings."""
    if not model.has_batch_axis:
        return rows
    return {name: array[start:stop].copy() for name, array in rows.items()}


def random_rows(model: Model, graph: Graph, count: int, key: Any = None) -> dict[str, Array]:
    """`key`: the axes after the rows, of each input; without it those of any length are 1."""
    generator = np.random.default_rng(7)
    rows = {}
    for number, spec in enumerate(model.inputs):
        shape = tuple(1 if axis == -1 else axis for axis in spec.shape or ())
        if model.has_batch_axis:
            shape = (count, *(shape[1:] if key is None else key[number]))
        elif spec.shape is None:
            shape = (1,)
        rows[spec.name] = _random(spec, shape, graph, generator)
    return rows


def _random(spec: TensorSpec, shape: tuple[int, ...], graph: Graph, generator: np.random.Generator) -> Array:
    kind = spec.datatype
    if kind.kind == "s":
        # Words that the graph knows: with others every row may look alike to it.
        words: Any = np.array(
            [*graph.words, "", "unknown"] if graph.words else ["a", "b", "", "unknown"], object
        )
        return words[generator.integers(0, len(words), shape)]  # type: ignore[no-any-return]
    if kind.kind == "b":
        return generator.integers(0, 2, shape).astype(bool)
    if kind.kind == "i":
        low, high = np.iinfo(kind.numpy).min, np.iinfo(kind.numpy).max
        # Not zero: as the step of an STFT it ends the process, inside ONNX Runtime.
        known = [1, 2, 3, *(number for number in graph.whole if number and low <= number <= high)]
        return np.array(known, kind.numpy)[generator.integers(0, len(known), shape)]
    # Several magnitudes, of rows and in them: thresholds lie anywhere, and large rows saturate what small
    # ones do not. Where trees say at what they split, about there.
    magnitudes = generator.integers(-2, 2, (*shape[:1], *(1,) * (len(shape) - 1)))
    values = generator.normal(size=shape) * 10.0 ** (magnitudes + generator.integers(0, 2, shape))
    if graph.thresholds:
        near = np.array(graph.thresholds)[generator.integers(0, len(graph.thresholds), shape)]
        near = near * (1 + generator.normal(size=shape) * 1e-3)
        values = np.where(generator.integers(0, 2, shape).astype(bool), near, values)
    with np.errstate(over="ignore"):
        return values.astype(kind.numpy)
