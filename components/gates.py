"""Gate answers, and the one place where they stop the line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from slipway.contract import GateResult, Verdict
from slipway.errors import GateNotPassed


def answer(gate: str, verdict: Verdict, reason: str, evidence: Mapping[str, Any] | None = None) -> GateResult:
    return GateResult(gate, verdict, reason, dict(evidence or {}))


def require_pass(results: Iterable[GateResult], *, where: str) -> None:
    """Anything but pass stops the line; the error names every gate that did not pass, and why."""
    stopped = [result for result in results if result.verdict != "pass"]
    if not stopped:
        return
    told = "; ".join(f"gate {result.gate} {_SAYS[result.verdict]}: {result.reason}" for result in stopped)
    raise GateNotPassed(
        told, where=where, fix="the evidence stands in the report; mend what it shows and run again"
    )


_SAYS = {"fail": "failed", "inconclusive": "is inconclusive", "pass": "passed"}
