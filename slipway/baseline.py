"""The drift baseline: how each model input, and the answer, were distributed when the model was trained.

It stands beside the model as baseline.json. The runtime counts what it serves into the same bins, and the
monitor compares the two. This module is part of the serving image: msgspec is all it imports.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence

import msgspec

from slipway.errors import ContractError

SCHEMA_VERSION = 1
SMALLEST_SHARE = 1e-4
"""An empty bin counts as this share, so that one unseen bin does not make the index infinite."""


class NumericBaseline(msgspec.Struct, frozen=True, tag="number", forbid_unknown_fields=True):
    """`counts[i]` values lay in [edges[i-1], edges[i]): the first bin is open below, the last above."""

    name: str
    edges: tuple[float, ...]
    """Inner edges, ascending, finite. A value equal to an edge belongs to the bin above it."""
    counts: tuple[int, ...]
    """One more than edges."""
    missing: int = 0
    """Null or NaN."""
    mean: float | None = None
    std: float | None = None
    minimum: float | None = None
    maximum: float | None = None

    def __post_init__(self) -> None:
        if len(self.counts) != len(self.edges) + 1:
            raise ValueError(f"{self.name!r} has {len(self.counts)} counts for {len(self.edges)} edges")
        rising = all(low < high for low, high in zip(self.edges, self.edges[1:], strict=False))
        if not rising or not all(math.isfinite(edge) for edge in self.edges):
            raise ValueError(f"the edges of {self.name!r} do not ascend, or are not finite")

    @property
    def shape(self) -> tuple[int, ...]:
        """All bins in the order of `bin`, missing values last."""
        return (*self.counts, self.missing)

    def bin(self, value: float | None) -> int:
        """Which entry of `shape` a served value belongs to."""
        if value is None or math.isnan(value):
            return len(self.counts)
        return bisect_right(self.edges, value)


class CategoryBaseline(msgspec.Struct, frozen=True, tag="category", forbid_unknown_fields=True):
    name: str
    values: tuple[str, ...]
    """The most frequent values, by falling count."""
    counts: tuple[int, ...]
    """One for each of `values`."""
    other: int = 0
    """All other values together; unknown ones are counted here when serving."""
    missing: int = 0
    """Null or the empty string."""

    def __post_init__(self) -> None:
        if len(self.counts) != len(self.values):
            raise ValueError(f"{self.name!r} has {len(self.counts)} counts for {len(self.values)} values")

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.counts, self.other, self.missing)

    def bins(self) -> Mapping[str, int]:
        """Value → entry of `shape`; what is not in it belongs to `len(values)`, "" to the entry after."""
        return {value: position for position, value in enumerate(self.values)} | {"": len(self.values) + 1}

    def bin(self, value: str | None) -> int:
        return self.bins().get(value or "", len(self.values))


FeatureBaseline = NumericBaseline | CategoryBaseline


class Baseline(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    rows: int
    features: tuple[FeatureBaseline, ...]
    """One for each column of the contract, in its order."""
    outputs: tuple[NumericBaseline, ...] = ()
    """One for each output of the model: the answers it gave on rows it was not trained on."""
    schema_version: int = SCHEMA_VERSION

    def to_json(self) -> bytes:
        """The canonical text: equal baselines are equal bytes."""
        return msgspec.json.encode(self, order="sorted")


_decoder = msgspec.json.Decoder(Baseline)


def parse_baseline(text: bytes, *, where: str = "baseline.json") -> Baseline:
    try:
        baseline = _decoder.decode(text)
    except msgspec.MsgspecError as error:
        raise ContractError(f"not a drift baseline: {error}", where=where) from error
    if baseline.schema_version != SCHEMA_VERSION:
        raise ContractError(
            f"baseline schema {baseline.schema_version}, this Slipway reads {SCHEMA_VERSION}",
            where=where,
            fix="serve it with the Slipway that wrote it, or train the model again with this one",
        )
    return baseline


def stability_index(expected: Sequence[int], actual: Sequence[int]) -> float:
    """The population stability index of two counts over the same bins.

    Below 0.1 the two agree, above 0.25 they differ by any usual reading. 0 when either side is empty: no
    rows are no evidence of drift, and whoever asks must look at the row counts as well.
    """
    if len(expected) != len(actual):
        raise ValueError(f"{len(expected)} bins against {len(actual)}")
    before, after = sum(expected), sum(actual)
    if not before or not after:
        return 0.0
    index = 0.0
    for was, now in zip(expected, actual, strict=True):
        share_was = max(was / before, SMALLEST_SHARE)
        share_now = max(now / after, SMALLEST_SHARE)
        index += (share_now - share_was) * math.log(share_now / share_was)
    return index
