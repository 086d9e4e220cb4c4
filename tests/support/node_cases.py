"""ONNX's own tests of every operator, as models to serve: what they take, and what ONNX Runtime answers.

The `onnx` wheel makes them, with their inputs, and carries some converted from PyTorch as files. Each is a
model that nobody here wrote. What ONNX Runtime itself cannot load is left out, for no server could serve it.
"""

from __future__ import annotations

import functools
import hashlib
import os
import pickle
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from serving.runtime.datatypes import from_onnx

ROOT = Path(__file__).parents[2]
Arrays = dict[str, Any]
_RANDOM = (b"Bernoulli", b"Multinomial", b"RandomNormal", b"RandomUniform")


@dataclass(frozen=True)
class NodeCase:
    name: str
    content: bytes
    types: tuple[str, ...]
    """ONNX Runtime's names of the types of its inputs, and of its outputs."""
    asked: list[Arrays] = field(default_factory=list)
    answers: list[Arrays | str] = field(default_factory=list)
    """What onnxruntime answers each: arrays (of sequences: lists of them), or why it does not."""
    steady: bool = True
    """It answers the same when asked again."""

    @property
    def in_protocol(self) -> bool:
        """The Open Inference Protocol has a name for all its types."""
        return all(from_onnx(kind) is not None for kind in self.types)


@functools.cache
def node_cases() -> list[NodeCase]:
    """Made once for each version of the tools: making them takes twenty seconds."""
    tools = [f"{tool}={version(tool)}" for tool in ("onnx", "onnxruntime", "numpy")]
    key = hashlib.sha256(Path(__file__).read_bytes() + " ".join(tools).encode()).hexdigest()[:16]
    path = ROOT / ".pytest_cache" / "nodes" / key
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        # In a process of its own: making them takes 300 MB, and some operators could end the process.
        subprocess.run(
            [sys.executable, "-m", "tests.support.node_cases", str(path)], cwd=ROOT, check=True, timeout=240
        )
    return pickle.loads(path.read_bytes())  # type: ignore[no-any-return]


def _write(path: Path) -> None:
    warnings.simplefilter("ignore")
    found = [_case(name, content, asked) for name, content, asked in (*_generated(), *_files())]
    partial = path.with_suffix(f".{os.getpid()}")
    partial.write_bytes(pickle.dumps([case for case in found if case is not None]))
    partial.rename(path)


def _generated() -> Iterator[tuple[str, bytes, list[list[Any]]]]:
    from onnx.backend.test.case.node import collect_testcases

    for case in collect_testcases(None):
        yield case.name, case.model.SerializeToString(), [list(inputs) for inputs, _ in case.data_sets]


def _files() -> Iterator[tuple[str, bytes, list[list[Any]]]]:
    import onnx
    from onnx import numpy_helper

    folder = Path(onnx.__file__).parent / "backend/test/data"
    for kind in ("simple", "pytorch-operator", "pytorch-converted"):
        for model in sorted(folder.glob(f"{kind}/*/model.onnx")):
            asked = []
            for data in sorted(model.parent.glob("test_data_set_*")):
                files = sorted(data.glob("input_*.pb"), key=lambda file: int(file.stem[6:]))
                try:
                    asked.append([numpy_helper.to_array(onnx.load_tensor(file)) for file in files])
                except Exception:  # a sequence, or an optional value: another message
                    continue
            yield f"{kind}-{model.parent.name}", model.read_bytes(), asked


def _case(name: str, content: bytes, asked: list[list[Any]]) -> NodeCase | None:
    import onnxruntime
    from onnx import TensorProto, numpy_helper

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception:
        return None
    inputs, outputs = session.get_inputs(), session.get_outputs()
    types = tuple(node.type for node in (*inputs, *outputs))
    steady = not any(word in content for word in _RANDOM) and "training" not in name
    case = NodeCase(name, content, types, steady=steady)
    if not all(node.type.startswith("tensor(") for node in inputs):
        return case
    for values in asked:
        feeds = {
            node.name: numpy_helper.to_array(value) if isinstance(value, TensorProto) else np.asarray(value)
            for node, value in zip(inputs, values, strict=False)
        }
        case.asked.append(feeds)
        try:
            found = session.run(None, feeds)
        except Exception as error:
            case.answers.append(str(error))
        else:
            case.answers.append(dict(zip([node.name for node in outputs], found, strict=True)))
    return case


if __name__ == "__main__":
    from tests.support import node_cases as itself  # what is pickled must not be called __main__

    itself._write(Path(sys.argv[1]))
