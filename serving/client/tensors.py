"""NumPy arrays to the protocol's tensors and back. BYTES is text here: str in an object array."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from slipway.errors import InvalidRequest

Array = np.ndarray[Any, np.dtype[Any]]
TensorLike = Array | Sequence[Any]

DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype("<u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("<i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BYTES": np.dtype(object),
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def datatype_of(name: str, array: Array) -> str:
    if array.dtype.kind in "OSU":
        return "BYTES"
    found = _NAMES.get(array.dtype.newbyteorder("<"))
    if found is None:
        raise InvalidRequest(
            f"{array.dtype} has no name in the protocol",
            where=f"input {name!r}",
            fix=f"give it as one of {', '.join(str(dtype) for dtype in DTYPES.values())}",
        )
    return found


def as_array(name: str, value: TensorLike, datatype: str | None = None, rank: int | None = None) -> Array:
    """An array stays as it is; a list becomes what the model's metadata says, or what NumPy makes of it.

    A list of n plain values for an input of shape [rows, 1] becomes n rows.
    """
    if isinstance(value, np.ndarray):
        return value
    try:
        array = np.asarray(value, dtype=DTYPES.get(datatype or ""))
    except (ValueError, TypeError, OverflowError) as error:
        raise InvalidRequest(
            f"cannot be read as {datatype or 'a tensor'}: {error}", where=f"input {name!r}"
        ) from error
    if rank == 2 and array.ndim == 1:
        array = array.reshape(-1, 1)
    return array


class Encoded(NamedTuple):
    """An input as both protocols send it: described, and its bytes apart."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    block: bytes


def encode(inputs: Mapping[str, TensorLike], known: Mapping[str, tuple[str, int]]) -> list[Encoded]:
    """`known`: datatype and number of axes of the model's inputs, where lists need them."""
    encoded = []
    for name, value in inputs.items():
        array = as_array(name, value, *known.get(name, (None, None)))
        datatype = datatype_of(name, array)
        encoded.append(Encoded(name, datatype, array.shape, to_bytes(name, array, datatype)))
    return encoded


def to_bytes(name: str, array: Array, datatype: str) -> bytes:
    """Row-major, little-endian; text with its length before it."""
    if datatype == "BYTES":
        parts: list[bytes] = []
        for item in array.ravel().tolist():
            if isinstance(item, str):
                text = item.encode()
            elif isinstance(item, bytes):
                text = item
            else:
                raise InvalidRequest(
                    f"{item!r} among the texts", where=f"input {name!r}", fix="give str or bytes only"
                )
            parts += (struct.pack("<I", len(text)), text)
        return b"".join(parts)
    return np.ascontiguousarray(array, dtype=DTYPES[datatype]).tobytes()


def from_bytes(content: bytes | memoryview, datatype: str, shape: Sequence[int]) -> Array:
    if datatype == "BYTES":
        return np.array(_texts(content), dtype=object).reshape(shape)
    return np.frombuffer(content, dtype=DTYPES[datatype]).reshape(shape)


def _texts(content: bytes | memoryview) -> list[str]:
    texts, at = [], 0
    while at < len(content):
        (size,) = struct.unpack_from("<I", content, at)
        at += 4 + size
        texts.append(str(content[at - size : at], "utf-8"))
    return texts


def from_values(values: Sequence[Any], datatype: str, shape: Sequence[int]) -> Array:
    """From JSON: null is a missing number."""
    if datatype.startswith("FP"):
        values = [float("nan") if value is None else value for value in _flat(values)]
    return np.array(values, dtype=DTYPES[datatype]).reshape(shape)


def _flat(values: Sequence[Any]) -> Sequence[Any]:
    while values and isinstance(values[0], list):
        values = [item for inner in values for item in inner]
    return values
