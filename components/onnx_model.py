"""A published or candidate ONNX model, asked in this process as the runtime would be."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from components.inputs import Tensors, tensors_of
from slipway.contract import ModelContract

ROWS_AT_ONCE = 4096
"""All rows at once would hold every tree's votes for all of them."""


class OnnxModel:
    def __init__(self, model: bytes, contract: ModelContract, *, threads: int = 0) -> None:
        import onnxruntime

        onnxruntime.set_default_logger_severity(3)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # Idle workers sleep: spinning ones take the processor from whatever else runs on the machine.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.contract = contract
        self.session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def answer(self, tensors: Tensors) -> NDArray[np.float32]:
        """The first output, row by row."""
        rows = len(next(iter(tensors.values())))
        name = self.contract.outputs[0].name
        parts = [
            self.session.run([name], {key: value[at : at + ROWS_AT_ONCE] for key, value in tensors.items()})[
                0
            ]
            for at in range(0, rows, ROWS_AT_ONCE)
        ]
        whole: NDArray[Any] = np.concatenate(parts) if parts else np.empty((0, 1), np.float32)
        return whole[:, 0]

    def answer_rows(self, frame: pl.DataFrame) -> NDArray[np.float32]:
        return self.answer(tensors_of(self.contract.inputs, frame))
