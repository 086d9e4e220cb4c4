"""Walking from an answer back to what it came from: model, run, commit, snapshot, features, raw files.

Every link is checked on the way: the files of the model against its digest, the snapshot against the digest
in the contract, each manifest against the digest that names it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import msgspec

from components.snapshot import DATA_FILE, read_manifest
from slipway.contract import CONTRACT_FILE, ModelContract, parse_contract, prefix_digest
from slipway.datasets import RAW, open_dataset
from slipway.errors import ObjectError, RegistryError, SlipwayError
from slipway.objects import ObjectStore, file_digest
from slipway.registry import ModelVersion, Registry
from slipway.settings import Settings

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
    stated = re.search(r"model[-_]digest\W+([0-9a-f]{7,64})", text)
    return stated.group(1) if stated else text.strip()


def _walk(settings: Settings, objects: ObjectStore, version: ModelVersion) -> Iterator[Link]:
    yield from _model(objects, version)
    where = version.uri + CONTRACT_FILE
    try:
        contract = parse_contract(objects.get(where), where=where)
    except ObjectError as error:
        yield Link("contract", where, "missing", error.what)
        return
    yield from _origin(contract)
    if contract.snapshot is not None:
        yield from _snapshot(objects, contract)


def _model(objects: ObjectStore, version: ModelVersion) -> Iterator[Link]:
    files = {info.uri.removeprefix(version.uri): info.uri for info in objects.list(version.uri)}
    name = f"{version.name} version {version.version}"
    digests = {}
    for file, uri in files.items():
        # The bytes, not what their writer said of them.
        digests[file] = _sha256(objects, uri)
    state: State = "verified" if prefix_digest(digests) == version.digest else "wrong"
    detail = f"{len(files)} files, digest {version.digest}" if files else "no file is left"
    yield Link("model", name, state if files else "missing", f"{version.uri} ({detail})")


def _sha256(objects: ObjectStore, uri: str) -> str:
    import tempfile

    with tempfile.TemporaryDirectory() as directory:
        target = Path(directory) / "file"
        try:
            objects.download(uri, target)
        except ObjectError:
            return ""
        return file_digest(target)


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
    try:
        objects.get(snapshot.uri, digest=snapshot.digest)
        manifest = read_manifest(objects, snapshot.uri.removesuffix(DATA_FILE))
    except ObjectError as error:
        yield Link("snapshot", snapshot.uri, "missing" if "no such" in error.what else "wrong", error.what)
        return
    yield Link("snapshot", snapshot.uri, "verified", told)
    uris = [file.uri for source in manifest.sources for file in source.files]
    uris += [file.uri for file in manifest.label_files]
    datasets = dict.fromkeys(match.groups() for match in map(_DATASET.match, uris) if match)
    for root, digest in datasets:
        yield from _dataset(objects, root, digest)


def _dataset(objects: ObjectStore, root: str, digest: str) -> Iterator[Link]:
    """A dataset, and the one it was made from."""
    what = "raw data" if root.endswith(f"/{RAW}") else "feature data"
    uri = f"{root}/{digest}"
    try:
        dataset = open_dataset(objects, root, digest)
    except ObjectError as error:
        yield Link(what, uri, "missing" if "no such" in error.what else "wrong", error.what)
        return
    rows = sum(table.rows for table in dataset.manifest.tables.values())
    parts = [part for table in dataset.manifest.tables.values() for part in table.parts]
    gone = [part.path for part in parts if objects.head(f"{uri}/{part.path}") is None]
    if gone:
        yield Link(what, uri, "missing", f"{len(gone)} of {len(parts)} files are gone: {gone[0]}")
    else:
        yield Link(what, uri, "verified", f"{len(parts)} files, {rows:,} rows")
    inputs: Mapping[str, str] = dataset.manifest.inputs
    if RAW in inputs:
        yield from _dataset(objects, f"{root.rpartition('/')[0]}/{RAW}", inputs[RAW])
    else:
        for name, source in inputs.items():
            if name != "code":
                yield Link("source file", name, "told", f"SHA-256 {source}")
