"""The model contract: one text, strict reading, and agreement between the two places it stands in."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway.contract import (
    METADATA_KEY,
    Column,
    FeatureService,
    GateResult,
    ModelContract,
    Origin,
    Snapshot,
    TensorInput,
    TensorOutput,
    View,
    ViewField,
    check_agreement,
    parse_contract,
    prefix_digest,
)
from slipway.errors import ContractError, ContractMismatch

HISTORY = View(
    name="carrier_history",
    join_keys={"carrier": "carrier"},
    key_types={"carrier": "String"},
    fields=(ViewField(name="delay_1h", dtype="Float32"),),
    ttl_seconds=3600.0,
)


def tensor(*columns: Column, width: int | None = None) -> TensorInput:
    return TensorInput(name="numbers", dtype="FP32", shape=(-1, width or len(columns)), columns=columns)


def make_contract(**changes: Any) -> ModelContract:
    values: dict[str, Any] = {
        "name": "delay",
        "inputs": (
            tensor(Column(name="delay_1h", view="carrier_history", default=0.0), Column(name="distance")),
            TensorInput(name="carrier", dtype="BYTES", shape=(-1, 1), columns=(Column(name="carrier"),)),
        ),
        "outputs": (TensorOutput(name="probability", dtype="FP32", shape=(-1, 1)),),
        "threshold": 0.35,
        "feature_service": FeatureService(name="delay", project="flights", digest="d" * 64, views=(HISTORY,)),
        "snapshot": Snapshot(
            uri="s3://slipway/snapshots/x", digest="e" * 64, rows=10, start="2013-01-01", end="2013-02-01"
        ),
        "origin": Origin(run_id="run", git_commit="abc"),
        "metrics": {"roc_auc": 0.75},
        "gates": (GateResult(gate="data", verdict="pass", reason="10 rows", evidence={"rows": 10}),),
    }
    return ModelContract(**(values | changes))


def test_round_trip_is_exact_and_canonical() -> None:
    contract = make_contract()
    text = contract.to_json()
    assert parse_contract(text) == contract
    assert parse_contract(text).to_json() == text
    one, other = {"b": 1.0, "a": 2.0}, {"a": 2.0, "b": 1.0}
    assert make_contract(metrics=one).to_json() == make_contract(metrics=other).to_json()


def test_columns_come_in_the_order_in_which_the_model_eats_them() -> None:
    assert [column.name for column in make_contract().columns] == ["delay_1h", "distance", "carrier"]


def test_round_trip_through_onnx_metadata(tmp_path: Path) -> None:
    """As the runtime will read it: through onnxruntime, without the onnx package."""
    contract = make_contract()
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [None, 1]) for name in "xy"]
    graph = onnx.helper.make_graph([node], "g", values[:1], values[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    onnx.helper.set_model_props(model, {METADATA_KEY: contract.to_json().decode()})
    onnx.save(model, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    metadata = session.get_modelmeta().custom_metadata_map
    assert check_agreement(contract.to_json(), metadata, where="models/delay") == contract


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"outputs": [{"name": "p", "dtype": "FLOAT", "shape": [-1]}]}, "$.outputs[0].dtype"),
        ({"threshold": "high"}, "$.threshold"),
        ({"colour": 1}, "colour"),
        ({"name": None}, "$.name"),
        ({"schema_version": 99}, "contract schema 99, this Slipway reads 1"),
    ],
)
def test_a_broken_contract_is_refused_with_the_field(change: dict[str, Any], says: str) -> None:
    raw = msgspec.json.decode(make_contract().to_json()) | change
    with pytest.raises(ContractError) as caught:
        parse_contract(msgspec.json.encode(raw), where="somewhere/contract.json")
    assert says in str(caught.value)
    assert str(caught.value).startswith("somewhere/contract.json: ")


@pytest.mark.parametrize("text", [b"", b"{}", b"[]", b"\xff", b'{"schema_version": 1}'])
def test_what_is_no_contract_is_refused(text: bytes) -> None:
    with pytest.raises(ContractError):
        parse_contract(text)


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        (tensor(Column(name="a"), width=3), "1 columns for a last axis of 3"),
        (tensor(Column(name="a"), Column(name="a")), "columns named twice: a"),
        (tensor(Column(name="delay_9h", view="carrier_history")), "carrier_history:delay_9h"),
        (tensor(Column(name="delay_1h", view="unknown")), "unknown:delay_1h"),
    ],
)
def test_a_contract_that_contradicts_itself_cannot_be_made(columns: TensorInput, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make_contract(inputs=(columns,))


def test_disagreement_between_file_and_metadata_is_a_mismatch() -> None:
    beside = make_contract().to_json()
    inside = {METADATA_KEY: make_contract(threshold=0.5).to_json().decode()}
    with pytest.raises(ContractMismatch, match="differ"):
        check_agreement(beside, inside, where="models/delay")
    with pytest.raises(ContractMismatch, match="carries no contract"):
        check_agreement(beside, {}, where="models/delay")


@given(st.dictionaries(st.from_regex(r"[a-z.]{1,8}", fullmatch=True), st.binary(), max_size=5))
def test_the_digest_covers_every_byte_and_every_name(files: dict[str, bytes]) -> None:
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    digest = prefix_digest(digests)
    assert prefix_digest(dict(reversed(digests.items()))) == digest
    for name in files:
        assert prefix_digest(digests | {name: "0" * 64}) != digest
        assert prefix_digest({other: value for other, value in digests.items() if other != name}) != digest
