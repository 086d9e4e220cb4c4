"""A prefix that appears whole or not at all.

All files but the marker are written first, each only if it is not there yet; the marker comes last. Readers
take a prefix without its marker for absent, so a writer that dies half-way has published nothing, and the
same publication can simply be made again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from slipway.errors import ObjectConflict, ObjectError
from slipway.objects.address import parse_address
from slipway.objects.store import ObjectInfo, ObjectStore, Progress, file_digest


class Publication(msgspec.Struct, frozen=True):
    uri: str
    digests: dict[str, str]
    created: bool
    """False: the very same files were published before, and nothing was written."""


def publish(
    store: ObjectStore,
    uri: str,
    files: Mapping[str, bytes | Path],
    *,
    marker: str,
    progress: Progress | None = None,
) -> Publication:
    """Write `files` below `uri`, the one named `marker` last.

    Publishing the same bytes again is a no-op; other bytes under a published name are an ObjectConflict, for
    what is published never changes. Let the prefix name its content (a digest): then several publishers at
    once write the same bytes, and what a dead one left is completed by the next.
    """
    if marker not in files:
        raise ObjectError(
            f"the marker {marker!r} is not among the files", where=uri, fix="add it to the files"
        )
    prefix = parse_address(uri).directory.uri
    digests = {name: _digest(content) for name, content in files.items()}
    if _stands(store, prefix + marker, digests[marker]):
        _check_rest(store, prefix, {name: digest for name, digest in digests.items() if name != marker})
        return Publication(prefix, digests, created=False)

    def write(name: str) -> bool:
        return _write_once(store, prefix + name, files[name], digests[name], progress)

    with ThreadPoolExecutor(max_workers=8) as pool:
        list(pool.map(write, (name for name in files if name != marker)))
    return Publication(prefix, digests, created=write(marker))


def _write_once(
    store: ObjectStore, uri: str, content: bytes | Path, digest: str, progress: Progress | None
) -> bool:
    """True if this call wrote it, False if the same bytes were there."""
    try:
        if isinstance(content, Path):
            store.upload(uri, content, if_absent=True, progress=progress)
        else:
            store.put(uri, content, if_absent=True)
            if progress is not None:
                progress(len(content))
    except ObjectConflict:
        if _stands(store, uri, digest):
            return False
        raise  # removed again in between
    return True


def _stands(store: ObjectStore, uri: str, digest: str) -> bool:
    """Whether the object is there with this digest; another one there is a conflict."""
    found = store.head(uri)
    if found is None:
        return False
    if _digest_of(store, found) != digest:
        raise ObjectConflict(
            "it is published already, with other content",
            where=uri,
            fix="what is published never changes: publish under another prefix",
        )
    return True


def _digest_of(store: ObjectStore, info: ObjectInfo) -> str:
    return info.digest if info.digest is not None else hashlib.sha256(store.get(info.uri)).hexdigest()


def _check_rest(store: ObjectStore, prefix: str, digests: Mapping[str, str]) -> None:
    for name, digest in digests.items():
        if not _stands(store, prefix + name, digest):
            raise ObjectError(
                f"{name} is missing below a marker that says it is there",
                where=prefix,
                fix="restore it from the bucket's version history",
            )


def _digest(content: bytes | Path) -> str:
    return file_digest(content) if isinstance(content, Path) else hashlib.sha256(content).hexdigest()
