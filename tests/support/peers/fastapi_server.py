"""What a team writes with FastAPI: an infer endpoint with pydantic models. In the peer's environment."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel

KINDS = {"FP32": np.float32, "FP64": np.float64, "INT64": np.int64, "INT32": np.int32, "BOOL": np.bool_}
NAMES = {np.dtype(kind): name for name, kind in KINDS.items()}


class Tensor(BaseModel):
    name: str
    shape: list[int]
    datatype: str
    data: list[Any]


class Request(BaseModel):
    id: str | None = None
    inputs: list[Tensor]


class Response(BaseModel):
    model_name: str
    id: str | None = None
    outputs: list[Tensor]


def load(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options)
    return session, [output.name for output in session.get_outputs()]


models = {path.parent.name: load(path) for path in Path(os.environ["MODELS"]).glob("*/model.onnx")}
app = FastAPI()


@app.get("/v2/health/ready")
async def ready():
    return {"ready": True}


@app.post("/v2/models/{model}/infer")
async def infer(model: str, request: Request) -> Response:
    if model not in models:
        raise HTTPException(404, f"no model {model}")
    session, names = models[model]
    inputs = {
        item.name: np.array(item.data, dtype=KINDS[item.datatype]).reshape(item.shape)
        for item in request.inputs
    }
    outputs = [
        Tensor(name=name, shape=list(value.shape), datatype=NAMES[value.dtype], data=value.ravel().tolist())
        for name, value in zip(names, session.run(names, inputs), strict=True)
    ]
    return Response(model_name=model, id=request.id, outputs=outputs)
