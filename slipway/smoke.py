"""Known questions with exact answers, published beside a model and asked of every server that takes it up.

The answers are onnxruntime's own, taken when the model was verified; a server that gives others serves
another model, or serves it in another way.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import msgspec

from slipway.errors import ContractError

SMOKE_FILE = "smoke.json"

Value = bool | int | float | str | None
"""JSON has no NaN: a missing number is null here, as in the requests."""


class SmokeTensor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tensor as the Open Inference Protocol writes it."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: tuple[Value, ...]


class SmokeTest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    inputs: tuple[SmokeTensor, ...]
    outputs: tuple[SmokeTensor, ...]

    def to_json(self) -> bytes:
        return msgspec.json.encode(self, order="sorted")


def parse_smoke(text: bytes, *, where: str = SMOKE_FILE) -> SmokeTest:
    try:
        return msgspec.json.decode(text, type=SmokeTest)
    except msgspec.MsgspecError as error:
        raise ContractError(f"not a smoke test: {error}", where=where) from error


def differences(
    expected: Sequence[SmokeTensor], found: Mapping[str, SmokeTensor], *, tolerance: float = 0.0
) -> list[str]:
    """What differs, in words; empty when every value is as expected.

    `tolerance` is relative. Zero asks for the same float32; another processor's vector width may round a
    matrix product differently in the last place, never a tree ensemble.
    """
    return [line for tensor in expected for line in _tensor_differences(tensor, found, tolerance)]


def _tensor_differences(
    expected: SmokeTensor, found: Mapping[str, SmokeTensor], tolerance: float
) -> list[str]:
    answer = found.get(expected.name)
    if answer is None:
        return [
            f"{expected.name}: missing from the answer, which has {', '.join(sorted(found)) or 'nothing'}"
        ]
    if (answer.datatype, answer.shape) != (expected.datatype, expected.shape):
        return [
            f"{expected.name}: {answer.datatype} {list(answer.shape)}, "
            f"expected {expected.datatype} {list(expected.shape)}"
        ]
    if len(answer.data) != len(expected.data):
        return [f"{expected.name}: {len(answer.data)} values, expected {len(expected.data)}"]
    return [
        f"{expected.name}[{place}]: {got!r}, expected {value!r}"
        for place, (value, got) in enumerate(zip(expected.data, answer.data, strict=True))
        if not _same(value, got, tolerance)
    ]


def _same(expected: Value, found: Value, tolerance: float) -> bool:
    if isinstance(expected, float) and isinstance(found, int | float):
        return expected == found or math.isclose(expected, found, rel_tol=tolerance, abs_tol=tolerance)
    return expected == found
