"""NVIDIA's HTTP client, as its examples use it. Arguments: host:port, folder of inputs; prints outputs."""

import sys

import numpy as np
import tritonclient.http as triton
from exchange import datatype, read, show


def tensors_of(inputs, binary):
    tensors = []
    for name, value in inputs.items():
        tensor = triton.InferInput(name, list(value.shape), datatype(value))
        tensor.set_data_from_numpy(value, binary_data=binary)
        tensors.append(tensor)
    return tensors


def ask(client, model, inputs):
    assert client.is_model_ready(model)
    assert model in [entry["name"] for entry in client.get_model_repository_index()]
    names = [item["name"] for item in client.get_model_metadata(model)["outputs"]]
    answers = {}
    for binary in (True, False):
        if not binary and any(value.dtype == np.float16 for value in inputs.values()):
            continue  # this client sends FP16 in binary only
        outputs = [triton.InferRequestedOutput(name, binary_data=binary) for name in names]
        result = client.infer(model, tensors_of(inputs, binary), outputs=outputs, request_id="t1")
        assert result.get_response()["id"] == "t1"
        answers["binary" if binary else "json"] = {name: result.as_numpy(name) for name in names}
    packed = client.infer(model, tensors_of(inputs, True), request_compression_algorithm="gzip")
    answers["gzip"] = {name: packed.as_numpy(name) for name in names}
    return answers


address, folder = sys.argv[1:]
with triton.InferenceServerClient(address) as client:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.get_server_metadata()["name"]
    show({model: ask(client, model, inputs) for model, inputs in read(folder).items()})
    try:
        client.get_model_metadata("no_such_model")
    except triton.InferenceServerException as error:
        if "no_such_model" not in error.message():
            raise
    else:
        raise SystemExit("an unknown model was described")
