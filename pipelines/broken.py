"""A model that must not ship: a logistic one whose scaler was left out of the graph.

Nothing of it leaves this module but the gate's reason.
"""

from __future__ import annotations

from components.gates import require_pass
from components.onnx_model import OnnxModel
from components.snapshot import read_manifest, read_rows
from components.snapshot.manifest import result_of
from components.train import export, train, with_contract
from components.train.step import read_config
from components.verify import Evidence, run_checks, select
from slipway.errors import GateNotPassed, SlipwayError
from slipway.objects import ObjectStore
from slipway.project import load_project
from slipway.settings import Settings

CHECK = "native against ONNX"


def refused(settings: Settings, snapshot: str) -> str:
    """What the gate says of the broken model."""
    objects = ObjectStore.from_settings(settings)
    project = load_project(settings)
    manifest = read_manifest(objects, snapshot)
    taken = result_of(snapshot, manifest, created=False)
    config = read_config('{"model": {"kind": "logistic"}}')
    candidate = train(settings, project, taken, config, objects=objects)
    native = candidate.native(objects)
    scaler = native.preparation.named_steps["columns"].named_transformers_["numbers"].named_steps["scale"]
    scaler.mean_[:], scaler.scale_[:] = 0.0, 1.0
    contract = candidate.contract(objects)
    evidence = Evidence(
        settings=settings,
        project=project,
        candidate=candidate,
        manifest=manifest,
        frame=read_rows(objects, snapshot, manifest.digest),
        model=OnnxModel(with_contract(export(native), contract), contract),
        objects=objects,
    )
    try:
        require_pass(run_checks(select([CHECK]), evidence), where="a broken candidate")
    except GateNotPassed as stopped:
        return stopped.what
    raise SlipwayError("the gate let a broken model pass", fix="this is a defect: please report it")
