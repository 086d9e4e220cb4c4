"""A BentoML service over the one ONNX model of a folder. Runs in the peer's environment."""

import os
from pathlib import Path
from typing import Any

import bentoml
import numpy as np
import onnxruntime

KINDS = {"FP32": np.float32, "FP64": np.float64, "INT64": np.int64}
NAMES = {np.dtype(kind): name for name, kind in KINDS.items()}


@bentoml.service(workers=1)
class OnnxService:
    def __init__(self):
        path = next(Path(os.environ["MODELS"]).glob("*/model.onnx"))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(str(path), options)
        self.names = [output.name for output in self.session.get_outputs()]

    @bentoml.api
    async def infer(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        arrays = {
            item["name"]: np.array(item["data"], dtype=KINDS[item["datatype"]]).reshape(item["shape"])
            for item in inputs
        }
        outputs = [
            {
                "name": name,
                "shape": list(value.shape),
                "datatype": NAMES[value.dtype],
                "data": value.ravel().tolist(),
            }
            for name, value in zip(self.names, self.session.run(self.names, arrays), strict=True)
        ]
        return {"outputs": outputs}
