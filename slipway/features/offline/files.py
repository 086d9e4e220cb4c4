"""The few file operations that writes need, on disk and on S3, each of them atomic."""

from __future__ import annotations

import fcntl
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from slipway.errors import FeatureSourceError, ObjectConflict
from slipway.objects import ObjectStore

_ATTEMPTS = 50


class Files(Protocol):
    def exists(self, uri: str) -> bool: ...

    def list(self, uri: str) -> list[str]:
        """The Parquet files below a place."""

    def create(self, uri: str, data: bytes) -> None:
        """Write a file under a name that nobody else has."""

    def put(self, uri: str, data: bytes, overwrite: bool) -> bool:
        """Write a file; False: it was there, and may not be overwritten."""

    def update(self, uri: str, change: Callable[[bytes | None], bytes]) -> None:
        """Write a file anew from its content, so that of two at once both have their effect."""

    def delete(self, uri: str) -> None: ...


class Disk:
    def exists(self, uri: str) -> bool:
        return Path(uri).exists()

    def list(self, uri: str) -> list[str]:
        return sorted(str(path) for path in Path(uri).rglob("*.parquet"))

    def create(self, uri: str, data: bytes) -> None:
        with _aside(uri, data) as aside:
            aside.replace(uri)

    def put(self, uri: str, data: bytes, overwrite: bool) -> bool:
        with _aside(uri, data) as aside:
            if overwrite:
                aside.replace(uri)
                return True
            try:
                # A link fails where a rename would silently take the place of what is there.
                os.link(aside, uri)
            except FileExistsError:
                return False
        return True

    def update(self, uri: str, change: Callable[[bytes | None], bytes]) -> None:
        path = Path(uri)
        path.parent.mkdir(parents=True, exist_ok=True)
        with (path.parent / f".{path.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self.create(uri, change(path.read_bytes() if path.exists() else None))

    def delete(self, uri: str) -> None:
        Path(uri).unlink(missing_ok=True)


class Bucket:
    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def exists(self, uri: str) -> bool:
        return self._store.head(uri) is not None

    def list(self, uri: str) -> list[str]:
        return [info.uri for info in self._store.list(uri) if info.uri.endswith(".parquet")]

    def create(self, uri: str, data: bytes) -> None:
        self._store.put(uri, data)

    def put(self, uri: str, data: bytes, overwrite: bool) -> bool:
        try:
            self._store.put(uri, data, if_absent=not overwrite)
        except ObjectConflict:
            return False
        return True

    def update(self, uri: str, change: Callable[[bytes | None], bytes]) -> None:
        for _ in range(_ATTEMPTS):
            before = self._store.head(uri)
            data = change(None if before is None else self._store.get(uri))
            try:
                if before is None:
                    self._store.put(uri, data, if_absent=True)
                else:
                    # Holds for the content too: whoever wrote between head and get changed the tag.
                    self._store.put(uri, data, if_match=before.etag)
            except ObjectConflict:
                continue
            return
        raise FeatureSourceError(
            f"others wrote this file {_ATTEMPTS} times while we tried to add to it",
            where=uri,
            fix="let the source be a prefix, where each writer has files of its own",
        )

    def delete(self, uri: str) -> None:
        self._store.delete(uri)


@contextmanager
def _aside(uri: str, data: bytes) -> Iterator[Path]:
    """The data, safe on disk, under a name beside its own that no reader takes for a Parquet file."""
    path = Path(uri)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.parent / f".{path.name}.{uuid.uuid4().hex}"
    try:
        with aside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield aside
    finally:
        aside.unlink(missing_ok=True)
