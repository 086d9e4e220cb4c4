"""The codecs of messages against Google's library, both ways, and what they refuse."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.runtime.grpc import wire
from serving.runtime.grpc.infer_codec import InferDecoder, tensors_of, unpack_varints
from serving.runtime.grpc.protobuf import load_descriptors
from tests.support.messages import message

DESCRIPTORS = load_descriptors()
DECODER = InferDecoder(DESCRIPTORS.messages["inference.ModelInferRequest.ParametersEntry"])

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
UNKNOWN = st.sampled_from(
    [
        b"",
        b"\xf8\x07\x05",  # field 127, a number
        b"\xfa\x07\x03abc",  # ... bytes
        b"\xf9\x07" + bytes(8),
        b"\xfd\x07" + bytes(4),
        b"\xfb\x07\x08\x01\xfc\x07",  # ... a group
    ]
)


@settings(max_examples=80, deadline=None)
@given(
    TEXT, TEXT, st.lists(TEXT, max_size=4), st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5), UNKNOWN
)
def test_messages_by_descriptor(
    name: str, platform: str, versions: list[str], shape: list[int], unknown: bytes
) -> None:
    theirs = message("ModelMetadataResponse")(name=name, platform=platform, versions=versions)
    theirs.inputs.add(name=name, datatype="FP32", shape=shape)
    ours = DESCRIPTORS.messages["inference.ModelMetadataResponse"]
    values = ours.decode(theirs.SerializeToString() + unknown)
    assert message("ModelMetadataResponse").FromString(ours.encode(values)) == theirs
    assert values.get("versions", []) == versions
    (tensor,) = values["inputs"]
    assert tensor.get("shape", []) == shape


@settings(max_examples=120, deadline=None)
@given(st.binary(max_size=50))
def test_bytes_that_are_no_message_are_refused_where_google_refuses(raw: bytes) -> None:
    """And what both read means the same to both."""
    ours = DESCRIPTORS.messages["inference.ModelMetadataResponse"]
    kind = message("ModelMetadataResponse")
    try:
        wanted = kind.FromString(raw)
    except DecodeError:
        wanted = None
    try:
        got = ours.decode(raw)
    except ValueError:
        got = None
    assert (got is None) == (wanted is None)
    if got is not None and wanted is not None:
        wanted.DiscardUnknownFields()
        assert kind.FromString(ours.encode(got)) == wanted


_TYPED = {
    "bool_contents": ("BOOL", st.booleans(), np.bool_),
    "int_contents": ("INT32", st.integers(-(2**31), 2**31 - 1), np.int32),
    "int64_contents": ("INT64", st.integers(-(2**63), 2**63 - 1), np.int64),
    "uint_contents": ("UINT32", st.integers(0, 2**32 - 1), np.uint32),
    "uint64_contents": ("UINT64", st.integers(0, 2**64 - 1), np.uint64),
    "fp32_contents": ("FP32", st.floats(width=32, allow_nan=False), np.float32),
    "fp64_contents": ("FP64", st.floats(allow_nan=False), np.float64),
}


@settings(max_examples=120, deadline=None)
@given(st.data())
def test_typed_contents(data: st.DataObject) -> None:
    field = data.draw(st.sampled_from(list(_TYPED)))
    datatype, values, kind = _TYPED[field]
    numbers = data.draw(st.lists(values, min_size=1, max_size=20))
    unknown = data.draw(UNKNOWN)
    request = message("ModelInferRequest")(model_name="m", id="i")
    tensor = request.inputs.add(name="x", datatype=datatype, shape=[len(numbers)])
    getattr(tensor.contents, field).extend(numbers)
    raw = request.SerializeToString() + unknown
    (found,) = tensors_of(DECODER.decode(raw, 0, len(raw)), raw)
    assert (found.name, found.shape) == ("x", (len(numbers),))
    np.testing.assert_array_equal(np.frombuffer(bytes(found.data), kind), np.array(numbers, kind))  # type: ignore[arg-type]


def test_packed_and_unpacked_mean_the_same() -> None:
    """Parsers must take either, and both in one message."""
    request = message("ModelInferRequest")(model_name="m")
    request.inputs.add(name="x", datatype="INT64", shape=[4])
    packed = wire.write_bytes(3, bytes((1, 2)))
    single = b"\x18\x03\x18\x04"
    tensor = b"\x0a\x01x\x12\x05INT64\x18\x04" + wire.write_bytes(5, packed + single)
    raw = b"\x0a\x01m" + wire.write_bytes(5, tensor)
    (found,) = tensors_of(DECODER.decode(raw, 0, len(raw)), raw)
    assert np.frombuffer(bytes(found.data), np.int64).tolist() == [1, 2, 3, 4]  # type: ignore[arg-type]
    theirs = message("ModelInferRequest").FromString(raw)
    assert list(theirs.inputs[0].contents.int64_contents) == [1, 2, 3, 4]


def sample() -> bytes:
    request = message("ModelInferRequest")(model_name="model", model_version="1", id="id")
    request.parameters["a"].string_param = "b"
    request.inputs.add(name="x", datatype="FP32", shape=[1, 2])
    request.outputs.add(name="y")
    request.raw_input_contents.append(struct.pack("<2f", 1, 2))
    return bytes(request.SerializeToString())


@pytest.mark.parametrize("stop", range(1, len(sample())))
def test_a_message_that_is_cut_off(stop: int) -> None:
    """Refused exactly where Google's library refuses it; some ends are whole messages of fewer fields."""
    raw = sample()[:stop]
    try:
        message("ModelInferRequest").FromString(raw)
    except DecodeError:
        with pytest.raises(ValueError, match=r"ends inside|are left|do not|does not"):
            DECODER.decode(raw, 0, len(raw))
    else:
        DECODER.decode(raw, 0, len(raw))


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(0, 2**64 - 1), max_size=30))
def test_numbers_are_unpacked_all_at_once(numbers: list[int]) -> None:
    packed = b"".join(wire.write_varint(number) for number in numbers)
    assert unpack_varints(packed).tolist() == numbers
    if packed and packed[-1] < 0x80:
        with pytest.raises(ValueError, match="inside a number"):
            unpack_varints(packed + b"\x80")


def test_a_field_of_a_wrong_wire_type_is_as_good_as_unknown() -> None:
    raw = sample() + b"\x08\x07"  # model_name as a number
    found: Any = DECODER.decode(raw, 0, len(raw))
    assert (found.model_name, found.plain) == ("model", False)
    assert message("ModelInferRequest").FromString(raw).model_name == "model"
