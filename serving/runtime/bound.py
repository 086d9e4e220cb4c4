"""Memory that ONNX Runtime reads from and writes to again and again.

Handing arrays over makes a value of each, plans the outputs, and makes arrays of those: 20 us a run for the
boosting with 30 features, of which its trees take less than half. Bound once, it is 10 to 13.
"""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime

if TYPE_CHECKING:
    from serving.runtime.model import Model

log = logging.getLogger("slipway.bound")
MAX_ROWS = 16
"""With more rows in a run the trees are the work, and the memory would be held for nothing."""
MAX_BYTES = 65536
"""Of an input, and of all outputs: copying more costs more than is saved, and it is kept MAX_BOUND times."""
MAX_BOUND = 64


class Bound:
    """The input and the outputs of a run of so many rows. For the loop's thread alone: it is one memory.

    What stands in `arrays` is overwritten by the next run.
    """

    __slots__ = ("_binding", "_options", "_run", "arrays", "input", "views", "write")

    def __init__(self, model: Model, shape: tuple[int, ...], outputs: list[Any]) -> None:
        """`outputs`: those of a run of inputs of this shape, made in the usual way."""
        spec = model.inputs[0]
        self.input = np.zeros(shape, spec.datatype.numpy)
        self.write = memoryview(self.input.data).cast("B")
        self.arrays = [np.zeros_like(output) for output in outputs]
        self.views = rows_of(self.arrays, shape[0])
        binding = model.session.io_binding()
        binding.bind_cpu_input(spec.name, self.input)
        for name, array in zip(model.output_names, self.arrays, strict=True):
            binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        # The public wrapper adds two calls and nothing else.
        self._binding = binding._iobinding
        self._run = model.session._sess.run_with_iobinding
        self._options = onnxruntime.RunOptions()

    def run(self) -> None:
        """From what was written to `input` into `arrays`."""
        self._run(self._binding, self._options)


class Runner:
    """The bound memory of one model, by what is the same in all rows and how many they are."""

    __slots__ = ("_bound", "usable")

    def __init__(self, model: Model) -> None:
        # Not the model itself, which holds this: a circle would keep it in memory when it is unloaded.
        self.usable = _can_be_bound(model)
        self._bound: dict[tuple[Any, int], Bound] = {}

    def run(self, key: Any, data: bytes | memoryview, rows: int) -> Bound | None:
        """What it ran in. None: it has to be run in the usual way, which says what is wrong with it."""
        bound = self._bound.get((key, rows))
        if bound is not None:
            bound.write[:] = data
            with contextlib.suppress(Exception):
                bound.run()
                return bound
        return None

    def learn(self, model: Model, key: Any, array: Any, outputs: list[Any]) -> None:
        """Bind memory for more runs like this one, which was made in the usual way after `run` gave None."""
        rows = len(array) if array.ndim else 0
        if (key, rows) in self._bound:
            # It fails in bound memory alone: the shape of an output hangs on more than that of the input.
            self.usable = False
            self._bound.clear()
        if (
            self.usable
            and rows <= MAX_ROWS
            and array.nbytes <= MAX_BYTES
            and sum([output.nbytes for output in outputs]) <= MAX_BYTES
            and len(self._bound) < MAX_BOUND
            and (rows == 1 or all(len(output) == rows for output in outputs))
        ):
            try:
                self._bound[(key, rows)] = Bound(model, array.shape, outputs)
            except Exception as error:
                self.usable = False  # the answer of the run that was made is as good as ever
                log.warning("model %s runs without bound memory: %r", model.name, error)


def _can_be_bound(model: Model) -> bool:
    """One input of numbers, and outputs that are arrays of numbers, a row for each row."""
    return (
        model.has_batch_axis
        and hasattr(model.session, "_sess")
        and not model.has_containers
        and len(model.inputs) == 1
        and all(spec.datatype.size and spec.keys is None for spec in (*model.inputs, *model.outputs))
    )


def rows_of(arrays: list[Any], rows: int) -> list[Any]:
    """Each with two axes, a row and what is in it. Of a single row, an output may be anything."""
    return [array if array.ndim == 2 and len(array) == rows else array.reshape(rows, -1) for array in arrays]
