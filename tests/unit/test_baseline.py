import math

import msgspec
import pytest

from slipway.baseline import (
    Baseline,
    CategoryBaseline,
    NumericBaseline,
    parse_baseline,
    stability_index,
)
from slipway.errors import ContractError

NUMBER = NumericBaseline(name="delay", edges=(0.0, 10.0), counts=(5, 3, 2), missing=1)
CATEGORY = CategoryBaseline(name="carrier", values=("UA", "B6"), counts=(7, 3), other=1, missing=2)


def test_a_value_falls_into_its_bin_and_an_edge_into_the_one_above():
    assert [NUMBER.bin(value) for value in (-1e30, -0.1, 0.0, 9.9, 10.0, math.inf)] == [0, 0, 1, 1, 2, 2]
    assert NUMBER.bin(None) == NUMBER.bin(math.nan) == 3
    assert NUMBER.shape == (5, 3, 2, 1)


def test_categories_know_their_bins_others_and_missing():
    assert [CATEGORY.bin(value) for value in ("UA", "B6", "ZZ", "", None)] == [0, 1, 2, 3, 3]
    assert CATEGORY.shape == (7, 3, 1, 2)


def test_round_trip_is_canonical():
    baseline = Baseline(rows=11, features=(NUMBER, CATEGORY), outputs=(NUMBER,))
    text = baseline.to_json()
    assert parse_baseline(text) == baseline
    assert parse_baseline(text).to_json() == text


@pytest.mark.parametrize(
    "damage",
    [
        {"edges": (1.0, 1.0)},
        {"edges": (2.0, 1.0)},
        {"edges": (0.0, math.inf)},
        {"edges": (0.0,)},
    ],
)
def test_bins_that_do_not_hold_are_refused(damage):
    with pytest.raises(ValueError, match="delay"):
        msgspec.structs.replace(NUMBER, **damage)


def test_what_is_no_baseline_is_named():
    with pytest.raises(ContractError, match=r"models/x/baseline\.json"):
        parse_baseline(b'{"rows": "many", "features": []}', where="models/x/baseline.json")
    with pytest.raises(ContractError, match="schema 9"):
        parse_baseline(b'{"rows": 1, "features": [], "schema_version": 9}')


def test_stability_index_is_zero_for_equal_shares_and_known_otherwise():
    assert stability_index((10, 30), (100, 300)) == 0.0
    # (0.8-0.5)ln(1.6) + (0.2-0.5)ln(0.4)
    assert stability_index((50, 50), (80, 20)) == pytest.approx(0.3 * math.log(1.6) - 0.3 * math.log(0.4))
    assert stability_index((50, 50), (0, 0)) == 0.0
    assert math.isfinite(stability_index((100, 0), (0, 100)))
    with pytest.raises(ValueError, match="2 bins against 3"):
        stability_index((1, 1), (1, 1, 1))
