"""The model contract: what a model eats, what it answers, and where it came from.

It stands beside the model as contract.json and inside model.onnx as metadata, and both must be the same
text. Nothing in Slipway reaches for a feature by position without asking the contract. This module is part
of the serving image: msgspec is all it imports.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Literal

import msgspec

from slipway.errors import ContractError, ContractMismatch

SCHEMA_VERSION = 1
METADATA_KEY = "slipway.contract"
"""The key of the contract in the ONNX model's metadata."""

CONTRACT_FILE = "contract.json"
MODEL_FILE = "model.onnx"
BASELINE_FILE = "baseline.json"
REPORT_FILE = "report.html"

DataType = Literal[
    "BOOL",
    "UINT8",
    "UINT16",
    "UINT32",
    "UINT64",
    "INT8",
    "INT16",
    "INT32",
    "INT64",
    "FP16",
    "FP32",
    "FP64",
    "BYTES",
]
"""Names of the Open Inference Protocol."""

Verdict = Literal["pass", "fail", "inconclusive"]
Scalar = bool | int | float | str | None


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What all parts share: immutable, and a misspelt field is an error."""


class Column(_Part, frozen=True):
    """One column of a graph input: a feature of a view, or a field of the request."""

    name: str
    view: str | None = None
    """The feature view that holds it; None: the request must bring it."""
    feature: str | None = None
    """Its name inside the view, where that differs from `name`."""
    default: Scalar = None
    """What stands in when the value is missing or stale; None becomes NaN (or "" for BYTES)."""


class TensorInput(_Part, frozen=True):
    """One input of the ONNX graph, with the columns that fill its last axis in order."""

    name: str
    dtype: DataType
    shape: tuple[int, ...]
    """-1 is an axis of any length; the first is the batch."""
    columns: tuple[Column, ...] = ()


class TensorOutput(_Part, frozen=True):
    name: str
    dtype: DataType
    shape: tuple[int, ...]


class ViewField(_Part, frozen=True):
    name: str
    dtype: str
    """Feast's name of the value type: Int64, Float32, String, UnixTimestamp, Array(Float32), …"""


class View(_Part, frozen=True):
    """A feature view as the online store keeps it: enough to read it without Feast."""

    name: str
    join_keys: Mapping[str, str]
    """Join key of the view → the entity column in the request (they differ for aliased entities)."""
    key_types: Mapping[str, str]
    """Join key of the view → Feast's name of its value type."""
    fields: tuple[ViewField, ...]
    """All fields of the stored view, also those that the service leaves out: they shape the blob."""
    ttl_seconds: float = 0.0
    """0: values never go stale."""
    source: str | None = None
    """The stored view's name, where `name` is an alias of it (origin weather, destination weather)."""
    features: tuple[str, ...] | None = None
    """Those fields that the service takes, in its order; None: all."""


class FeatureService(_Part, frozen=True):
    name: str
    project: str
    digest: str
    """Of the definition: another digest means other features under the same name."""
    views: tuple[View, ...] = ()
    on_unavailable: Literal["fail", "default"] = "fail"
    """What the runtime does when the online store does not answer."""


class Snapshot(_Part, frozen=True):
    """The training set, as it lies on S3."""

    uri: str
    digest: str
    rows: int
    start: str
    """RFC 3339, first event of the window."""
    end: str
    """RFC 3339, the window's end, itself not in it."""


class Origin(_Part, frozen=True):
    run_id: str
    git_commit: str
    image: str = ""
    pipeline: str = ""


class GateResult(_Part, frozen=True):
    gate: str
    verdict: Verdict
    reason: str
    evidence: Mapping[str, object] = {}


class ModelContract(_Part, frozen=True, kw_only=True):
    schema_version: int = SCHEMA_VERSION
    name: str
    inputs: tuple[TensorInput, ...]
    outputs: tuple[TensorOutput, ...]
    threshold: float | None = None
    feature_service: FeatureService | None = None
    snapshot: Snapshot | None = None
    origin: Origin | None = None
    metrics: Mapping[str, float] = {}
    gates: tuple[GateResult, ...] = ()
    libraries: Mapping[str, str] = {}

    def __post_init__(self) -> None:
        _refuse_doubles("inputs", [tensor.name for tensor in self.inputs])
        _refuse_doubles("outputs", [tensor.name for tensor in self.outputs])
        _refuse_doubles("columns", [column.name for column in self.columns])
        known = {
            (view.name, field.name)
            for view in (self.feature_service.views if self.feature_service else ())
            for field in view.fields
        }
        for tensor in self.inputs:
            width = tensor.shape[-1] if tensor.shape else 1
            if tensor.columns and width not in (-1, len(tensor.columns)):
                raise ValueError(
                    f"input {tensor.name!r} has {len(tensor.columns)} columns for a last axis of {width}"
                )
        for column in self.columns:
            if column.view is not None and (column.view, column.feature or column.name) not in known:
                raise ValueError(
                    f"column {column.name!r} names {column.view}:{column.feature or column.name}, "
                    "which the contract's feature service does not have"
                )

    @property
    def columns(self) -> tuple[Column, ...]:
        """All columns, input by input, in the order in which the model eats them."""
        return tuple(column for tensor in self.inputs for column in tensor.columns)

    def to_json(self) -> bytes:
        """The canonical text: keys sorted, no white space; equal contracts are equal bytes."""
        return msgspec.json.encode(self, order="sorted")


def _refuse_doubles(what: str, names: list[str]) -> None:
    doubles = sorted({name for name in names if names.count(name) > 1})
    if doubles:
        raise ValueError(f"{what} named twice: {', '.join(doubles)}")


_decoder = msgspec.json.Decoder(ModelContract)


def parse_contract(text: bytes | str, *, where: str = CONTRACT_FILE) -> ModelContract:
    """Read a contract; an error names the field and what stands there."""
    raw = text.encode() if isinstance(text, str) else text
    try:
        version = msgspec.json.decode(raw, type=_VersionOnly).schema_version
    except msgspec.MsgspecError as error:
        raise ContractError(f"not a model contract: {error}", where=where) from error
    if version != SCHEMA_VERSION:
        raise ContractError(
            f"contract schema {version}, this Slipway reads {SCHEMA_VERSION}",
            where=where,
            fix="serve it with the Slipway that wrote it, or train the model again with this one",
        )
    try:
        return _decoder.decode(raw)
    except msgspec.MsgspecError as error:
        raise ContractError(f"the contract does not hold: {error}", where=where) from error


class _VersionOnly(msgspec.Struct):
    schema_version: int


def check_agreement(beside: bytes, metadata: Mapping[str, str], *, where: str) -> ModelContract:
    """The contract, if the one beside the model and the one inside it are the same."""
    inside = metadata.get(METADATA_KEY)
    if inside is None:
        raise ContractMismatch(
            f"the model carries no contract in its metadata ({METADATA_KEY}), though one lies beside it",
            where=where,
            fix="publish the model again with `slipway run train`; do not copy contracts between models",
        )
    contract = parse_contract(beside, where=f"{where}/{CONTRACT_FILE}")
    if parse_contract(inside, where=f"{where}/{MODEL_FILE} metadata") != contract:
        raise ContractMismatch(
            "the contract beside the model and the one in its metadata differ",
            where=where,
            fix="one of the two files is from another model version; publish both together again",
        )
    return contract


def prefix_digest(digests: Mapping[str, str]) -> str:
    """The digest of a model version, from the SHA-256 hex digests of its files by name."""
    lines = "".join(f"{digests[name]}  {name}\n" for name in sorted(digests))
    return hashlib.sha256(lines.encode()).hexdigest()
