"""MLflow, opened from our settings. Importing it takes seconds, so this is called where it is used."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipway.errors import RegistryError
from slipway.settings import Settings

if TYPE_CHECKING:
    from mlflow import MlflowClient

# No progress bars nor git look-ups in the steps' logs, and no wait of minutes for a dead server.
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
# What runs here is told to nobody, and no step waits for a reporting thread.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")


def open_tracking(settings: Settings) -> MlflowClient:
    import logging

    # Its SQLite set-up logs some hundred lines of schema migrations.
    for name in ("alembic", "mlflow.store.db.utils"):
        logging.getLogger(name).setLevel(logging.WARNING)
    from mlflow import MlflowClient

    uri = settings.tracking.uri
    scheme, _, path = uri.partition(":///")
    if scheme == "sqlite":
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


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
