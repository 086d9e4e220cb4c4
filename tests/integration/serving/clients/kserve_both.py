"""KServe's clients, as its documentation uses them; importing kserve takes seconds, so both in one process.

Arguments: URL, gRPC address, folder of inputs; prints outputs.
"""

import asyncio
import sys

from exchange import datatype, read, show
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig

url, address, folder = sys.argv[1:]


def request(model, inputs, binary):
    tensors = []
    for name, value in inputs.items():
        tensor = InferInput(name, list(value.shape), datatype(value))
        tensor.set_data_from_numpy(value, binary_data=binary)
        tensors.append(tensor)
    return InferRequest(model_name=model, infer_inputs=tensors, request_id="k1")


def arrays(answer):
    assert answer.id == "k1"
    return {output.name: output.as_numpy() for output in answer.outputs}


async def main():
    answers = {model: {} for model in read(folder)}
    rest = InferenceRESTClient(RESTConfig(protocol="v2", timeout=10, retries=1))
    assert await rest.is_server_live(url)
    assert await rest.is_server_ready(url)
    for model, inputs in read(folder).items():
        assert await rest.is_model_ready(url, model)
        for kind, binary in (("binary", True), ("json", False)):
            answer = await rest.infer(url, request(model, inputs, binary), model_name=model)
            answers[model][kind] = arrays(answer)
    await rest.close()
    grpc = InferenceGRPCClient(address, timeout=10)
    assert await grpc.is_server_live()
    assert await grpc.is_server_ready()
    for model, inputs in read(folder).items():
        assert await grpc.is_model_ready(model)
        answers[model]["grpc"] = arrays(await grpc.infer(request(model, inputs, True)))
    await grpc.close()
    show(answers)


asyncio.run(main())
