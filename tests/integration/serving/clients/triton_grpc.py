"""NVIDIA's gRPC client, as its examples use it. Arguments: host:port, folder of inputs; prints outputs."""

import sys

import tritonclient.grpc as triton
from exchange import datatype, read, show


def ask(client, model, inputs):
    assert client.is_model_ready(model)
    assert model in [entry.name for entry in client.get_model_repository_index().models]
    names = [item.name for item in client.get_model_metadata(model).outputs]
    tensors = []
    for name, value in inputs.items():
        tensor = triton.InferInput(name, list(value.shape), datatype(value))
        tensor.set_data_from_numpy(value)
        tensors.append(tensor)
    result = client.infer(model, tensors, request_id="t1", client_timeout=10)
    assert result.get_response().id == "t1"
    return {"raw": {name: result.as_numpy(name) for name in names}}


address, folder = sys.argv[1:]
with triton.InferenceServerClient(address) as client:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.get_server_metadata().name
    show({model: ask(client, model, inputs) for model, inputs in read(folder).items()})
    elsewhere = triton.InferInput("key", [1], "INT64")
    elsewhere.set_shared_memory("region", 8)
    try:
        client.infer("lookup", [elsewhere])
    except triton.InferenceServerException as error:
        if "shared_memory_region" not in error.message():
            raise
    else:
        raise SystemExit("memory that nobody shares was read")
    try:
        client.get_model_metadata("no_such_model")
    except triton.InferenceServerException as error:
        if "no_such_model" not in error.message():
            raise
    else:
        raise SystemExit("an unknown model was described")
