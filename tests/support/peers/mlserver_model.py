"""An MLServer runtime for one ONNX model. Runs in the peer's environment."""

import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.types import InferenceResponse, MetadataTensor


class OnnxModel(MLModel):
    async def load(self):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(self.settings.parameters.uri, options)
        self.output_names = [output.name for output in self.session.get_outputs()]
        self.inputs = [describe(item) for item in self.session.get_inputs()]
        self.outputs = [describe(item) for item in self.session.get_outputs()]
        return True

    async def predict(self, payload):
        inputs = {}
        for item in payload.inputs:
            if item.datatype == "BYTES":
                import numpy

                inputs[item.name] = numpy.array(StringCodec.decode_input(item), dtype=object).reshape(
                    item.shape
                )
            else:
                inputs[item.name] = NumpyCodec.decode_input(item)
        wanted = [output.name for output in payload.outputs or []] or self.output_names
        values = self.session.run(wanted, inputs)
        outputs = []
        for name, value in zip(wanted, values, strict=True):
            if value.dtype == object:
                output = StringCodec.encode_output(name, value.ravel().tolist())
                output.shape = list(value.shape)
            else:
                output = NumpyCodec.encode_output(name, value)
            outputs.append(output)
        return InferenceResponse(
            model_name=self.name, model_version=self.version, id=payload.id, outputs=outputs
        )


TYPES = {
    "tensor(bool)": "BOOL",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}


def describe(item):
    datatype = TYPES.get(item.type) or item.type.removeprefix("tensor(").removesuffix(")").upper()
    shape = [size if isinstance(size, int) else -1 for size in item.shape]
    return MetadataTensor(name=item.name, datatype=datatype, shape=shape)
