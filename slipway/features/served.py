"""What a running server feeds its model, as one more side of parity.

A server that is asked with entity columns and the parameter `return_features` says, beside its answer, what
it put into each column of the graph. So what is compared has gone the whole way: the request's decoding, the
server's own settings, connection and clock, and the contract that it loaded.
"""

from __future__ import annotations

import http.client
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import quote, urlsplit

import msgspec
import numpy as np

from slipway.contract import ModelContract, TensorInput, View
from slipway.errors import ContractError, FeatureError, ServerUnreachable
from slipway.features.parity import Found, Keys, Path, Reading

TIMEOUT = 30.0
ROWS_A_REQUEST = 256
_COLUMN_TYPES: Mapping[str, tuple[str, Any]] = {
    **dict.fromkeys(("String", "Uuid", "TimeUuid", "Decimal"), ("BYTES", "")),
    "Int32": ("INT32", 0),
    "Int64": ("INT64", 0),
    "UnixTimestamp": ("INT64", 0),
    "Bool": ("BOOL", False),
}
"""Of a join key: how the protocol sends it, and what stands there for a view that is not asked about."""
_ROUNDED: Mapping[str, Any] = {"FP16": np.float16, "FP32": np.float32, "FP64": np.float64}


class _Column(msgspec.Struct):
    values: list[Any]
    status: list[str]


class ServedModel:
    """One model of a running server, by the contract that it is to have."""

    def __init__(self, url: str, contract: ModelContract, *, timeout: float = TIMEOUT) -> None:
        if contract.feature_service is None:
            raise ContractError(
                f"model {contract.name!r} has no feature service, so nothing is looked up for it",
                fix="compare a model that is trained on a feature service",
            )
        self._service = contract.feature_service
        self._url, self._contract, self._timeout = url, contract, timeout
        self._types: dict[str, str] = {}
        self._fill: dict[str, Any] = {}
        """Column of a request → its type there, and a value that is nobody's."""
        for tensor in contract.inputs:
            for column in tensor.columns:
                if column.view is None:
                    self._types[column.name] = tensor.dtype
                    self._fill[column.name] = "" if tensor.dtype == "BYTES" else 0
        for view in self._service.views:
            for key, own in view.join_keys.items():
                self._types[own], self._fill[own] = _request_type(view.key_types[key], own)

    def paths(self) -> dict[str, Path]:
        """For `check_parity`: one side for each name under which the service takes a view."""
        found: dict[str, Path] = {}
        for view in self._service.views:
            name = "served" if view.source is None else f"served as {view.name}"
            found[name] = self._one_of(view, found.get(name))
        return found

    def _one_of(self, served: View, others: Path | None) -> Path:
        def read(stored: View, keys: Keys) -> Reading:
            if stored.name == (served.source or served.name):
                return self._read(served, stored, keys)
            return others(stored, keys) if others else {}

        return read

    def _read(self, served: View, stored: View, keys: Keys) -> Reading:
        """The columns of this view, as they went into the graph, for these entities."""
        mine = [
            (tensor, column.name, column.feature or column.name)
            for tensor in self._contract.inputs
            for column in tensor.columns
            if column.view == served.name
        ]
        rows = len(next(iter(keys.values()))) if keys else 1
        own = {served.join_keys[key]: values for key, values in keys.items()}
        answers = [
            self._ask(
                {name: values[start : start + ROWS_A_REQUEST] for name, values in own.items()},
                min(ROWS_A_REQUEST, rows - start),
            )
            for start in range(0, rows, ROWS_A_REQUEST)
        ]
        found: dict[str, Found] = {}
        for tensor, column, feature in mine:
            parts = [answer[column] for answer in answers]
            found[feature] = Found(
                [value for part in parts for value in part.values],
                [state for part in parts for state in part.status],
                _rounding(tensor),
            )
        return found

    def _ask(self, columns: Mapping[str, Sequence[Any]], rows: int) -> Mapping[str, _Column]:
        body = {
            "parameters": {"return_features": True},
            "inputs": [
                {
                    "name": name,
                    "datatype": datatype,
                    "shape": [rows],
                    "data": [_plain(value) for value in columns.get(name, [self._fill[name]] * rows)],
                }
                for name, datatype in self._types.items()
            ],
        }
        path = f"/v2/models/{quote(self._contract.name, safe='')}/infer"
        status, raw = self._post(path, msgspec.json.encode(body))
        where = self._url + path
        try:
            answer = msgspec.json.decode(raw)
            if status != 200:
                raise FeatureError(f"answered {status}: {answer['error']}", where=where)
            told = answer["parameters"]
            features = msgspec.json.decode(told["features"], type=dict[str, _Column])
        except (msgspec.MsgspecError, KeyError, TypeError) as error:
            raise FeatureError(
                f"answered {status}, and not which features it read: {raw[:200]!r}",
                where=where,
                fix="the server must be Slipway's runtime, of this version or a later one",
            ) from error
        definition = f"{self._service.name}@{self._service.digest}"
        if told.get("feature_service") != definition:
            raise FeatureError(
                f"serves a model of {told.get('feature_service')}, not of {definition}",
                where=where,
                fix="compare it with the contract of the model that is deployed there",
            )
        return features

    def _post(self, path: str, body: bytes) -> tuple[int, bytes]:
        parts = urlsplit(self._url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(parts.hostname or "", parts.port, timeout=self._timeout)
        try:
            connection.request(
                "POST", parts.path.rstrip("/") + path, body, {"Content-Type": "application/json"}
            )
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise ServerUnreachable(
                f"the server does not answer: {error}",
                where=self._url,
                fix="`slipway status` and `slipway logs serving` say why",
            ) from error
        finally:
            connection.close()


def _request_type(dtype: str, column: str) -> tuple[str, Any]:
    try:
        return _COLUMN_TYPES[dtype]
    except KeyError:
        raise FeatureError(
            f"entity {column!r} is of type {dtype}, which JSON cannot carry",
            fix="compare this service without a served side",
        ) from None


def _plain(value: Any) -> Any:
    return int(value.timestamp() // 1) if isinstance(value, datetime) else value


def _rounding(tensor: TensorInput) -> Callable[[Any], Any] | None:
    """What becomes of a value in this tensor; None: nothing."""
    kind = _ROUNDED.get(tensor.dtype)
    return None if kind is None else lambda value: float(kind(value))
