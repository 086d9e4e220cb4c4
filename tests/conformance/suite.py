"""The frame of the suite: checks in a table, what they expected and got, the score.

A check is a function that takes a Target and raises Unmet. It names the section that it counts for and the
clause that it holds the server to. Nothing here knows any server.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.conformance.target import Target

Run = Callable[["Target"], None]


class Unmet(AssertionError):
    def __init__(self, expected: str, got: object) -> None:
        self.expected = expected
        self.got = _short(got)
        super().__init__(f"expected {expected}; got {self.got}")


class NotApplicable(Exception):
    """The server is not set up for this check: no gRPC address, or the suite's models are not there."""


def _short(value: object, limit: int = 300) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text)} characters)"


def expect(condition: object, expected: str, got: object) -> None:
    if not condition:
        raise Unmet(expected, got)


def expect_equal(what: str, expected: object, got: object) -> None:
    if got != expected or isinstance(got, bool) != isinstance(expected, bool):
        raise Unmet(f"{what} = {_short(expected)}", got)


@dataclass(frozen=True)
class Check:
    section: str
    name: str
    clause: str
    run: Run


CHECKS: list[Check] = []
# In the order in which they run: what unloads models comes last.
SECTIONS = {
    "health": "REST: live, ready, model ready",
    "metadata": "REST: server and model metadata",
    "infer": "REST: inference in JSON",
    "datatypes": "REST: every datatype, JSON and binary",
    "binary": "REST: binary tensor data (extension)",
    "outputs": "REST: selection of outputs",
    "ids": "REST: request ids",
    "parameters": "REST: parameters",
    "versions": "REST: versioned addresses",
    "errors": "REST: form and status of errors",
    "http": "HTTP itself",
    "grpc": "gRPC: health, metadata, inference",
    "grpc-datatypes": "gRPC: every datatype, typed and raw",
    "grpc-errors": "gRPC: statuses",
    "repository": "REST: model repository (extension)",
    "grpc-extensions": "gRPC: repository, reflection, health service",
}


def check(section: str, name: str, clause: str) -> Callable[[Run], Run]:
    """Put a function into the table."""
    if section not in SECTIONS:
        raise KeyError(section)

    def register(function: Run) -> Run:
        CHECKS.append(Check(section, name, clause, function))
        return function

    return register


@dataclass
class Result:
    check: Check
    outcome: str
    """pass, fail, or not run."""
    expected: str = ""
    got: str = ""


@dataclass
class Report:
    results: list[Result] = field(default_factory=list)

    def score(self, section: str) -> tuple[int, int]:
        counted = [r for r in self.results if r.check.section == section and r.outcome != "not run"]
        return sum(r.outcome == "pass" for r in counted), len(counted)

    def total(self) -> tuple[int, int]:
        counted = [result for result in self.results if result.outcome != "not run"]
        return sum(result.outcome == "pass" for result in counted), len(counted)

    @property
    def failures(self) -> list[Result]:
        return [result for result in self.results if result.outcome == "fail"]

    def as_json(self) -> list[dict[str, Any]]:
        return [
            {
                "section": r.check.section,
                "name": r.check.name,
                "clause": r.check.clause,
                "outcome": r.outcome,
                "expected": r.expected,
                "got": r.got,
            }
            for r in self.results
        ]

    def text(self) -> str:
        lines = [
            f"{'section':<16} {'score':>9}   what",
            *(
                f"{section:<16} {passed:>4}/{total:<4}   {SECTIONS[section]}"
                for section in SECTIONS
                for passed, total in [self.score(section)]
                if total
            ),
        ]
        passed, counted = self.total()
        lines.append(f"{'all':<16} {passed:>4}/{counted:<4}")
        if skipped := len(self.results) - counted:
            reasons = sorted({r.got for r in self.results if r.outcome == "not run"})
            lines.append(f"not run: {skipped} ({'; '.join(reasons)})")
        for result in self.failures:
            lines += [
                "",
                f"FAIL {result.check.section}: {result.check.name}",
                f"     clause   {result.check.clause}",
                f"     expected {result.expected}",
                f"     got      {result.got}",
            ]
        return "\n".join(lines)


def run_checks(
    target: Target, checks: Iterable[Check] | None = None, after_failure: Callable[[], None] | None = None
) -> Report:
    """Run the table; `after_failure` may start the server again if the check has killed it."""
    report = Report()
    order = list(SECTIONS)
    for item in sorted(CHECKS if checks is None else checks, key=lambda item: order.index(item.section)):
        report.results.append(_run(item, target))
        if after_failure and report.results[-1].outcome == "fail":
            after_failure()
    return report


def _run(item: Check, target: Target) -> Result:
    try:
        item.run(target)
    except Unmet as unmet:
        return Result(item, "fail", unmet.expected, unmet.got)
    except NotApplicable as reason:
        return Result(item, "not run", got=str(reason))
    except Exception as error:
        # A broken connection, a time-out, an answer of a shape that the check did not foresee: the server's.
        where = traceback.extract_tb(error.__traceback__)[-1]
        return Result(item, "fail", "an answer", f"{type(error).__name__}: {error} (line {where.lineno})")
    return Result(item, "pass")
