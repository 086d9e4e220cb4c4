"""How the test and a client in its own process pass arrays: inputs by .npz files, outputs by JSON."""

import json
from pathlib import Path

import numpy as np

NAMES = {
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
    "int64": "INT64",
    "int32": "INT32",
    "bool": "BOOL",
    "object": "BYTES",
}


def datatype(value):
    return NAMES[value.dtype.name]


def read(folder):
    """Model → inputs."""
    found = {}
    for path in sorted(Path(folder).glob("*.npz")):
        with np.load(path, allow_pickle=True) as arrays:
            found[path.stem] = dict(arrays)
    return found


def show(answers):
    print(
        json.dumps(
            {
                model: {
                    kind: {name: [list(value.shape), plain(value)] for name, value in outputs.items()}
                    for kind, outputs in kinds.items()
                }
                for model, kinds in answers.items()
            }
        )
    )


def plain(value):
    return [item.decode() if isinstance(item, bytes) else item for item in value.ravel().tolist()]
