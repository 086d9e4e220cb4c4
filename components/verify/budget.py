"""Can serving afford the model?"""

from __future__ import annotations

import time

import numpy as np

from components.gates import answer
from components.train import take
from components.verify.checks import Evidence, check
from components.verify.parity import by_contract
from slipway.contract import GateResult

RUNS = 300


@check("budget", "size")
def size(evidence: Evidence) -> GateResult:
    """The model file fits into what a server with many models can hold."""
    found = len(evidence.candidate.model(evidence.objects))
    allowed = evidence.project.budget.model_bytes
    facts = {"bytes": found, "allowed": allowed}
    return answer(
        "", "fail" if found > allowed else "pass", f"{found / 1e6:.2f} MB of {allowed / 1e6:.2f} MB", facts
    )


@check("budget", "latency")
def latency(evidence: Evidence) -> GateResult:
    """One row is answered fast enough: the median of single calls on one thread."""
    rows = by_contract(evidence, take(evidence.tensors, np.arange(min(RUNS, len(evidence.frame)))))
    single = [
        {name: matrix[at : at + 1] for name, matrix in rows.items()}
        for at in range(len(rows[next(iter(rows))]))
    ]
    names = [evidence.model.contract.outputs[0].name]
    for row in single[:20]:
        evidence.model.session.run(names, row)
    taken = []
    for row in single:
        started = time.perf_counter()
        evidence.model.session.run(names, row)
        taken.append((time.perf_counter() - started) * 1000)
    median, high = (float(value) for value in np.quantile(taken, [0.5, 0.99]))
    allowed = evidence.project.budget.milliseconds
    facts = {"median_ms": round(median, 4), "p99_ms": round(high, 4), "allowed_ms": allowed}
    reason = f"median {median:.3f} ms a row, {allowed:g} ms allowed"
    return answer("", "fail" if median > allowed else "pass", reason, facts)
