"""Write config.pbtxt for each model of a Triton repository, from its graph, in the peer's environment."""

import sys
from pathlib import Path

import onnxruntime

TYPES = {"tensor(float16)": "FP16", "tensor(float)": "FP32", "tensor(double)": "FP64"}


def tensors(label, items):
    described = []
    for item in items:
        kind = TYPES.get(item.type) or item.type.removeprefix("tensor(").removesuffix(")").upper()
        sizes = ", ".join(str(size if isinstance(size, int) else -1) for size in item.shape)
        described.append(f'{{ name: "{item.name}" data_type: TYPE_{kind} dims: [ {sizes} ] }}')
    return f"{label} [ {', '.join(described)} ]"


for folder in Path(sys.argv[1]).iterdir():
    session = onnxruntime.InferenceSession(str(folder / "1" / "model.onnx"))
    lines = [
        f'name: "{folder.name}"',
        'backend: "python"',
        "max_batch_size: 0",
        tensors("input", session.get_inputs()),
        tensors("output", session.get_outputs()),
        "instance_group [ { kind: KIND_CPU count: 1 } ]",
    ]
    (folder / "config.pbtxt").write_text("\n".join(lines) + "\n")
