"""A Triton Python backend model over onnxruntime. Runs in the peer's environment."""

import os

import numpy
import onnxruntime
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        path = os.path.join(args["model_repository"], args["model_version"], "model.onnx")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(path, options)
        self.inputs = [item.name for item in self.session.get_inputs()]
        self.outputs = [item.name for item in self.session.get_outputs()]

    def read(self, request, name):
        """Strings come as bytes; onnxruntime wants text."""
        value = pb_utils.get_input_tensor_by_name(request, name).as_numpy()
        if value.dtype != object:
            return value
        return numpy.array([text.decode() for text in value.ravel()], dtype=object).reshape(value.shape)

    def execute(self, requests):
        responses = []
        for request in requests:
            try:
                inputs = {name: self.read(request, name) for name in self.inputs}
                values = self.session.run(self.outputs, inputs)
            except Exception as error:
                responses.append(
                    pb_utils.InferenceResponse(output_tensors=[], error=pb_utils.TritonError(str(error)))
                )
                continue
            tensors = [pb_utils.Tensor(name, value) for name, value in zip(self.outputs, values, strict=True)]
            responses.append(pb_utils.InferenceResponse(output_tensors=tensors))
        return responses
