"""One row filled without tables says what the tables say of it, whatever the store and the request hold."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from slipway.contract import Column, FeatureService, TensorInput, View, ViewField
from slipway.features.lookup import FeatureLookup
from slipway.features.packing import Packing
from slipway.settings import Features, Online, Settings

NOW = 1_700_000_000.0
TTL = 3600.0
_FIELDS = {
    "f32": ("Float32", np.float32),
    "f64": ("Float64", np.float64),
    "i32": ("Int32", np.int32),
    "i64": ("Int64", np.int64),
    "truth": ("Bool", np.bool_),
    "when": ("UnixTimestamp", np.int64),
}
_NUMBERS: dict[str, st.SearchStrategy[Any]] = {
    "f32": st.floats(width=32),
    "f64": st.floats(),
    "i32": st.integers(-(2**31), 2**31 - 1),
    "i64": st.integers(-(2**63), 2**63 - 1),
    "truth": st.booleans(),
    "when": st.integers(-(2**50), 2**50),
}


def _view(name: str, ttl: float, source: str | None = None) -> View:
    fields = tuple(ViewField(field, kind) for field, (kind, _) in _FIELDS.items())
    return View(name, {"key": f"{name}_key"}, {"key": "String"}, fields, ttl_seconds=ttl, source=source)


VIEWS = (_view("kept", 0.0), _view("fresh", TTL))
INPUTS = (
    TensorInput(
        "wide",
        "FP32",
        (-1, 9),
        (
            Column("a", "kept", "f64", default=-1.0),
            Column("b", "kept", "f32"),
            Column("asked"),
            Column("c", "fresh", "i64", default=7),
            Column("d", "fresh", "i32"),
            Column("e", "kept", "truth"),
            Column("f", "kept", "i64"),
            Column("g", "fresh", "f32", default=0.5),
            Column("h", "fresh", "when"),
        ),
    ),
    TensorInput("exact", "FP64", (-1, 2), (Column("i", "fresh", "f64"), Column("j", "kept", "i64"))),
    TensorInput("whole", "INT64", (-1,), (Column("k", "kept", "i64", default=-9),)),
    TensorInput("half", "FP16", (-1, 1), (Column("l", "kept", "f64", default=2.0),)),
    TensorInput("text", "BYTES", (-1, 1), (Column("word"),)),
)
LOOKUP = FeatureLookup(
    FeatureService("service", "project", "digest", VIEWS),
    INPUTS,
    Settings(features=Features(clock="2023-11-14T22:13:20Z")),
)
PACKING = Packing([(name, kind) for name, (kind, _) in _FIELDS.items()], {"key": "String"}, where="here")
OTHER = Packing([("f32", "Float32")], {"key": "String"}, where="elsewhere")


@st.composite
def _blobs(draw: st.DrawFn) -> bytes | None:
    kind = draw(st.sampled_from(["none", "other", "torn", *["whole"] * 6]))
    age = draw(st.one_of(st.integers(-10, 2 * int(TTL)), st.just(int(TTL))))
    event = np.array([int((NOW - age) * 1e6) + draw(st.integers(-1, 1))])
    if kind == "none":
        return None
    if kind == "other":
        return OTHER.pack({"f32": (np.ones(1, np.float32), None)}, event, event)[0]
    columns: dict[str, Any] = {}
    for name, (_, dtype) in _FIELDS.items():
        present = np.array([draw(st.booleans())]) if draw(st.booleans()) else None
        columns[name] = (np.array([draw(_NUMBERS[name])], dtype), present)
    (blob,) = PACKING.pack(columns, event, event)
    return blob[: draw(st.integers(0, len(blob) - 1))] if kind == "torn" else blob


_GIVEN = st.one_of(
    st.floats(width=32).map(lambda value: np.array([value], np.float32)),
    st.integers(-(2**60), 2**60).map(lambda value: np.array([value])),
    st.floats(-1e30, 1e30).map(lambda value: [value]),
    st.just([None]),
)


@given(st.tuples(_blobs(), _blobs()), _GIVEN, st.sampled_from(["", "word", "wörter", None]))
def test_one_row_is_what_the_table_of_it_is(blobs: tuple[Any, Any], asked: Any, word: str | None) -> None:
    values = {"kept_key": ["x"], "fresh_key": ["y"], "asked": asked, "word": [word]}
    replies = list(blobs)
    with np.errstate(all="ignore"):
        row = LOOKUP._row(values, replies)
        answer = LOOKUP._answer(values, 1, [b"x", b"y"], replies)
    readable = all(blob is None or PACKING.head(blob) is not None for blob in replies)
    # The table is for what is damaged or missing, and for nothing else.
    assert (row is not None) == (readable and asked[0] is not None and word is not None)
    if row is None:
        return
    assert row.counts() == answer.counts()
    assert np.array_equal(row.oldest(), answer.oldest(), equal_nan=True)
    assert row.tensors.keys() == answer.tensors.keys()
    for name, tensor in answer.tensors.items():
        assert (row.tensors[name].dtype, row.tensors[name].shape) == (tensor.dtype, tensor.shape)
        if tensor.dtype == object:
            assert row.tensors[name].tolist() == tensor.tolist()
        else:
            assert row.tensors[name].tobytes() == tensor.tobytes(), name


async def test_a_contract_of_request_columns_alone_needs_no_store() -> None:
    inputs = (TensorInput("x", "FP32", (-1, 2), (Column("a", default=5.0), Column("b"))),)
    nowhere = Settings(online=Online(url="redis://127.0.0.1:1/0", timeout=0.1))
    lookup = FeatureLookup(FeatureService("none", "project", "digest", ()), inputs, nowhere)
    found: list[Any] = []
    for values in ({"a": [1.0], "b": [2.0]}, {"a": [None], "b": [2.0]}):
        assert lookup.ask_row(values, lambda row, alone: found.append(row))
        answer = await lookup.read(values)
        assert found[-1].tensors["x"].tolist() == answer.tensors["x"].tolist()
        assert found[-1].counts() == answer.counts()
    assert [row.tensors["x"].tolist() for row in found] == [[[1.0, 2.0]], [[5.0, 2.0]]]
    await lookup.close()
