"""Trying configurations: what to try, what one is worth, and which is best."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from components.inputs import plan_inputs
from components.labels import labels
from components.snapshot import read_manifest, read_rows
from components.train.component import TrainConfig, fit_parts
from components.train.split import time_ordered
from slipway.errors import DataError, SettingsError
from slipway.objects import ObjectStore
from slipway.project import Project

MOST_TRIALS = 64
SCORE = "validation_log_loss"
"""A proper score: it asks for the right probabilities, of which the threshold by cost makes use."""


class Trial(msgspec.Struct, frozen=True):
    config: TrainConfig
    metrics: dict[str, float]
    rounds: int


def grid(base: TrainConfig, choices: Mapping[str, Sequence[Any]]) -> list[TrainConfig]:
    """Every combination of the choices for fields of the model, on top of `base`, in a fixed order."""
    known = {field.name for field in msgspec.structs.fields(base.model)}
    unknown = sorted(set(choices) - known)
    if unknown:
        raise SettingsError(
            f"a model has no {', '.join(unknown)}",
            where="choices",
            fix=f"use some of: {', '.join(sorted(known))}",
        )
    # Counted before any is made: a slip of the pen can ask for more than memory holds.
    count = math.prod(len(values) for values in choices.values())
    if not 0 < count <= MOST_TRIALS:
        raise SettingsError(
            f"the choices make {count} trials", where="choices", fix=f"leave between 1 and {MOST_TRIALS}"
        )
    names = sorted(choices)
    found = [
        dict(zip(names, values, strict=True))
        for values in itertools.product(*(choices[name] for name in names))
    ]
    plain = msgspec.to_builtins(base)
    try:
        return [
            msgspec.convert({**plain, "model": {**plain["model"], **choice}}, TrainConfig) for choice in found
        ]
    except msgspec.ValidationError as error:
        raise SettingsError(f"a choice does not fit: {error}", where="choices") from error


def try_configuration(objects: ObjectStore, project: Project, snapshot: str, config: TrainConfig) -> Trial:
    """Fit on the training rows and judge on the validation rows; the test rows are not looked at."""
    manifest = read_manifest(objects, snapshot)
    frame = read_rows(objects, snapshot, manifest.digest)
    plan = plan_inputs(project, manifest.service)
    times = frame[project.event_time]
    parts = time_ordered(times, config.split, known_after_hours=project.label.known_after_hours)
    fitted = fit_parts(config, plan, plan.tensors(frame), labels(frame, project), parts, project)
    return Trial(config=config, metrics=fitted.metrics, rounds=fitted.rounds)


def best(trials: Sequence[Trial]) -> Trial:
    """The least log loss; of equals the first, so that the same trials give the same choice."""
    if not trials:
        raise DataError("no trial came to an end", where="sweep", fix="look at the trials' logs")
    return min(trials, key=lambda trial: trial.metrics[SCORE])
