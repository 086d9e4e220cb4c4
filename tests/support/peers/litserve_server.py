"""A LitServe server over the one ONNX model of a folder. Runs in the peer's environment."""

import sys
from pathlib import Path

import litserve
import numpy as np
import onnxruntime

KINDS = {"FP32": np.float32, "FP64": np.float64, "INT64": np.int64}
NAMES = {np.dtype(kind): name for name, kind in KINDS.items()}


class OnnxApi(litserve.LitAPI):
    def setup(self, device):
        path = next(Path(sys.argv[1]).glob("*/model.onnx"))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(str(path), options)
        self.names = [output.name for output in self.session.get_outputs()]

    def decode_request(self, request):
        return {
            item["name"]: np.array(item["data"], dtype=KINDS[item["datatype"]]).reshape(item["shape"])
            for item in request["inputs"]
        }

    def predict(self, inputs):
        return self.session.run(self.names, inputs)

    def encode_response(self, values):
        outputs = [
            {
                "name": name,
                "shape": list(value.shape),
                "datatype": NAMES[value.dtype],
                "data": value.ravel().tolist(),
            }
            for name, value in zip(self.names, values, strict=True)
        ]
        return {"outputs": outputs}


if __name__ == "__main__":
    server = litserve.LitServer(OnnxApi(), accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=int(sys.argv[2]), generate_client_file=False, log_level="warning")
