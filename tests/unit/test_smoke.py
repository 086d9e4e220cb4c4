"""Smoke tests: what counts as the same answer."""

from __future__ import annotations

import msgspec
import pytest

from slipway.errors import ContractError
from slipway.smoke import SmokeTensor, SmokeTest, differences, parse_smoke

EXPECTED = SmokeTensor(name="p", datatype="FP32", shape=(2, 1), data=(0.25, 0.75))


def answer(**changes: object) -> dict[str, SmokeTensor]:
    changed = msgspec.structs.replace(EXPECTED, **changes)
    return {changed.name: changed}


def test_round_trip() -> None:
    smoke = SmokeTest(inputs=(SmokeTensor("x", "BYTES", (1,), ("é",)),), outputs=(EXPECTED,))
    assert parse_smoke(smoke.to_json()) == smoke
    with pytest.raises(ContractError, match="not a smoke test"):
        parse_smoke(b'{"inputs": []}')


def test_the_same_answer_has_no_differences() -> None:
    assert differences([EXPECTED], answer()) == []
    assert differences([EXPECTED], answer(data=(0.25, 0.75 + 1e-9)), tolerance=1e-6) == []
    missing = SmokeTensor("m", "FP32", (1,), (None,))
    assert differences([missing], {"m": missing}) == []


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (answer(data=(0.25, 0.7500001)), "p[1]: 0.7500001, expected 0.75"),
        (answer(data=(0.25, None)), "p[1]: None, expected 0.75"),
        (answer(data=(0.25,)), "p: 1 values, expected 2"),
        (answer(shape=(1, 2)), "p: FP32 [1, 2], expected FP32 [2, 1]"),
        (answer(datatype="FP64"), "p: FP64 [2, 1], expected FP32 [2, 1]"),
        (answer(name="q"), "p: missing from the answer, which has q"),
    ],
)
def test_a_difference_is_named(found: dict[str, SmokeTensor], says: str) -> None:
    assert differences([EXPECTED], found) == [says]
