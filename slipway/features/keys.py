"""Names of the online store's keys, equal for all who write and read them.

    slipway:<project>:<view>:{<entity>}

The braces are Redis Cluster's hash tag: all views of one entity lie on one node. One join key is
written as `<kind>=<value>`; several, sorted by their names, as `<kind><bytes>=<value>` each, where the
length makes ("a,s1=b",) and ("a", "b") different keys.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any
from urllib.parse import quote

import numpy as np

from slipway.errors import FeatureError, InvalidRequest

ROOT = "slipway"
TEXT, NUMBER, BINARY, TRUTH, TIME = b"s", b"i", b"y", b"b", b"t"
NOBODY = b"s="
"""The entity of views without entities; Feast gives them an empty string."""
KIND_OF_TYPE = {
    "String": TEXT,
    "Uuid": TEXT,
    "TimeUuid": TEXT,
    "Decimal": TEXT,
    "Int32": NUMBER,
    "Int64": NUMBER,
    "Bytes": BINARY,
    "Bool": TRUTH,
    "UnixTimestamp": TIME,
}


def project_prefix(project: str) -> bytes:
    return f"{ROOT}:{_name(project)}:".encode()


def view_prefix(project: str, view: str) -> bytes:
    return project_prefix(project) + f"{_name(view)}:{{".encode()


def schemas_key(project: str) -> bytes:
    """A hash, schema digest → its fields; quoted names hold no `@`, so no view can be called this."""
    return project_prefix(project) + b"@schemas"


@lru_cache(maxsize=1024)
def _name(text: str) -> str:
    """Without the separators, the braces of hash tags and the wildcards of SCAN."""
    return quote(text, safe="")


def refuse_key_types(types: Mapping[str, str], *, where: str) -> None:
    for key, kind in types.items():
        if kind not in KIND_OF_TYPE:
            raise FeatureError(
                f"join key {key!r} has type {kind}, which is no identity",
                where=where,
                fix=f"use one of: {', '.join(KIND_OF_TYPE)}",
            )


def join_parts(parts: Sequence[tuple[bytes, bytes]]) -> bytes:
    """What stands between the braces, from (kind, value) in the order of the join keys' names."""
    if len(parts) == 1:
        return parts[0][0] + b"=" + parts[0][1]
    return b",".join(b"%b%d=%b" % (kind, len(value), value) for kind, value in parts)


def _encode_text(value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, bytes):
        return value
    raise TypeError


def _encode_number(value: Any) -> bytes:
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return b"%d" % int(value)
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return b"%d" % int(value)
    raise TypeError


def _encode_binary(value: Any) -> bytes:
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    raise TypeError


def _encode_truth(value: Any) -> bytes:
    if isinstance(value, bool | np.bool_):
        return b"1" if value else b"0"
    raise TypeError


def _encode_time(value: Any) -> bytes:
    if isinstance(value, datetime):
        moment = value if value.tzinfo else value.replace(tzinfo=UTC)
        return b"%d" % int(moment.timestamp() // 1)
    return _encode_number(value)


_ENCODERS: dict[bytes, Callable[[Any], bytes]] = {
    TEXT: _encode_text,
    NUMBER: _encode_number,
    BINARY: _encode_binary,
    TRUTH: _encode_truth,
    TIME: _encode_time,
}


class KeyMaker:
    """Keys of one view from columns of entity values, each column under its own name in the request.

    A missing value (None, or NaN) makes no key: nobody is not an entity.
    """

    def __init__(
        self, project: str, stored_view: str, join_keys: Mapping[str, str], key_types: Mapping[str, str]
    ) -> None:
        refuse_key_types(key_types, where=f"view {stored_view}")
        self.prefix = view_prefix(project, stored_view)
        ordered = sorted(key_types)
        self.columns = tuple(join_keys[key] for key in ordered)
        self._types = tuple(key_types[key] for key in ordered)
        self._kinds = tuple(KIND_OF_TYPE[kind] for kind in self._types)
        self._encoders = tuple(_ENCODERS[kind] for kind in self._kinds)
        self._head = self.prefix + (self._kinds[0] + b"=" if len(ordered) == 1 else b"")

    def make(self, values: Mapping[str, Any], rows: int) -> list[bytes | None]:
        if not self.columns:
            return [self.prefix + NOBODY + b"}"] * rows
        if len(self.columns) == 1:
            return self._make_simple(values[self.columns[0]])
        encoded = [
            [self._encode(index, value) for value in values[column]]
            for index, column in enumerate(self.columns)
        ]
        kinds = self._kinds
        return [
            None if None in parts else self.prefix + join_parts(list(zip(kinds, parts, strict=True))) + b"}"
            for parts in zip(*encoded, strict=True)
        ]

    def _make_simple(self, values: Sequence[Any]) -> list[bytes | None]:
        head = self._head
        if self._kinds[0] == TEXT:
            try:
                return [head + value.encode() + b"}" for value in values]
            except AttributeError:
                pass  # bytes, missing ones and wrong ones take the careful way
        return [
            None if part is None else head + part + b"}"
            for part in [self._encode(0, value) for value in values]
        ]

    def _encode(self, index: int, value: Any) -> bytes | None:
        if value is None or (isinstance(value, float) and value != value):
            return None
        try:
            return self._encoders[index](value)
        except (TypeError, UnicodeEncodeError):
            raise InvalidRequest(
                f"entity {self.columns[index]!r} must be {self._types[index]}, not {value!r:.80}",
                where="feature lookup",
            ) from None
