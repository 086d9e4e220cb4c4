"""The registry of checks: each says which gate it belongs to and what it needs, and all are looked over
before the first one runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import Any, Literal, get_args

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from components.evaluate import Evaluation
from components.gates import answer
from components.inputs import Tensors
from components.labels import labels
from components.onnx_model import OnnxModel
from components.snapshot import Manifest
from components.train import Candidate, Native
from slipway.contract import GateResult
from slipway.errors import SettingsError, SlipwayError
from slipway.objects import ObjectStore
from slipway.project import Project
from slipway.settings import Settings

Gate = Literal["data", "leakage", "quality", "onnx parity", "feature parity", "budget"]
GATES: tuple[str, ...] = get_args(Gate)
"""In the order in which they are asked: what makes the others meaningless comes first."""
Run = Callable[["Evidence"], GateResult]


class Evidence:
    """What the checks may look at; what takes time to get is read at first use and once."""

    def __init__(
        self,
        *,
        settings: Settings,
        project: Project,
        candidate: Candidate,
        manifest: Manifest,
        frame: pl.DataFrame,
        model: OnnxModel,
        objects: ObjectStore,
        evaluation: Evaluation | None = None,
        runtime_url: str | None = None,
        feature_parity: Callable[[], GateResult] | None = None,
    ) -> None:
        self.settings = settings
        self.project = project
        self.candidate = candidate
        self.manifest = manifest
        self.frame = frame
        self.model = model
        self.objects = objects
        self.evaluation = evaluation
        self.runtime_url = runtime_url
        self.feature_parity = feature_parity

    @cached_property
    def native(self) -> Native:
        return self.candidate.native(self.objects)

    @cached_property
    def label(self) -> NDArray[np.int8]:
        return labels(self.frame, self.project)

    @cached_property
    def tensors(self) -> Tensors:
        """By the training's own plan, which the contract must agree with."""
        return self.candidate.record.plan.tensors(self.frame)

    @property
    def test_start(self) -> int:
        return len(self.frame) - self.candidate.record.rows["test"]

    @property
    def learned(self) -> int:
        """The first rows, which were learned from."""
        return self.candidate.record.rows["training"] + self.candidate.record.rows["validation"]


class Check(msgspec.Struct, frozen=True):
    name: str
    gate: Gate
    says: str
    run: Run
    needs: tuple[str, ...] = ()
    """Attributes of the evidence that must be there; without them the answer is inconclusive."""


_registered: dict[str, Check] = {}


def check(gate: Gate, name: str, *, needs: Iterable[str] = ()) -> Callable[[Run], Run]:
    """Register a function as a check. Its first line of documentation is what the report says it does."""

    def register(run: Run) -> Run:
        if name in _registered:
            raise ValueError(f"two checks are named {name!r}")
        says = (run.__doc__ or "").strip().partition("\n")[0]
        if not says:
            raise ValueError(f"check {name!r} does not say what it looks at")
        unknown = [need for need in needs if need not in ("evaluation", "runtime_url", "feature_parity")]
        if unknown:
            raise ValueError(f"check {name!r} needs {', '.join(unknown)}, which no evidence has")
        _registered[name] = Check(name, gate, says, run, tuple(needs))
        return run

    return register


def registered() -> Mapping[str, Check]:
    return dict(_registered)


def select(names: Iterable[str] | None = None, *, without: Iterable[str] = ()) -> list[Check]:
    """The checks to run, gate by gate; a misspelt name is an error before anything runs."""
    wanted = list(_registered) if names is None else list(names)
    unknown = sorted((set(wanted) | set(without)) - set(_registered))
    if unknown:
        raise SettingsError(
            f"there is no check {', '.join(unknown)}", fix=f"use one of: {', '.join(_registered)}"
        )
    chosen = [item for name, item in _registered.items() if name in wanted and name not in set(without)]
    return sorted(chosen, key=lambda item: GATES.index(item.gate))


def run_checks(checks: Iterable[Check], evidence: Evidence) -> list[GateResult]:
    """Every check's answer. One that cannot be carried out is inconclusive: it has proved nothing."""
    results = []
    for item in checks:
        missing = [need for need in item.needs if getattr(evidence, need) is None]
        if missing:
            found = answer(item.name, "inconclusive", f"there is no {', '.join(missing)} to look at")
        else:
            try:
                found = item.run(evidence)
            except SlipwayError as error:
                found = answer(item.name, "inconclusive", f"could not be carried out: {error}")
        told: dict[str, Any] = {"looks at": item.says, **found.evidence}
        results.append(msgspec.structs.replace(found, gate=f"{item.gate}: {item.name}", evidence=told))
    return results
