"""The exit handler: says how the run ended, and ends the MLflow runs that a killed step left open."""

from __future__ import annotations

from components.runs import end_abandoned
from components.stepping import step
from components.tracking import experiment, open_tracking
from slipway.errors import RegistryError
from slipway.settings import Settings


def run(state: str, resource: str, error: str | None) -> None:
    with step("finish") as this:
        told = f"{resource or 'run'} {state}" + (f": {error}" if error else "")
        if state != "SUCCEEDED":
            told += _end_abandoned(this.settings, resource)
        this.answer(state, told)


def _end_abandoned(settings: Settings, resource: str) -> str:
    """Tracking that does not answer is no reason to say nothing of how the run ended."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        client = open_tracking(settings)
        ended = end_abandoned(client, experiment(client, settings).experiment_id, resource)
    except (MlflowException, SQLAlchemyError, RegistryError, OSError) as problem:
        return f"; whether a killed step left an MLflow run open could not be seen: {problem}"
    return f"; {len(ended)} MLflow runs of killed steps ended" if ended else ""
