"""Does the exported model answer as the trained one did: in ONNX, and in the runtime that will serve it?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.gates import answer
from components.inputs import Tensors
from components.train import take
from components.verify.checks import Evidence, check
from components.verify.edges import edge_rows
from components.verify.served import ask, plain
from slipway.contract import GateResult

REAL_ROWS = 2000
SERVED_ROWS = 400
TOLERANCE = 1e-5
"""Of a probability. Branches are taken exactly; the sums of leaves in float differ by some 1e-7."""


def parity_rows(evidence: Evidence, count: int = REAL_ROWS) -> Tensors:
    """Real rows, spread over the whole set, then the edge rows; in the plan that the training used."""
    picked = np.unique(np.linspace(0, len(evidence.frame) - 1, count).astype(int))
    real = take(evidence.tensors, picked)
    edges = edge_rows(real, seed=evidence.candidate.record.split.seed)
    return {name: np.concatenate([real[name], edges[name]]) for name in real}


def by_contract(evidence: Evidence, rows: Tensors) -> Tensors:
    """The same rows as whoever has the contract alone would fill the tensors: by column name."""
    plan = {tensor.name: tensor for tensor in evidence.candidate.record.plan.tensor_inputs()}
    values: dict[str, NDArray[Any]] = {
        column.name: rows[name][:, place]
        for name, tensor in plan.items()
        for place, column in enumerate(tensor.columns)
    }
    kinds: Mapping[str, Any] = {"FP32": np.float32, "FP64": np.float64, "BYTES": object}
    return {
        tensor.name: np.column_stack([values[column.name] for column in tensor.columns]).astype(
            kinds[tensor.dtype]
        )
        for tensor in evidence.model.contract.inputs
    }


@check("onnx parity", "native against ONNX")
def native_against_onnx(evidence: Evidence) -> GateResult:
    """The scikit-learn model and the ONNX model give the same answers, on real rows and on edge rows."""
    rows = parity_rows(evidence)
    expected = evidence.native.probability(rows)
    try:
        fed = by_contract(evidence, rows)
        found = evidence.model.answer(fed)
    except (KeyError, ValueError) as error:
        return answer("", "fail", f"the contract does not fit the model: {error}")
    except Exception as error:  # onnxruntime's own errors share no base of their own
        return answer("", "fail", f"ONNX Runtime refuses the rows: {error}")
    return _compare(expected, found, rows, "ONNX")


@check("onnx parity", "ONNX against the runtime", needs=["runtime_url"])
def onnx_against_runtime(evidence: Evidence) -> GateResult:
    """The serving runtime, asked over HTTP, gives the answers of the scikit-learn model."""
    rows = parity_rows(evidence, SERVED_ROWS)
    expected = evidence.native.probability(rows)
    fed = by_contract(evidence, rows)
    url = evidence.runtime_url or ""
    found = ask(url, evidence.model.contract, fed)
    return _compare(expected, found, rows, "the runtime")


def _compare(expected: NDArray[Any], found: NDArray[Any], rows: Tensors, who: str) -> GateResult:
    if len(found) != len(expected):
        return answer("", "fail", f"{who} gave {len(found)} answers to {len(expected)} rows")
    difference = np.abs(expected - found.astype(np.float64))
    nothing = np.isnan(found) | ~np.isfinite(expected)
    wrong = nothing | (difference > TOLERANCE)
    largest = float(np.nanmax(difference)) if len(difference) else 0.0
    facts: dict[str, Any] = {
        "rows": len(expected),
        "differing": int(wrong.sum()),
        "largest_difference": largest,
        "tolerance": TOLERANCE,
    }
    if wrong.any():
        at = int(np.flatnonzero(wrong)[np.argmax(np.nan_to_num(difference[wrong], nan=np.inf))])
        facts["example"] = {
            "row": _row(rows, at),
            "native": float(expected[at]),
            "found": plain(found[at]),
        }
        reason = (
            f"{wrong.sum()} of {len(expected)} rows differ by more than {TOLERANCE:g}: the trained model "
            f"says {expected[at]:.6f}, {who} {found[at]:.6f}. Preprocessing outside the graph, or inputs in "
            "another order, look like this"
        )
        return answer("", "fail", reason, facts)
    return answer("", "pass", f"{len(expected):,} rows, largest difference {largest:.1e}", facts)


def _row(rows: Tensors, at: int) -> dict[str, list[Any]]:
    return {name: [plain(value) for value in matrix[at]] for name, matrix in rows.items()}
