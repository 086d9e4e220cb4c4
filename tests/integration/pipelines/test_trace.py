"""The last steps of a trace, on a real S3: from the features to the raw data and its files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import polars as pl
import pytest

from pipelines.trace import _datasets
from slipway.datasets import RAW, Dataset, Manifest, publish_dataset
from slipway.objects import ObjectStore
from slipway.settings import Settings
from slipway.tables import TableWriter


@pytest.fixture
def store(platform: Settings) -> ObjectStore:
    return ObjectStore.from_settings(platform)


def published(store: ObjectStore, root: str, folder: Path, inputs: Mapping[str, str]) -> Dataset:
    writer = TableWriter(folder)
    writer.add("numbers", pl.DataFrame({"n": [1, 2, 3]}))
    manifest = Manifest(name="test", inputs=inputs, tables=writer.tables)
    return publish_dataset(store, root, manifest, writer.files)


def test_raw_data_that_labels_and_features_come_from_are_told_once(
    platform: Settings, store: ObjectStore, tmp_path: Path
) -> None:
    root = platform.uri("trace")
    raw = published(store, f"{root}/{RAW}", tmp_path / "raw", {"flights": "a" * 64, "code": "b" * 64})
    features = published(store, f"{root}/features", tmp_path / "features", {RAW: raw.digest})
    known = [(dataset.root, dataset.digest) for dataset in (features, raw, features)]
    links = list(_datasets(store, known))
    assert [(link.what, link.name, link.state) for link in links] == [
        ("feature data", features.uri, "verified"),
        ("raw data", raw.uri, "verified"),
        ("source file", "flights", "told"),
    ]
    (part,) = raw.manifest.tables["numbers"].parts
    store.put(f"{raw.uri}/{part.path}", b"other")
    broken = [link for link in _datasets(store, known) if link.state == "wrong"]
    assert [link.name for link in broken] == [f"{raw.uri}/{part.path}"]
