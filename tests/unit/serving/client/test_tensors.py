from __future__ import annotations

import numpy as np
import pytest

from serving.client.tensors import as_array, datatype_of, from_bytes, from_values, to_bytes
from slipway.errors import InvalidRequest
from tests.support.models import DTYPES, values


@pytest.mark.parametrize("datatype", DTYPES)
def test_every_datatype_survives_the_way_there_and_back(datatype: str) -> None:
    array = values(datatype, np.random.default_rng(1), (3, 4))
    assert datatype_of("x", array) == datatype
    back = from_bytes(to_bytes("x", array, datatype), datatype, (3, 4))
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


def test_other_byte_orders_and_strides_become_little_endian_rows() -> None:
    array = np.arange(6, dtype=">i4").reshape(2, 3).T
    assert datatype_of("x", array) == "INT32"
    assert to_bytes("x", array, "INT32") == np.array([0, 3, 1, 4, 2, 5], dtype="<i4").tobytes()


def test_texts_carry_their_length_in_bytes() -> None:
    assert to_bytes("x", np.array(["é", b"\x00"], dtype=object), "BYTES") == (
        b"\x02\x00\x00\x00\xc3\xa9\x01\x00\x00\x00\x00"
    )


def test_numpy_unicode_arrays_are_texts() -> None:
    array = np.array(["UA", "B6"])
    assert datatype_of("x", array) == "BYTES"
    assert to_bytes("x", array, "BYTES") == b"\x02\x00\x00\x00UA\x02\x00\x00\x00B6"


def test_what_the_protocol_has_no_name_for_is_refused_by_name() -> None:
    with pytest.raises(InvalidRequest, match="input 'when': datetime64"):
        datatype_of("when", np.array(["2013-01-01"], dtype="datetime64[s]"))


def test_a_number_among_texts_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="3 among the texts"):
        to_bytes("x", np.array(["a", 3], dtype=object), "BYTES")


def test_a_list_becomes_what_the_model_eats() -> None:
    array = as_array("x", [1, 2.5], "FP32", 2)
    assert array.dtype == np.float32
    assert array.tolist() == [[1.0], [2.5]]
    assert as_array("x", [[1, 2]], "INT64", 2).tolist() == [[1, 2]]
    assert as_array("x", ["UA", "B6"], "BYTES", 1).dtype == object


def test_an_array_stays_as_it_is() -> None:
    array = np.zeros(3, dtype=np.int8)
    assert as_array("x", array, "FP32", 2) is array


def test_a_list_that_does_not_fit_names_its_input() -> None:
    with pytest.raises(InvalidRequest, match="input 'hour': cannot be read as INT64"):
        as_array("hour", ["noon"], "INT64", 1)
    with pytest.raises(InvalidRequest, match="input 'small'"):
        as_array("small", [300], "INT8", 1)


def test_null_in_json_is_a_missing_number() -> None:
    got = from_values([[1.5, None]], "FP32", (1, 2))
    assert got.dtype == np.float32
    assert got[0, 0] == 1.5
    assert np.isnan(got[0, 1])
