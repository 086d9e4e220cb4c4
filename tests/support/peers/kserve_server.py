"""KServe's SDK server over a folder of ONNX models. Runs in the peer's environment."""

import argparse
from pathlib import Path

import numpy
import onnxruntime
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelRepository, ModelServer, model_server
from kserve.utils.utils import from_np_dtype, generate_uuid


class OnnxModel(Model):
    def __init__(self, name, path):
        super().__init__(name)
        self.path = path
        self.load()

    def load(self):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(str(self.path), options)
        self.names = [output.name for output in self.session.get_outputs()]
        self.ready = True
        return True

    async def get_input_types(self):
        return [describe(item) for item in self.session.get_inputs()]

    async def get_output_types(self):
        return [describe(item) for item in self.session.get_outputs()]

    def predict(self, payload: InferRequest, headers=None) -> InferResponse:
        inputs = {item.name: texts(item.as_numpy()) for item in payload.inputs}
        outputs = []
        for name, value in zip(self.names, self.session.run(self.names, inputs), strict=True):
            output = InferOutput(name=name, shape=list(value.shape), datatype=from_np_dtype(value.dtype))
            output.set_data_from_numpy(value, binary_data=False)
            outputs.append(output)
        return InferResponse(
            response_id=payload.id or generate_uuid(),
            model_name=self.name,
            infer_outputs=outputs,
            use_binary_outputs=payload.use_binary_outputs,
            requested_outputs=payload.request_outputs,
        )


def texts(value):
    """The SDK gives strings as bytes; onnxruntime wants text."""
    if value.dtype.kind not in "OS":
        return value
    flat = [item.decode() if isinstance(item, bytes) else item for item in value.ravel()]
    return numpy.array(flat, dtype=object).reshape(value.shape)


TYPES = {
    "tensor(bool)": "BOOL",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}


def describe(item):
    datatype = TYPES.get(item.type) or item.type.removeprefix("tensor(").removesuffix(")").upper()
    return {
        "name": item.name,
        "datatype": datatype,
        "shape": [size if isinstance(size, int) else -1 for size in item.shape],
    }


class OnnxRepository(ModelRepository):
    """So that the load endpoint has something to load."""

    def load(self, name):
        path = Path(self.models_dir) / name / "model.onnx"
        if not path.exists():
            return False
        self.update(OnnxModel(name, path))
        return True


if __name__ == "__main__":
    parser = argparse.ArgumentParser(parents=[model_server.parser])
    parser.add_argument("--models", type=Path)
    options, _ = parser.parse_known_args()
    models = [OnnxModel(path.parent.name, path) for path in sorted(options.models.glob("*/model.onnx"))]
    ModelServer(registered_models=OnnxRepository(str(options.models))).start(models)
