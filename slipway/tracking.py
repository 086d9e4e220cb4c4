"""MLflow, opened as all of us need it. Importing it takes seconds, so it is imported where it is used."""

from __future__ import annotations

import logging
import os
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient

# No progress bars nor git look-ups in the steps' logs, and no wait of minutes for a dead server.
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
# What runs here is told to nobody, and no step waits for a reporting thread.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

_LEFT_SECONDS = 3600.0
"""A database that nobody finished within this is nobody's any more."""


def open_client(uri: str) -> MlflowClient:
    """A client of the tracking server or database at this URI; a SQLite database is made if there is none."""
    # A database's migrations announce themselves line by line at its first use.
    for name in ("alembic", "mlflow.store.db.utils"):
        logging.getLogger(name).setLevel(logging.WARNING)
    from mlflow import MlflowClient

    scheme, _, path = uri.partition(":///")
    if scheme == "sqlite" and not Path(path).exists():
        _make_database(Path(path))
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def _make_database(path: Path) -> None:
    """MLflow makes a database by some fifty migrations, and cannot go on with one that was left half-way.

    So it is made beside and then appears whole. Of two that make it at once, the first wins.
    """
    from mlflow import MlflowClient

    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{path.name}.*"):
        with suppress(FileNotFoundError):
            if time.time() - left.stat().st_mtime > _LEFT_SECONDS:
                left.unlink()
    made = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        uri = f"sqlite:///{made}"
        MlflowClient(tracking_uri=uri, registry_uri=uri).search_experiments(max_results=1)
        with suppress(FileExistsError):
            os.link(made, path)
    finally:
        made.unlink(missing_ok=True)
