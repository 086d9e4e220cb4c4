"""The components as KFP sees them: each body imports one function and calls it.

All logic is in `components/`, which the image holds, so what the cluster runs and what a laptop runs is the
same code. The image brings its own packages: nothing is installed when a step starts.
"""

# No `from __future__ import annotations`: KFP reads the annotations of these functions as objects.

import os
from collections.abc import Callable
from typing import Any, List  # noqa: UP035

from kfp import dsl
from kfp.dsl import HTML, Artifact, ClassificationMetrics, Metrics, Model, Output, PipelineTaskFinalStatus

IMAGE = os.environ.get("SLIPWAY_PIPELINES_IMAGE", "slipway-components:dev")
"""Named by digest on a cluster, because KFP caches by this text."""


def component(function: Callable[..., Any]) -> Any:
    return dsl.component(function, base_image=IMAGE, install_kfp_package=False)


@component
def snapshot(project: str, start: str, end: str, statistics: Output[Artifact]) -> str:
    """Freeze a training set: every labelled row of the window with its features as of its own time."""
    from components.snapshot.step import run

    return run(project, start, end, statistics=statistics.path)


@component
def train(project: str, snapshot: str, config: str, model: Output[Model]) -> str:
    """Fit on the older rows and export to ONNX, with all preprocessing inside the graph."""
    from components.train.step import run

    return run(project, snapshot, config, model=model.path)


@component
def evaluate(
    project: str,
    candidate: str,
    metrics: Output[Metrics],
    curves: Output[ClassificationMetrics],
    report: Output[HTML],
) -> str:
    """Judge the candidate on the newest rows, beside the champion and beside a random split."""
    from components.evaluate.step import run

    return run(project, candidate, report=report.path, metrics=metrics, curves=curves)


@component
def evaluate_version(
    project: str,
    version: str,
    snapshot: str,
    metrics: Output[Metrics],
    curves: Output[ClassificationMetrics],
    report: Output[HTML],
) -> str:
    """Judge a registered version on all rows of a snapshot, beside the champion."""
    from components.evaluate.step import run_version

    return run_version(project, version, snapshot, report=report.path, metrics=metrics, curves=curves)


@component
def published(project: str, evaluation: str) -> str:
    """Whether the model beats, by time and at random, what others published for the same question."""
    from components.evaluate.step import run_published

    return run_published(project, evaluation)


@component
def verify(project: str, candidate: str, evaluation: str, online: bool, report: Output[HTML]) -> str:
    """Ask every gate: data, leakage, quality, parity, budget. Anything but pass stops the line."""
    from components.verify.step import run

    return run(project, candidate, evaluation, online=online, report=report.path)


@component
def trial(project: str, snapshot: str, config: str) -> str:
    """Fit one configuration and score it on the validation rows; nothing is kept but the score."""
    from components.sweep.step import run_trial

    return run_trial(project, snapshot, config)


@component
def choose(trials: List[str]) -> str:  # noqa: UP006 (KFP reads no `list[str]`)
    """The configuration with the least log loss on the validation rows."""
    from components.sweep.step import run_choose

    return run_choose(trials)


@component
def finish(status: PipelineTaskFinalStatus) -> None:
    """Tell how the run ended, whatever happened."""
    from components.finish.step import run

    run(status.state, status.pipeline_job_resource_name, status.error_message)


@component
def register(verified: str, why: str) -> str:
    """Publish the version under its digest and make it the challenger."""
    from components.register.step import run

    return run(verified, why)


@component
def deploy(version: str, why: str) -> str:
    """Serve the version, ask it what is known, and make it the champion."""
    from components.deploy.step import run

    return run(version, why)
