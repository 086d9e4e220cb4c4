"""The steps of a sweep, as pipelines call them: text in, text out."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from components.stepping import step
from components.sweep.search import SCORE, Trial, best, try_configuration
from components.train.step import read_config
from slipway.objects import ObjectStore
from slipway.project import load_project


def run_trial(project: str, snapshot: str, config: str) -> str:
    """One configuration and its score, as JSON."""
    with step("trial") as this:
        objects = ObjectStore.from_settings(this.settings)
        described = load_project(this.settings, project)
        trial = try_configuration(objects, described, snapshot, read_config(config))
        told = f"{SCORE.replace('_', ' ')} {trial.metrics[SCORE]:.5f} with {_short(trial)}"
        return this.answer(msgspec.json.encode(trial).decode(), told)


def run_choose(trials: Sequence[str]) -> str:
    """The best trial's configuration, as JSON."""
    with step("choose") as this:
        found = [msgspec.json.decode(text, type=Trial) for text in trials]
        chosen = best(found)
        return this.answer(
            msgspec.json.encode(chosen.config).decode(), f"the best of {len(found)}: {_short(chosen)}"
        )


def _short(trial: Trial) -> str:
    fields = msgspec.to_builtins(trial.config.model)
    return ", ".join(f"{name} {fields[name]}" for name in ("kind", "learning_rate", "leaves", "leaf_rows"))
