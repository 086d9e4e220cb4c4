"""kill -9 of `slipway ingest` while it publishes: nothing half done is current, and the next run finishes."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import msgspec
import pytest

from components.ingest import ingest
from components.ingest.columns import LAYOUTS
from components.ingest.sources import package_file, parse, read_bytes
from slipway.datasets import MANIFEST, POINTER, RAW, current_dataset
from slipway.objects import ObjectStore, make_client
from slipway.settings import Settings
from slipway.tables import read_table


@pytest.fixture
def flights(tmp_path: Path) -> Path:
    """The tenth of each month: twelve files to publish for this table alone."""
    package = package_file("flights")
    frame = parse(read_bytes(package), LAYOUTS["flights"], where=str(package))
    path = tmp_path / "own.csv"
    frame.filter(day=10).drop("row", "problem").write_csv(path, null_value="NA")
    return path


def in_bucket(platform: Settings) -> Settings:
    bucket = f"killed-{uuid.uuid4().hex}"
    make_client(platform.s3).create_bucket(Bucket=bucket)
    return msgspec.structs.replace(platform, s3=msgspec.structs.replace(platform.s3, bucket=bucket))


def names(settings: Settings) -> set[str]:
    root = settings.uri(RAW)
    return {info.uri.removeprefix(root) for info in ObjectStore.from_settings(settings).list(root + "/")}


def test_a_killed_ingest_publishes_nothing_or_all(
    platform: Settings, platform_environment: dict[str, str], flights: Path
) -> None:
    whole = in_bucket(platform)
    expected = ingest(whole, files={"flights": flights})
    settings = in_bucket(platform)
    store = ObjectStore.from_settings(settings)
    command = [str(Path(sys.executable).with_name("slipway")), "ingest", "--flights", str(flights), "--json"]
    environment = {**platform_environment, "SLIPWAY_S3_BUCKET": settings.s3.bucket}
    killed_early = 0
    # With the first file there, with half of them, and with the manifest there and the pointer about to move.
    for point in (1, len(names(whole)) // 2, len(names(whole)) - 1):
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 300
        try:
            while process.poll() is None and len(names(settings)) < point and time.monotonic() < deadline:
                time.sleep(0.002)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        found = names(settings)
        assert len(found) >= point, "it ended before it had written what we waited for"
        if f"/{POINTER}" in found:
            dataset = current_dataset(store, settings.uri(RAW))
            assert dataset is not None
            assert dataset.digest == expected.dataset.digest
            for table, described in dataset.manifest.tables.items():
                assert read_table(store, dataset, table).height == described.rows
        else:
            killed_early += 1
            assert current_dataset(store, settings.uri(RAW)) is None
    assert killed_early, "each time it was done before the kill"

    # What is left is completed, not written anew under another name, and nothing else lies beside it.
    again = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert again.returncode == 0, again.stderr
    assert msgspec.json.decode(again.stdout)["digest"] == expected.dataset.digest
    assert names(settings) == names(whole)
    assert f"/{expected.dataset.digest}/{MANIFEST}" in names(settings)
    dataset = current_dataset(store, settings.uri(RAW))
    assert dataset is not None
    for table, described in dataset.manifest.tables.items():
        assert read_table(store, dataset, table).height == described.rows
