"""MLflow, opened from our settings, and our experiment in it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipway.errors import RegistryError
from slipway.settings import Settings
from slipway.tracking import open_client

if TYPE_CHECKING:
    from mlflow import MlflowClient


def open_tracking(settings: Settings) -> MlflowClient:
    return open_client(settings.tracking.uri)


def experiment(client: MlflowClient, settings: Settings) -> Any:
    """Our experiment, made when it is not there; two at once get the same."""
    from mlflow.exceptions import MlflowException

    name = settings.tracking.experiment
    found = client.get_experiment_by_name(name)
    if found is None:
        # A server decides itself where artifacts lie; without one they lie in the state folder.
        folder = Path(settings.home, "mlflow-artifacts").resolve().as_uri()
        place = folder if settings.tracking.uri.startswith("sqlite") else None
        try:
            client.create_experiment(name, artifact_location=place)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise RegistryError(f"MLflow: {error.message}", where=settings.tracking.uri) from error
        found = client.get_experiment_by_name(name)
    if found is None or found.lifecycle_stage != "active":
        raise RegistryError(
            f"the MLflow experiment {name!r} is deleted",
            where=settings.tracking.uri,
            fix="restore it, or set tracking.experiment to another name",
        )
    return found
