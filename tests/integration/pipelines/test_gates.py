"""A model with something wrong is stopped by the gate that guards it, and the line ends there.

Through the whole pipeline where its inputs can be wrong; by the verify step where somebody would have to
tamper with the candidate in between.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
import redis

from components.stepping import Event, read_events
from components.train import read_candidate, with_contract
from components.train.candidate import RECORD_FILE
from components.train.graph import export
from components.verify.step import run as verify_step
from slipway.contract import CONTRACT_FILE, MODEL_FILE, ModelContract
from slipway.errors import GateNotPassed
from tests.support.workshop import NAME, Workshop


@pytest.fixture(autouse=True)
def nothing_ships(inside: Workshop) -> Iterator[None]:
    """Whatever is tried here, versions and champion are as before."""
    before = inside.registry.versions(NAME)
    yield
    assert inside.registry.versions(NAME) == before
    assert inside.registry.champion(NAME) in before


def stopped(train: Any, told: list[Event], **arguments: Any) -> GateNotPassed:
    with pytest.raises(GateNotPassed) as caught:
        train(**arguments)
    assert caught.value.exit_code == 4
    return caught.value


def last(told: list[Event]) -> list[str]:
    return [event.step for event in told if event.state == "started"]


def test_a_leaked_label_stops_at_verify_and_is_named(train, told) -> None:
    error = stopped(train, told, project="variants:LEAKED")
    assert "step verify: gate leakage: single input failed" in error.what
    assert "hint alone scores 1.000: it knows the answer" in error.what
    assert last(told) == ["snapshot", "train", "evaluate", "verify", "finish"]
    assert "FAILED" in told[-1].told


def test_a_model_that_is_worse_than_the_champion_stops(train, told) -> None:
    error = stopped(train, told, config='{"model": {"kind": "logistic", "strength": 1e-6}}')
    assert "gate quality: champion failed: roc_auc differs by -0.0" in error.what
    assert "register" not in last(told)


def test_a_model_that_is_too_large_stops(train, told) -> None:
    error = stopped(train, told, project="variants:OVERSIZED")
    assert "gate budget: size failed" in error.what
    assert "register" not in last(told)


def test_a_window_without_rows_is_inconclusive_and_stops_at_the_snapshot(train, told) -> None:
    error = stopped(train, told, start="2031-01-01", end="2031-02-01")
    assert "step snapshot: gate data is inconclusive: no labelled row between 2031-01-01" in error.what
    assert last(told) == ["snapshot", "finish"]


@pytest.fixture
def stale_store(inside: Workshop) -> Iterator[None]:
    """The online store as a materialization left it that stopped four days ago."""
    from slipway.features.manage import materialize

    client = redis.Redis.from_url(inside.settings.online.url)
    client.flushall()
    materialize(inside.settings, end=datetime(2024, 4, 22, 12, tzinfo=UTC))
    yield
    materialize(inside.settings)


def test_a_stale_online_store_stops_what_would_pass_otherwise(train, told, stale_store) -> None:
    error = stopped(train, told)
    reason = r"gate feature parity: offline against online failed: (\d+) of \1 values are not equal"
    assert re.search(reason, error.what)
    assert last(told) == ["snapshot", "train", "evaluate", "verify", "finish"]
    # Where the project serves no stored features, nobody asks for them.
    told.clear()
    assert train(online=False).result("register") == f"{NAME}:1"


def tampered(inside: Workshop, name: str, **files: bytes) -> str:
    """The page's candidate with other files, under digests that fit them; its address."""
    objects = inside.objects
    candidate = read_candidate(objects, inside.first["train"].result)
    uri = inside.settings.uri("candidates", NAME, name) + "/"
    digests = {}
    for file in candidate.record.digests:
        content = files.get(file.partition(".")[0], candidate.read(objects, file))
        objects.put(f"{uri}run/{file}", content)
        digests[file] = hashlib.sha256(content).hexdigest()
    record = msgspec.structs.replace(candidate.record, folder=f"{uri}run/", digests=digests, key=name)
    objects.put(uri + RECORD_FILE, msgspec.json.encode(record))
    return uri


def verify_stops(inside: Workshop, candidate: str, monkeypatch: Any, tmp_path: Any) -> Event:
    monkeypatch.setenv("SLIPWAY_RUN_EVENTS", str(tmp_path / "events"))
    with pytest.raises(SystemExit) as caught:
        verify_step("", candidate, inside.first["evaluate"].result, online=True, report=str(tmp_path / "r"))
    assert caught.value.code == 4
    assert "Stopped by" in (tmp_path / "r").read_text()
    return read_events(tmp_path / "events")[0][-1]


def test_a_scaler_left_out_of_the_graph_stops(inside, monkeypatch, tmp_path) -> None:
    candidate = read_candidate(inside.objects, inside.first["train"].result)
    native = candidate.native(inside.objects)
    scaler = native.preparation.named_steps["columns"].named_transformers_["numbers"].named_steps["scale"]
    scaler.mean_[:], scaler.scale_[:] = 0.0, 1.0
    model = with_contract(export(native), candidate.contract(inside.objects))
    event = verify_stops(inside, tampered(inside, "skewed", model=model), monkeypatch, tmp_path)
    assert event.error == "GateNotPassed"
    for check in ("native against ONNX", "ONNX against the runtime"):
        assert f"gate onnx parity: {check} failed" in event.told
    assert "Preprocessing outside the graph" in event.told


def test_columns_in_another_order_stop(inside, monkeypatch, tmp_path) -> None:
    import onnx

    candidate = read_candidate(inside.objects, inside.first["train"].result)
    contract: ModelContract = candidate.contract(inside.objects)
    numbers = contract.inputs[0]
    turned = msgspec.structs.replace(numbers, columns=numbers.columns[::-1])
    wrong = msgspec.structs.replace(contract, inputs=(turned, *contract.inputs[1:]))
    model = with_contract(onnx.load_from_string(candidate.model(inside.objects)), wrong)
    uri = tampered(inside, "turned", model=model, contract=wrong.to_json())
    event = verify_stops(inside, uri, monkeypatch, tmp_path)
    assert "gate onnx parity: native against ONNX failed" in event.told
    assert {MODEL_FILE, CONTRACT_FILE} <= set(read_candidate(inside.objects, uri).record.digests)
