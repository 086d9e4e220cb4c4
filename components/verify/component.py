"""Ask every gate about a candidate; what passes all of them leaves as the files of a model version."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import msgspec
import numpy as np

from components.evaluate import Evaluation, render
from components.gates import require_pass
from components.onnx_model import OnnxModel
from components.provenance import content_key
from components.snapshot import read_manifest, read_rows
from components.tracking import open_tracking
from components.train import Candidate, take, with_contract
from components.verify import budget, data, feature_parity, leakage, parity, quality
from components.verify.checks import Evidence, run_checks, select
from components.verify.served import plain, serve, tensors_as_json
from slipway.contract import (
    BASELINE_FILE,
    CONTRACT_FILE,
    MODEL_FILE,
    REPORT_FILE,
    GateResult,
    ModelContract,
)
from slipway.errors import ObjectConflict
from slipway.objects import ObjectStore, publish
from slipway.project import Project
from slipway.settings import Settings
from slipway.smoke import SMOKE_FILE, SmokeTensor, SmokeTest

VERIFIED_FILE = "verified.json"
SMOKE_ROWS = 8

CHECKS = (data, leakage, quality, parity, feature_parity, budget)
"""Importing them registers their checks."""


class Verified(msgspec.Struct, frozen=True):
    """A version that passed, before it has a name in the registry."""

    folder: str
    """Its files on S3; the same folder however often the same candidate is verified."""
    digests: Mapping[str, str]
    gates: tuple[GateResult, ...]

    def download(self, objects: ObjectStore, directory: Path) -> Path:
        """The files in an empty local folder, as register takes them."""
        shutil.rmtree(directory, ignore_errors=True)
        for name, digest in self.digests.items():
            objects.download(self.folder + name, directory / name, digest=digest)
        return directory


def verify(
    settings: Settings,
    project: Project,
    candidate: Candidate,
    evaluation: Evaluation,
    *,
    objects: ObjectStore | None = None,
    runtime_url: str | None = None,
    online: bool = True,
    checks: Iterable[str] | None = None,
    without: Iterable[str] = (),
    on_report: Callable[[str, bytes], None] | None = None,
) -> Verified:
    """Every gate's answer; GateNotPassed unless all pass. The report with the answers is written either way.

    `runtime_url` is a running server that has the candidate; without one a runtime is started for the while.
    `online=False` leaves feature parity out, for a project that serves no stored features.
    """
    chosen = select(checks, without=[*without, *(() if online else ("offline against online",))])
    objects = objects or ObjectStore.from_settings(settings)
    record = candidate.record
    model, contract = candidate.model(objects), candidate.contract(objects)
    with contextlib.ExitStack() as stack:
        needs_runtime = any("runtime_url" in item.needs for item in chosen)
        if needs_runtime and runtime_url is None:
            runtime_url = stack.enter_context(serve(model, contract))
        evidence = Evidence(
            settings=settings,
            project=project,
            candidate=candidate,
            manifest=read_manifest(objects, record.snapshot_uri),
            frame=read_rows(objects, record.snapshot_uri, record.snapshot_digest),
            model=OnnxModel(model, contract, threads=1),
            objects=objects,
            evaluation=evaluation,
            runtime_url=runtime_url,
            feature_parity=(lambda: _parity(settings, project, contract, runtime_url)) if online else None,
        )
        gates = tuple(run_checks(chosen, evidence))
        smoke = _smoke(evidence)

    report = render(project, evaluation, gates=gates, provenance=_provenance(contract)).encode()
    if on_report is not None:
        on_report(REPORT_FILE, report)
    open_tracking(settings).log_text(record.run_id, report.decode(), REPORT_FILE)
    require_pass(gates, where=f"{project.name}, candidate {record.key[:12]}")

    passed = msgspec.structs.replace(
        contract, metrics=dict(contract.metrics) | evaluation.metrics(), gates=_plain_gates(gates)
    )
    files = {
        MODEL_FILE: _with_contract(model, passed),
        CONTRACT_FILE: passed.to_json(),
        BASELINE_FILE: candidate.baseline(objects),
        REPORT_FILE: report,
        SMOKE_FILE: smoke.to_json(),
    }
    return _record(settings, project, candidate, evaluation, files, gates, objects)


def _record(
    settings: Settings,
    project: Project,
    candidate: Candidate,
    evaluation: Evaluation,
    files: Mapping[str, bytes],
    gates: tuple[GateResult, ...],
    objects: ObjectStore,
) -> Verified:
    """The first verification of a candidate decides the bytes of its version.

    Evidence holds timings, so two runs would give two digests, and a run that was killed before it had
    registered would leave a second version behind. Later ones, though they asked every gate again, answer
    with the first one's files.
    """
    key = content_key(candidate.record.key, candidate.record.run_id, evaluation.uri)
    prefix = settings.uri("verifications", project.name, key) + "/"
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    verified = Verified(f"{prefix}{uuid.uuid4().hex}/", digests, gates)
    if objects.head(prefix + VERIFIED_FILE) is None:
        publish(objects, verified.folder, files, marker=CONTRACT_FILE)
        with contextlib.suppress(ObjectConflict):
            objects.put(prefix + VERIFIED_FILE, msgspec.json.encode(verified), if_absent=True)
            return verified
    first = msgspec.json.decode(objects.get(prefix + VERIFIED_FILE), type=Verified)
    return msgspec.structs.replace(first, gates=gates)


def _plain_gates(gates: tuple[GateResult, ...]) -> tuple[GateResult, ...]:
    """Evidence as the contract can hold it: plain values, as they will be read back."""
    plain_gates: tuple[GateResult, ...] = msgspec.json.decode(
        msgspec.json.encode(gates), type=tuple[GateResult, ...]
    )
    return plain_gates


def _with_contract(model: bytes, contract: ModelContract) -> bytes:
    import onnx

    return with_contract(onnx.load_from_string(model), contract)


def _smoke(evidence: Evidence) -> SmokeTest:
    """Known rows with the answers that ONNX Runtime gives to each by itself."""
    picked = np.unique(np.linspace(0, len(evidence.frame) - 1, SMOKE_ROWS).astype(int))
    contract = evidence.model.contract
    rows = parity.by_contract(evidence, take(evidence.tensors, picked))
    found = evidence.model.answer(rows)
    output = contract.outputs[0]
    return SmokeTest(
        inputs=tuple(
            SmokeTensor(item["name"], item["datatype"], tuple(item["shape"]), tuple(item["data"]))
            for item in tensors_as_json(contract, rows)
        ),
        outputs=(
            SmokeTensor(output.name, output.dtype, (len(found), 1), tuple(plain(value) for value in found)),
        ),
    )


def _parity(
    settings: Settings, project: Project, contract: ModelContract, runtime_url: str | None
) -> GateResult:
    from slipway.features.parity import check_parity
    from slipway.features.served import ServedModel

    served = ServedModel(runtime_url, contract).paths() if runtime_url else {}
    return check_parity(settings, project.feature_service, others=served).gate


def _provenance(contract: ModelContract) -> dict[str, str]:
    return {
        "commit": contract.origin.git_commit if contract.origin else "",
        "libraries": ", ".join(f"{name} {version}" for name, version in sorted(contract.libraries.items())),
    }
