"""Which types of a Parquet column can serve a type that a feature view declares."""

from __future__ import annotations

from feast.types import Array, ComplexFeastType, FeastType, PrimitiveFeastType

_FAMILIES = {
    "INVALID": frozenset[str](),
    "BYTES": frozenset({"bytes"}),
    "STRING": frozenset({"text"}),
    "UUID": frozenset({"text"}),
    "TIME_UUID": frozenset({"text"}),
    "BOOL": frozenset({"numbers"}),
    "INT32": frozenset({"numbers"}),
    "INT64": frozenset({"numbers"}),
    "FLOAT32": frozenset({"numbers"}),
    "FLOAT64": frozenset({"numbers"}),
    "DECIMAL": frozenset({"numbers", "text"}),
    # Feast takes integers for seconds since 1970.
    "UNIX_TIMESTAMP": frozenset({"times", "numbers"}),
}


def families(declared: FeastType) -> frozenset[str]:
    """The families of `history.family` that fit; empty: any."""
    if isinstance(declared, PrimitiveFeastType):
        return _FAMILIES.get(declared.name, frozenset())
    if isinstance(declared, ComplexFeastType) and isinstance(declared, Array):
        return frozenset({"lists"})
    return frozenset()
