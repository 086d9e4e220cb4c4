"""A trained model that no gate has passed yet: what train leaves and the later steps read."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import msgspec

from components.inputs import InputPlan
from components.train.models import ModelConfig, Native
from components.train.split import SplitConfig
from slipway.contract import BASELINE_FILE, CONTRACT_FILE, MODEL_FILE, ModelContract, parse_contract
from slipway.errors import DataError
from slipway.objects import ObjectStore

RECORD_FILE = "training.json"
NATIVE_FILE = "native.pickle"


class TrainingRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The marker of a candidate: written last, it says where the files lie and what they must be."""

    schema_version: int = 1
    name: str
    key: str
    run_id: str
    snapshot_uri: str
    snapshot_digest: str
    model: ModelConfig
    split: SplitConfig
    plan: InputPlan
    test_from: str
    rows: Mapping[str, int]
    rounds: int
    threshold: float
    metrics: Mapping[str, float]
    """On the validation rows: the test rows are for evaluate."""
    folder: str
    """Of this very run: two that train the same at once do not meet, and the first record counts."""
    digests: Mapping[str, str]
    """SHA-256 of the files in it."""


class Candidate(msgspec.Struct, frozen=True):
    uri: str
    record: TrainingRecord

    def read(self, objects: ObjectStore, name: str) -> bytes:
        return objects.get(self.record.folder + name, digest=self.record.digests[name])

    def contract(self, objects: ObjectStore) -> ModelContract:
        return parse_contract(self.read(objects, CONTRACT_FILE), where=self.record.folder + CONTRACT_FILE)

    def model(self, objects: ObjectStore) -> bytes:
        return self.read(objects, MODEL_FILE)

    def baseline(self, objects: ObjectStore) -> bytes:
        return self.read(objects, BASELINE_FILE)

    def native(self, objects: ObjectStore) -> Native:
        """The pipeline as scikit-learn fitted it: a pickle, and by its digest the one that we wrote."""
        import joblib

        native: Any = joblib.load(io.BytesIO(self.read(objects, NATIVE_FILE)))
        if not isinstance(native, Native):
            raise DataError(
                "not a trained pipeline", where=self.record.folder + NATIVE_FILE, fix="train again"
            )
        return native


def read_candidate(objects: ObjectStore, uri: str) -> Candidate:
    """The candidate in this folder; ObjectNotFound where training did not finish."""
    folder = uri.rstrip("/") + "/"
    where = folder + RECORD_FILE
    try:
        return Candidate(folder, msgspec.json.decode(objects.get(where), type=TrainingRecord))
    except msgspec.MsgspecError as error:
        raise DataError(f"not a training record: {error}", where=where, fix="train again") from error
