"""Walking from an answer back to what it came from: model, run, commit, snapshot, features, raw files.

Every link is checked on the way: the files of the model against its digest, the snapshot against the digest
in the contract, each manifest against the digest that names it, and every file by its bytes.
"""

from __future__ import annotations

import re
import tempfile
import uuid
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from components.snapshot import DATA_FILE, read_manifest
from components.snapshot.manifest import SourceFile
from slipway.contract import CONTRACT_FILE, ModelContract, parse_contract, prefix_digest
from slipway.datasets import RAW, open_dataset
from slipway.errors import (
    ContractError,
    DataError,
    ObjectCorrupt,
    ObjectNotFound,
    RegistryError,
    SlipwayError,
)
from slipway.objects import ObjectStore
from slipway.registry import ModelVersion, Registry
from slipway.settings import Settings

Found = TypeVar("Found")
State = Literal["verified", "missing", "wrong", "told"]
"""`told`: nothing here can check it; a commit lies in git, not on S3."""

_DATASET = re.compile(r"^(s3://[^/]+/[^/]+)/([0-9a-f]{64})/")


class Link(msgspec.Struct, frozen=True):
    what: str
    name: str
    state: State
    detail: str = ""


class Trace(msgspec.Struct, frozen=True):
    asked: str
    model: str
    version: int
    links: tuple[Link, ...]

    @property
    def whole(self) -> bool:
        """Whether every link that can be checked holds."""
        return all(link.state in ("verified", "told") for link in self.links)


def trace(settings: Settings, asked: str) -> Trace:
    """From a model (`name`, `name:version`, digest), a run, or a receipt (text, or a file with an answer)."""
    version = find_version(Registry(settings), asked)
    objects = ObjectStore.from_settings(settings)
    links = tuple(_walk(settings, objects, version))
    return Trace(asked, version.name, version.version, links)


def find_version(registry: Registry, asked: str) -> ModelVersion:
    text = _receipt_text(asked)
    versions = {name: registry.versions(name) for name in registry.names()}
    name, _, which = text.partition(":")
    if name in versions and not re.search(r"\s", text):
        return registry.find(name, which or "champion")
    words = set(re.findall(r"[0-9a-f]{7,64}", text))
    found = [
        item
        for items in versions.values()
        for item in items
        if any(item.digest.startswith(word) or (item.run_id and item.run_id == word) for word in words)
    ]
    if len({item.digest for item in found}) == 1:
        return found[0]
    problem = "names several models" if found else "names no model, run or receipt that is known"
    raise RegistryError(
        f"{asked[:120]!r} {problem}",
        fix="give a model, name:version, a digest, a run's id, or a file with an answer and its receipt",
    )


def _receipt_text(asked: str) -> str:
    """The text itself, or that of the file it names; of an answer only what the receipt says of the model."""
    path = Path(asked)
    try:
        text = path.read_text() if len(asked) < 4096 and path.is_file() else asked
    except (OSError, UnicodeDecodeError) as error:
        raise SlipwayError(f"cannot be read: {error}", where=asked) from error
    stated = re.search(r"model[-_]digest\W+([0-9a-f]{7,64})", text, re.IGNORECASE)
    return stated.group(1) if stated else text.strip()


def _walk(settings: Settings, objects: ObjectStore, version: ModelVersion) -> Iterator[Link]:
    yield from _model(objects, version)
    where = version.uri + CONTRACT_FILE
    contract, state, problem = _read(lambda: parse_contract(objects.get(where), where=where))
    if contract is None:
        yield Link("contract", where, state, problem)
        return
    yield from _origin(contract)
    if contract.snapshot is not None:
        yield from _snapshot(objects, contract)


def _model(objects: ObjectStore, version: ModelVersion) -> Iterator[Link]:
    uris = [info.uri for info in objects.list(version.uri)]
    found = _digests(objects, uris)
    digests = {uri.removeprefix(version.uri): digest or "" for uri, digest in zip(uris, found, strict=True)}
    name = f"{version.name} version {version.version}"
    detail = f"{version.uri} ({len(digests)} files, digest {version.digest})"
    if not digests:
        yield Link("model", name, "missing", f"no file is left below {version.uri}")
    elif prefix_digest(digests) == version.digest:
        yield Link("model", name, "verified", detail)
    else:
        yield Link("model", name, "wrong", detail)
        for file in sorted(version.files.keys() | digests.keys()):
            if file not in digests:
                yield Link("file", version.uri + file, "missing", "the version was registered with it")
            elif digests[file] != version.files.get(file, digests[file]):
                yield Link("file", version.uri + file, "wrong", "its bytes are not those registered")
            elif version.files and file not in version.files:
                yield Link("file", version.uri + file, "wrong", "the version was registered without it")


def _digests(objects: ObjectStore, uris: list[str]) -> list[str | None]:
    """Of the bytes that lie there; empty where they are not what their writer told, None where none are."""
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(max_workers=8) as pool:

        def digest(uri: str) -> str | None:
            target = Path(folder, uuid.uuid4().hex)
            try:
                return objects.download(uri, target).digest
            except ObjectCorrupt:
                return ""
            except ObjectNotFound:
                return None
            finally:
                target.unlink(missing_ok=True)

        return list(pool.map(digest, uris))


def _read(read: Callable[[], Found]) -> tuple[Found | None, State, str]:
    """What was read; or what is wrong with it. A store that does not answer proves nothing: that raises."""
    try:
        return read(), "verified", ""
    except ObjectNotFound as error:
        return None, "missing", error.what
    except (ObjectCorrupt, ContractError, DataError) as error:
        return None, "wrong", error.what


def _origin(contract: ModelContract) -> Iterator[Link]:
    if contract.origin is not None:
        yield Link("run", contract.origin.run_id, "told", "MLflow")
        yield Link("commit", contract.origin.git_commit, "told", contract.origin.image)
    if contract.feature_service is not None:
        service = contract.feature_service
        yield Link("features", service.name, "told", f"definition {service.digest}")
    for gate in contract.gates:
        yield Link("gate", gate.gate, "told", f"{gate.verdict}: {gate.reason}")


def _snapshot(objects: ObjectStore, contract: ModelContract) -> Iterator[Link]:
    snapshot = contract.snapshot
    assert snapshot is not None  # noqa: S101 (the caller looked)
    told = f"{snapshot.rows:,} rows, {snapshot.start} to {snapshot.end}"
    rows, state, problem = _read(lambda: objects.get(snapshot.uri, digest=snapshot.digest))
    yield Link("snapshot", snapshot.uri, state, problem or told)
    folder = snapshot.uri.removesuffix(DATA_FILE)
    manifest, state, problem = _read(lambda: read_manifest(objects, folder))
    if manifest is None or (rows is not None and manifest.digest != snapshot.digest):
        told = problem or f"it is the manifest of other rows, with the digest {manifest.digest}"
        yield Link("file", f"{folder}manifest.json", state if problem else "wrong", told)
    if manifest is None:
        return
    files = {file.uri: file for source in manifest.sources for file in source.files}
    files |= {file.uri: file for file in manifest.label_files}
    datasets = {uri: match.groups() for uri in files if (match := _DATASET.match(uri))}
    yield from _datasets(objects, [(root, digest) for root, digest in datasets.values()])
    yield from _plain_files(objects, [file for uri, file in files.items() if uri not in datasets])


def _plain_files(objects: ObjectStore, files: list[SourceFile]) -> Iterator[Link]:
    """Files of no dataset: S3's tag says whether they are those that the snapshot was taken from."""
    good = 0
    for file in files:
        if not file.uri.startswith("s3://"):
            yield Link("source file", file.uri, "told", f"SHA-256 {file.tag}")
            continue
        head = objects.head(file.uri)
        if head is not None and head.etag == file.tag:
            good += 1
        else:
            state: State = "wrong" if head else "missing"
            yield Link("source file", file.uri, state, "it is not as it was when the snapshot was taken")
    if good:
        yield Link("source files", f"{good} of {len(files)}", "verified", "as the snapshot found them")


def _datasets(objects: ObjectStore, found: Iterable[tuple[str, str]]) -> Iterator[Link]:
    """Each of these datasets, by root and digest, and those they were made from: each once."""
    waiting = list(dict.fromkeys(found))[::-1]
    walked: set[tuple[str, str]] = set()
    while waiting:
        root, digest = waiting.pop()
        if (root, digest) in walked:
            continue
        walked.add((root, digest))
        made_from = yield from _dataset(objects, root, digest)
        if made_from is not None:
            waiting.append(made_from)


def _dataset(objects: ObjectStore, root: str, digest: str) -> Generator[Link, None, tuple[str, str] | None]:
    """One dataset; answers the one that it was made from."""
    what = "raw data" if root.endswith(f"/{RAW}") else "feature data"
    uri = f"{root}/{digest}"
    dataset, state, problem = _read(lambda: open_dataset(objects, root, digest))
    if dataset is None:
        yield Link(what, uri, state, problem)
        return None
    rows = sum(table.rows for table in dataset.manifest.tables.values())
    parts = [part for table in dataset.manifest.tables.values() for part in table.parts]
    found = _digests(objects, [f"{uri}/{part.path}" for part in parts])
    bad = [(part, held) for part, held in zip(parts, found, strict=True) if held != part.digest]
    for part, held in bad:
        state = "missing" if held is None else "wrong"
        yield Link("file", f"{uri}/{part.path}", state, "the dataset's manifest has another digest of it")
    if not bad:
        yield Link(what, uri, "verified", f"{len(parts)} files, {rows:,} rows")
    inputs: Mapping[str, str] = dataset.manifest.inputs
    if RAW in inputs:
        return f"{root.rpartition('/')[0]}/{RAW}", inputs[RAW]
    for name, source in inputs.items():
        if name != "code":
            yield Link("source file", name, "told", f"SHA-256 {source}")
    return None
