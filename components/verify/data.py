"""Is the training set fit to learn from?"""

from __future__ import annotations

from datetime import datetime

import numpy as np

from components.gates import answer
from components.verify.checks import Evidence, check
from slipway.contract import GateResult

STALE_AFTER_SHARE = 0.1
"""A tenth of the window without a row at its end: the data stops before the window does."""
NEWEST_SHARE = 0.05
KNOWN_DROP = 0.5


@check("data", "schema")
def schema(evidence: Evidence) -> GateResult:
    """The columns are those of the manifest and all that the model eats is among them."""
    found = {name: str(dtype) for name, dtype in evidence.frame.schema.items()}
    promised = dict(evidence.manifest.columns)
    wanted = {column.name for tensor in evidence.model.contract.inputs for column in tensor.columns}
    wrong = sorted(name for name in promised if found.get(name) != promised[name])
    wrong += sorted((wanted | {evidence.project.label.column}) - set(found))
    facts = {"columns": len(found), "inputs": len(wanted), "wrong": wrong}
    if wrong:
        return answer("", "fail", f"columns missing or of another type: {', '.join(wrong)}", facts)
    return answer("", "pass", f"{len(wanted)} inputs, all there and of the promised type", facts)


@check("data", "rows")
def rows(evidence: Evidence) -> GateResult:
    """There are enough rows of both classes to learn from and to judge by."""
    needed = evidence.project.floors.rows
    record = evidence.candidate.record
    test = record.rows["test"]
    positives = int(evidence.label[evidence.test_start :].sum())
    facts = {"learned_from": evidence.learned, "test": test, "test_positives": positives, "needed": needed}
    if evidence.learned < needed:
        return answer("", "inconclusive", f"{evidence.learned} rows to learn from, {needed} needed", facts)
    if test < needed / 10 or min(positives, test - positives) < needed / 200:
        reason = f"{test} rows to judge by, {positives} of them {evidence.project.label.meaning}: too few"
        return answer("", "inconclusive", reason, facts)
    return answer("", "pass", f"{evidence.learned:,} rows to learn from, {test:,} to judge by", facts)


@check("data", "values")
def values(evidence: Evidence) -> GateResult:
    """No input is empty throughout or holds infinite numbers."""
    empty, infinite, shares = [], [], {}
    for tensor in evidence.model.contract.inputs:
        matrix = evidence.tensors[tensor.name]
        for place, column in enumerate(tensor.columns):
            held = matrix[:, place]
            missing = held == "" if tensor.dtype == "BYTES" else np.isnan(held)
            shares[column.name] = round(float(np.mean(missing)), 4)
            if missing.all():
                empty.append(column.name)
            if tensor.dtype != "BYTES" and np.isinf(held).any():
                infinite.append(column.name)
    most = dict(sorted(shares.items(), key=lambda item: -item[1])[:10])
    facts = {"missing_share": most, "empty": empty, "infinite": infinite}
    if empty:
        return answer("", "fail", f"no value at all in {', '.join(empty)}", facts)
    if infinite:
        return answer("", "fail", f"infinite numbers in {', '.join(infinite)}", facts)
    name, share = next(iter(most.items()))
    return answer("", "pass", f"no empty input; {name} misses the most, {share:.0%}", facts)


@check("data", "freshness")
def freshness(evidence: Evidence) -> GateResult:
    """The rows reach to the end of the window, and features do not run dry before it."""
    start = datetime.fromisoformat(evidence.manifest.window.start)
    end = datetime.fromisoformat(evidence.manifest.window.end)
    newest = evidence.frame[evidence.project.event_time][-1]
    newest = newest if newest.tzinfo else newest.replace(tzinfo=start.tzinfo)
    idle = (end - newest) / (end - start)
    dry = []
    recent = evidence.frame.tail(max(1, round(len(evidence.frame) * NEWEST_SHARE)))
    for view in evidence.manifest.sources:
        names = list(view.features.values())
        before = 1 - evidence.frame.select(names).null_count().sum_horizontal()[0] / (
            len(names) * len(evidence.frame)
        )
        now = 1 - recent.select(names).null_count().sum_horizontal()[0] / (len(names) * len(recent))
        if now < before * KNOWN_DROP:
            dry.append(f"{view.view} ({before:.0%} of values known in all rows, {now:.0%} in the newest)")
    facts = {"newest": str(newest), "window_end": str(end), "running_dry": dry}
    if idle > STALE_AFTER_SHARE:
        return answer(
            "", "inconclusive", f"the newest row is of {newest}, the window ends {end}: data is late", facts
        )
    if dry:
        return answer("", "fail", f"features run dry: {'; '.join(dry)}", facts)
    return answer("", "pass", f"rows up to {newest}, every view as full there as before", facts)
