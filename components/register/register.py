"""Publishing a model version and registering it. Both can be repeated: the digest is the identity."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from slipway.baseline import parse_baseline
from slipway.contract import (
    BASELINE_FILE,
    CONTRACT_FILE,
    MODEL_FILE,
    REPORT_FILE,
    ModelContract,
    check_agreement,
    prefix_digest,
)
from slipway.errors import ContractError, GateNotPassed
from slipway.objects import ObjectStore, Progress, file_digest, publish
from slipway.registry import CHALLENGER, ModelVersion, Registry
from slipway.settings import Settings
from slipway.smoke import SMOKE_FILE, parse_smoke

FILES = (MODEL_FILE, CONTRACT_FILE, BASELINE_FILE, REPORT_FILE, SMOKE_FILE)


class Registered(msgspec.Struct, frozen=True):
    name: str
    version: int
    digest: str
    uri: str
    created: bool
    """False: the same training, or the very same bytes, had become a version before."""


def register(
    settings: Settings,
    directory: Path,
    *,
    who: str | None = None,
    why: str = "it passed its gates",
    progress: Progress | None = None,
) -> Registered:
    """Publish the five files of a model version from `directory` and make it the challenger.

    A training makes one version: where its run has one already, that one is the answer, and nothing is
    published. For once it is the champion, the gates compare it with itself: what they say, and with it the
    digest of the files, is another, and the model is not.

    Refused: a missing file, a contract that differs from the one inside the model, and any gate that did not
    pass.
    """
    files = {name: directory / name for name in FILES}
    missing = [name for name, path in files.items() if not path.is_file()]
    if missing:
        raise ContractError(
            f"a model version needs {', '.join(FILES)}; missing: {', '.join(missing)}",
            where=str(directory),
            fix="run train, evaluate and verify first: they write these files",
        )
    contract = check_agreement(
        files[CONTRACT_FILE].read_bytes(), _metadata(files[MODEL_FILE]), where=str(directory)
    )
    _refuse_unproved(contract)
    parse_baseline(files[BASELINE_FILE].read_bytes(), where=str(files[BASELINE_FILE]))
    parse_smoke(files[SMOKE_FILE].read_bytes(), where=str(files[SMOKE_FILE]))

    run_id = contract.origin.run_id if contract.origin else ""
    registry = Registry(settings)
    known = _of_run(registry, contract.name, run_id)
    if known is not None:
        registry.move(CHALLENGER, known, who=who, why=why)
        return Registered(known.name, known.version, known.digest, known.uri, created=False)

    digests = {name: file_digest(path) for name, path in files.items()}
    digest = prefix_digest(digests)
    store = ObjectStore.from_settings(settings)
    uri = settings.uri("models", contract.name, digest)
    publication = publish(store, uri, files, marker=CONTRACT_FILE, progress=progress)
    version = registry.register(
        contract.name,
        digest=digest,
        uri=publication.uri,
        run_id=run_id,
        files=digests,
        who=who,
        why=why,
    )
    return Registered(contract.name, version.version, digest, publication.uri, publication.created)


def _of_run(registry: Registry, name: str, run_id: str) -> ModelVersion | None:
    """The first version that this training run made."""
    if not run_id or name not in registry.names():
        return None
    same = [item for item in registry.versions(name) if item.run_id == run_id]
    return min(same, key=lambda item: item.version, default=None)


def _metadata(model: Path) -> Mapping[str, str]:
    import onnx

    # Weights are not needed for the metadata, and may lie outside the file.
    loaded = onnx.load(str(model), load_external_data=False)
    return {entry.key: entry.value for entry in loaded.metadata_props}


def _refuse_unproved(contract: ModelContract) -> None:
    if not contract.gates:
        raise GateNotPassed(
            "no gate was asked about this model",
            where=contract.name,
            fix="run the verify step before register",
        )
    failed = [gate for gate in contract.gates if gate.verdict != "pass"]
    if failed:
        told = "; ".join(f"{gate.gate}: {gate.verdict}, {gate.reason}" for gate in failed)
        raise GateNotPassed(f"it did not pass its gates: {told}", where=contract.name)
