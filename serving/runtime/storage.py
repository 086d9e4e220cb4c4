"""Where models lie: a folder (KServe's /mnt/models among them) or a prefix on S3.

Both are read as one flat listing, and the listing says what is a model and what is a version:

    model.onnx                      one model
    3/model.onnx, 4/model.onnx      versions of one model (numbers or digests)
    flights/model.onnx              a repository: models with one version each
    flights/3/model.onnx            a repository: models and versions
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from slipway.aws import OTHER_REGION_FIX, credentials
from slipway.contract import CONTRACT_FILE, MODEL_FILE
from slipway.errors import ObjectCorrupt, ObjectNotFound, ObjectStoreUnavailable, SettingsError

_VERSION = re.compile(r"[0-9]+|[0-9a-f]{64}")
READ_SECONDS = 30.0


class File(NamedTuple):
    path: str
    """Relative to the root."""
    size: int
    tag: str
    """Changes when the content does."""
    modified: float


class Place(NamedTuple):
    """Where one version of one model lies."""

    name: str
    version: str
    prefix: str
    files: tuple[File, ...]
    """Its files, with names relative to the prefix."""
    model_file: str

    @property
    def fingerprint(self) -> tuple[tuple[str, int, str], ...]:
        return tuple(sorted((file.path, file.size, file.tag) for file in self.files))

    @property
    def modified(self) -> float:
        return max(file.modified for file in self.files if file.path in (CONTRACT_FILE, self.model_file))

    @property
    def order(self) -> tuple[int, int, float]:
        """The greatest is the version that is served when none is named."""
        number = int(self.version) if self.version.isdecimal() and len(self.version) < 19 else -1
        return (1, number, 0.0) if number >= 0 else (0, 0, self.modified)


class Storage(Protocol):
    where: str

    def listing(self) -> list[File]: ...

    def read(self, path: str) -> bytes: ...

    def local_path(self, path: str) -> Path | None:
        """A file that ONNX Runtime can open itself (weights may lie in files beside the graph)."""


class FolderStorage:
    def __init__(self, root: str) -> None:
        self.root = Path(root)
        self.where = root

    def listing(self) -> list[File]:
        files: list[File] = []
        if not self.root.is_dir():
            raise ObjectNotFound(
                "there is no such folder", where=self.where, fix="mount the models there, or set --model-dir"
            )
        for folder, folders, names in os.walk(self.root, followlinks=True):
            depth = len(Path(folder).relative_to(self.root).parts)
            folders[:] = [] if depth >= 2 else sorted(name for name in folders if not name.startswith("."))
            for name in names:
                path = Path(folder, name)
                try:
                    stat = path.stat()
                except OSError:
                    continue  # gone since the walk saw it
                relative = path.relative_to(self.root).as_posix()
                # The inode changes with every atomic replace, even within one tick of the clock.
                tag = f"{stat.st_mtime_ns}-{stat.st_ino}"
                files.append(File(relative, stat.st_size, tag, stat.st_mtime))
        return files

    def read(self, path: str) -> bytes:
        try:
            return (self.root / path).read_bytes()
        except FileNotFoundError:
            raise ObjectNotFound("there is no such file", where=str(self.root / path)) from None
        except OSError as error:
            raise ObjectCorrupt(f"cannot be read: {error.strerror}", where=str(self.root / path)) from error

    def local_path(self, path: str) -> Path | None:
        return self.root / path


class S3Storage:
    """Through obstore: a tenth of boto3's size, and Rust's TLS and retries."""

    def __init__(self, uri: str, options: dict[str, Any]) -> None:
        import obstore
        from obstore.store import S3Store

        self.where = uri
        self._obstore = obstore
        bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        if not bucket:
            raise SettingsError("it names no bucket", where=uri, fix="write s3://bucket/prefix")
        self.prefix = prefix.strip("/")
        self.store = S3Store(bucket, **options)

    def listing(self) -> list[File]:
        # With the slash at its end, so that `v1` never takes `v10`.
        prefix = f"{self.prefix}/" if self.prefix else None
        files = []
        try:
            for page in self._obstore.list(self.store, prefix):
                for item in page:
                    path = item["path"][len(prefix or "") :]
                    files.append(
                        File(path, item["size"], item["e_tag"] or "", item["last_modified"].timestamp())
                    )
        except Exception as error:
            raise self._explain(error, self.where) from error
        return files

    def read(self, path: str) -> bytes:
        key = f"{self.prefix}/{path}" if self.prefix else path
        try:
            return bytes(self._obstore.get(self.store, key).bytes())
        except Exception as error:
            raise self._explain(error, f"{self.where}/{path}") from error

    def local_path(self, path: str) -> Path | None:
        return None

    def write(self, path: str, content: bytes) -> None:
        key = f"{self.prefix}/{path}" if self.prefix else path
        try:
            self._obstore.put(self.store, key, content)
        except Exception as error:
            raise self._explain(error, f"{self.where}/{path}") from error

    def _explain(self, error: Exception, where: str) -> Exception:
        text = str(error).split("\n")[0][:300]
        if isinstance(error, FileNotFoundError) or type(error).__name__ == "NotFoundError":
            return ObjectNotFound("there is no such object", where=where)
        region = "configured region" in str(error) or "AuthorizationHeaderMalformed" in str(error)
        return ObjectStoreUnavailable(
            f"S3 does not answer as it should: {text}",
            where=where,
            fix=OTHER_REGION_FIX if region else "check endpoint, credentials and bucket",
        )


def open_storage(model_dir: str) -> Storage:
    if not model_dir.startswith("s3://"):
        return FolderStorage(model_dir.removeprefix("file://"))
    return S3Storage(model_dir, s3_options())


def s3_options() -> dict[str, Any]:
    """What obstore needs to know, from the same settings as the rest of Slipway."""
    from datetime import timedelta

    from slipway.settings import load_settings

    s3 = load_settings().s3
    options: dict[str, Any] = {
        "region": s3.region,
        "client_options": {
            "connect_timeout": timedelta(seconds=s3.connect_timeout),
            "timeout": timedelta(seconds=s3.read_timeout),
            "allow_http": True,
        },
        "retry_config": {"max_retries": s3.attempts, "retry_timeout": timedelta(seconds=s3.read_timeout)},
    }
    if s3.endpoint:
        options |= {"endpoint": s3.endpoint, "virtual_hosted_style_request": False}
    if s3.access_key:
        options |= {"access_key_id": s3.access_key, "secret_access_key": s3.secret_key or ""}
    elif found := credentials(os.environ):
        # obstore knows variables and roles, and no files.
        options |= {"access_key_id": found.access_key, "secret_access_key": found.secret_key}
        if found.token:
            options["token"] = found.token
    return options


def find_models(files: Iterable[File], *, name: str, where: str) -> list[Place]:
    """Models and versions in a listing; `name` is for a root that is one model."""
    folders: dict[str, list[File]] = {}
    for file in files:
        folder, _, leaf = file.path.rpartition("/")
        folders.setdefault(folder, []).append(file._replace(path=leaf))
    graphs: dict[str, str] = {}
    for folder, inside in folders.items():
        names = [file.path for file in inside if file.path.endswith(".onnx")]
        if MODEL_FILE in names:
            graphs[folder] = MODEL_FILE
        elif len(names) == 1:
            graphs[folder] = names[0]
    own_name = name or where.rstrip("/").rpartition("/")[2] or "model"
    if "" in graphs:
        return [Place(own_name, "1", "", tuple(folders[""]), graphs[""])]
    top = [folder for folder in graphs if "/" not in folder]
    versions_of_one = bool(top) and all(_VERSION.fullmatch(folder) for folder in graphs)
    places = []
    for folder in sorted(graphs):
        first, _, rest = folder.partition("/")
        if "/" in rest:
            continue
        model, version = (own_name, first) if versions_of_one else (first, rest or "1")
        places.append(Place(model, version, folder + "/", tuple(folders[folder]), graphs[folder]))
    return places
