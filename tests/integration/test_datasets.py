"""Datasets on a real S3: whole or absent, one pointer, two at once."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from pathlib import Path

import msgspec
import polars as pl
import pytest

from slipway import datasets
from slipway.datasets import Dataset, Manifest, current_dataset, made_from, open_dataset, publish_dataset
from slipway.errors import DataError, ObjectConflict, ObjectCorrupt
from slipway.objects import ObjectStore
from slipway.settings import Settings
from slipway.tables import TableWriter, read_table


@pytest.fixture
def store(platform: Settings) -> ObjectStore:
    return ObjectStore.from_settings(platform)


@pytest.fixture
def root(platform: Settings) -> str:
    return platform.uri("tests", uuid.uuid4().hex)


def written(folder: Path, value: int) -> tuple[Manifest, Mapping[str, Path]]:
    writer = TableWriter(folder / str(value))
    writer.add("numbers", pl.DataFrame({"n": [value]}))
    return Manifest(name="test", inputs={"value": str(value)}, tables=writer.tables), writer.files


def published(store: ObjectStore, root: str, folder: Path, value: int) -> Dataset:
    return publish_dataset(store, root, *written(folder, value))


def test_the_current_dataset_is_the_one_published_last(store: ObjectStore, root: str, tmp_path: Path) -> None:
    assert current_dataset(store, root) is None
    first = published(store, root, tmp_path, 1)
    second = published(store, root, tmp_path, 2)
    current = current_dataset(store, root)
    assert current is not None
    assert current.digest == second.digest != first.digest
    assert made_from(store, root, {"value": "2"}) is not None
    assert made_from(store, root, {"value": "1"}) is None
    assert read_table(store, open_dataset(store, root, first.digest), "numbers")["n"].to_list() == [1]
    assert not published(store, root, tmp_path, 2).created


def test_of_two_at_once_with_other_data_one_is_told(
    store: ObjectStore, root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published(store, root, tmp_path, 0)
    publish = datasets.publish

    def and_another_meanwhile(*args: object, **kwargs: object) -> object:
        monkeypatch.setattr(datasets, "publish", publish)
        published(store, root, tmp_path, 1)
        return publish(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(datasets, "publish", and_another_meanwhile)
    with pytest.raises(ObjectConflict, match="another run published something else"):
        published(store, root, tmp_path, 2)
    current = current_dataset(store, root)
    assert current is not None
    assert current.manifest.inputs == {"value": "1"}


def test_damage_is_told_and_never_read(store: ObjectStore, root: str, tmp_path: Path) -> None:
    dataset = published(store, root, tmp_path, 1)
    with pytest.raises(DataError, match="no table 'letters'"):
        read_table(store, dataset, "letters")
    part = dataset.manifest.tables["numbers"].parts[0]
    store.put(f"{dataset.uri}/{part.path}", b"other bytes")
    with pytest.raises(ObjectCorrupt):
        read_table(store, dataset, "numbers")
    manifest = msgspec.structs.replace(dataset.manifest, name="forged")
    store.put(f"{dataset.uri}/manifest.json", manifest.to_json())
    with pytest.raises(ObjectCorrupt):
        current_dataset(store, root)
    store.put(f"{root}/current.json", b"{")
    with pytest.raises(ObjectCorrupt, match="not a pointer"):
        current_dataset(store, root)


def test_a_manifest_that_does_not_match_its_files_is_refused(
    store: ObjectStore, root: str, tmp_path: Path
) -> None:
    manifest, files = written(tmp_path, 1)
    with pytest.raises(DataError, match="manifest and files differ"):
        publish_dataset(store, root, manifest, {**files, "extra": b""})
    assert current_dataset(store, root) is None
