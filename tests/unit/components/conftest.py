"""An S3 of the tests' own, and the small project on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from slipway.objects import ObjectStore, make_client
from slipway.settings import S3, Settings, Tracking
from tests.support.training import Tables


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="session")
def tables() -> Tables:
    return Tables()


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="session")
def settings(s3_endpoint: str, home: Path, tables: Tables) -> Settings:
    """One bucket and one tracking store for all: what differs has another key, so nothing collides."""
    s3 = S3(endpoint=s3_endpoint, access_key="test", secret_key="test")
    made = Settings(home=str(home), s3=s3, tracking=Tracking(uri=f"sqlite:///{home}/mlflow.db"))
    make_client(s3).create_bucket(Bucket=s3.bucket)
    tables.upload(ObjectStore.from_settings(made))
    return made


@pytest.fixture(scope="session")
def objects(settings: Settings) -> ObjectStore:
    return ObjectStore.from_settings(settings)
