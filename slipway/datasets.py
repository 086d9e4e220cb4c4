"""A dataset on S3: tables as Parquet files below a prefix that never changes, and one pointer to the current.

```
<root>/current.json            which digest is current; the one object that is ever overwritten
<root>/<digest>/manifest.json  written last: a prefix without it does not exist
<root>/<digest>/<table>/<part>.parquet
```

The digest covers the manifest, and the manifest the digests of all files: equal digests are equal bytes. A
manifest also names what the dataset was made from, by digest, so that making it again from the same can be
seen to be needless before any work is done, and every number can be followed back to its source.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import msgspec

from slipway.errors import DataError, ObjectConflict, ObjectCorrupt, ObjectNotFound
from slipway.objects import ObjectStore, Progress, publish

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
POINTER = "current.json"
RAW, FEATURES = "raw", "features"
"""The roots of the project's two datasets in our bucket: what was ingested, and the features made of it."""


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One Parquet file of a table."""

    path: str
    """Below the dataset's prefix."""
    digest: str
    size: int
    rows: int
    start: str | None = None
    """RFC 3339; first and last moment in the table's time column."""
    end: str | None = None


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    rows: int
    columns: Mapping[str, str]
    """Column → type, in the order of the file."""
    parts: tuple[Part, ...]
    time_column: str | None = None
    start: str | None = None
    end: str | None = None


class Decision(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Something that the data left open, how it was settled, and how many rows that touched."""

    name: str
    rows: int
    text: str


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    schema_version: int = SCHEMA_VERSION
    name: str
    inputs: Mapping[str, str]
    """What it was made from: name → digest. Code counts as input too."""
    tables: Mapping[str, Table]
    decisions: tuple[Decision, ...] = ()

    def to_json(self) -> bytes:
        return msgspec.json.format(msgspec.json.encode(self, order="sorted"), indent=1)

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.to_json()).hexdigest()


class Pointer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    digest: str
    inputs: Mapping[str, str]


class Dataset(msgspec.Struct, frozen=True):
    """A published dataset and where it lies."""

    root: str
    digest: str
    manifest: Manifest
    created: bool = False
    """True where this call wrote it."""

    @property
    def uri(self) -> str:
        return f"{self.root}/{self.digest}"

    def table_uri(self, table: str) -> str:
        return f"{self.uri}/{table}"


def publish_dataset(
    objects: ObjectStore,
    root: str,
    manifest: Manifest,
    files: Mapping[str, bytes | Path],
    *,
    progress: Progress | None = None,
) -> Dataset:
    """Write a dataset below `root` and make it the current one; a no-op where it is both already."""
    root = root.rstrip("/")
    promised = {part.path for table in manifest.tables.values() for part in table.parts}
    if promised != set(files):
        raise DataError(
            f"manifest and files differ: {', '.join(sorted(promised ^ set(files)))}", where=manifest.name
        )
    before = _read_pointer(objects, root)
    publication = publish(
        objects,
        f"{root}/{manifest.digest}",
        {**files, MANIFEST: manifest.to_json()},
        marker=MANIFEST,
        progress=progress,
    )
    moved = _point(objects, root, before, Pointer(manifest.digest, manifest.inputs))
    return Dataset(root, manifest.digest, manifest, created=publication.created or moved)


def current_dataset(objects: ObjectStore, root: str) -> Dataset | None:
    """The dataset that `root` points to, its manifest verified; None where nothing was published yet."""
    root = root.rstrip("/")
    found = _read_pointer(objects, root)
    return None if found is None else open_dataset(objects, root, found[0].digest)


def made_from(objects: ObjectStore, root: str, inputs: Mapping[str, str]) -> Dataset | None:
    """The current dataset, if it was made from just these inputs: then there is nothing to do."""
    root = root.rstrip("/")
    found = _read_pointer(objects, root)
    if found is None or dict(found[0].inputs) != dict(inputs):
        return None
    return open_dataset(objects, root, found[0].digest)


def open_dataset(objects: ObjectStore, root: str, digest: str) -> Dataset:
    """The dataset of that digest; its manifest's bytes are checked against it."""
    uri = f"{root.rstrip('/')}/{digest}/{MANIFEST}"
    try:
        manifest = msgspec.json.decode(objects.get(uri, digest=digest), type=Manifest)
    except msgspec.MsgspecError as error:
        raise ObjectCorrupt(
            f"not a manifest of schema {SCHEMA_VERSION}: {error}",
            where=uri,
            fix="make the dataset again with this version of Slipway",
        ) from error
    return Dataset(root.rstrip("/"), digest, manifest)


def _read_pointer(objects: ObjectStore, root: str) -> tuple[Pointer, str] | None:
    """The pointer and the etag of the object it was read from."""
    uri = f"{root}/{POINTER}"
    info = objects.head(uri)
    if info is None:
        return None
    try:
        return msgspec.json.decode(objects.get(uri), type=Pointer), info.etag
    except ObjectNotFound:  # removed in between
        return None
    except msgspec.MsgspecError as error:
        raise ObjectCorrupt(
            f"not a pointer: {error}", where=uri, fix="delete the object and publish again"
        ) from error


def _point(objects: ObjectStore, root: str, before: tuple[Pointer, str] | None, pointer: Pointer) -> bool:
    """Move the pointer from what it was when the work began; False where it stands there already."""
    if before is not None and before[0] == pointer:
        return False
    uri = f"{root}/{POINTER}"
    text = msgspec.json.encode(pointer, order="sorted")
    try:
        if before is None:
            objects.put(uri, text, if_absent=True)
        else:
            objects.put(uri, text, if_match=before[1])
    except ObjectConflict:
        now = _read_pointer(objects, root)
        if now is not None and now[0] == pointer:
            return False
        raise ObjectConflict(
            "another run published something else here while this one worked",
            where=uri,
            fix="decide which of the two is right, and run that one again",
        ) from None
    return True
