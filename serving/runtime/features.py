"""Requests that bring entity columns in place of tensors.

A model with a contract takes either its graph's tensors or the contract's columns by name: entity columns
(carrier, tailnum, …) whose features are read from the online store, and request columns that go into the
graph as they are. The answer says how old the values were and how many defaults stood in; one that was asked
with the parameter `return_features` says of every column what went into the graph, and why.
"""

from __future__ import annotations

import asyncio
from functools import cache
from time import perf_counter
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from serving.runtime.datatypes import DATATYPES
from serving.runtime.messages import InferRequest, Tensor
from serving.runtime.model import Model
from slipway.contract import FeatureService
from slipway.errors import (
    DeadlineExceeded,
    InvalidRequest,
    ModelFailed,
    OnlineStoreUnavailable,
    Overloaded,
    ServingError,
    SlipwayError,
)

if TYPE_CHECKING:
    from serving.runtime.engine import Engine
    from slipway.features.lookup import Answer, FeatureLookup


RETURN_FEATURES = "return_features"


class FeatureStoreDown(ServingError):
    """503: the contract says to fail when the store does not answer."""

    status = 503


class FeatureJoiner:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._tasks: set[asyncio.Task[None]] = set()
        self._reader: Any = None
        self._settings: Any = None
        engine.on_load(self._adopt)

    def _adopt(self, model: Model) -> None:
        """Compile the lookup once a model; a contract without columns takes tensors only."""
        contract = model.contract
        if contract is None or not all(tensor.columns for tensor in contract.inputs):
            return
        from slipway.features.lookup import FeatureLookup

        if self._settings is None:
            from slipway.settings import load_settings

            self._settings = load_settings()
        service = contract.feature_service or FeatureService(name="", project="", digest="")
        lookup = FeatureLookup(service, contract.inputs, self._settings)
        if service.views:
            # One connection for all models: requests of one tick share their MGET too.
            if self._reader is None:
                self._reader = lookup.reader()
            else:
                lookup.share_reader(self._reader)
        model.lookup = lookup

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        if self._reader is not None:
            await self._reader.close()

    @property
    def busy(self) -> bool:
        return bool(self._tasks)

    def join(self, request: InferRequest) -> None:
        """Read the features of a request's columns, then submit it with tensors."""
        if len(self._tasks) >= self._engine.config.max_queue:
            raise Overloaded(
                f"{len(self._tasks)} feature lookups are waiting already", where=f"model {request.model.name}"
            )
        request.decoded = perf_counter() - request.arrived
        task = self._engine.loop.create_task(self._join(request))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _join(self, request: InferRequest) -> None:
        try:
            await self._read(request)
        except SlipwayError as error:
            failure: SlipwayError = error
            if isinstance(error, OnlineStoreUnavailable):
                request.model.extras["statistics"].store_failures += 1
                failure = FeatureStoreDown(error.what, where=error.where, fix=error.fix)
            if not request.cancelled:
                request.reply(request, failure)
        except Exception as error:
            if not request.cancelled:
                request.reply(request, ModelFailed(f"the feature lookup failed: {error!r}"))

    async def _read(self, request: InferRequest) -> None:
        model, columns = request.model, request.columns
        lookup = model.lookup
        if columns is None or lookup is None:
            raise InvalidRequest("the request has no columns", where=f"model {model.name}")
        rows = _rows(columns)
        known = {*lookup.entity_columns, *lookup.request_columns}
        unknown = [name for name in columns if name not in known]
        if unknown:
            raise InvalidRequest(
                f"the model has no column {', '.join(map(repr, unknown))}",
                where=f"model {model.name}",
                fix=f"its columns are {', '.join(sorted(known))}",
            )
        began = perf_counter()
        answer = await lookup.read(columns, rows=rows)
        took = perf_counter() - began
        if request.cancelled:
            return
        if request.deadline is not None and perf_counter() > request.deadline:
            raise DeadlineExceeded(
                "the deadline passed while features were read", where=f"model {model.name}"
            )
        request.features = _freshness(lookup, answer, model, took)
        if request.parameters is not None and request.parameters.get(RETURN_FEATURES) is True:
            request.features["features"] = _fed(lookup, answer)
        request.columns = None
        request.inputs = [_tensor(spec.name, spec.datatype.name, answer) for spec in model.inputs]
        self._engine.submit(request)


def _rows(columns: dict[str, Any]) -> int:
    counts = {len(values) for values in columns.values()}
    if len(counts) != 1:
        raise InvalidRequest(
            f"columns of different length: { {name: len(values) for name, values in columns.items()} }"
        )
    rows = counts.pop()
    if not rows:
        raise InvalidRequest("the request has no rows")
    return rows


def _tensor(name: str, datatype: str, answer: Answer) -> Tensor:
    array = answer.tensors[name]
    kind = DATATYPES[datatype]
    if kind.size == 0:
        return Tensor(name, datatype, array.shape, array.ravel().tolist())
    return Tensor(name, datatype, array.shape, np.ascontiguousarray(array, kind.numpy).tobytes())


@cache
def _statuses() -> tuple[str, ...]:
    """Names by the numbers in `Answer.status`."""
    from slipway.features.lookup import Status

    return tuple(Status(number).name.lower() for number in range(len(Status)))


def _freshness(lookup: FeatureLookup, answer: Answer, model: Model, took: float) -> dict[str, Any]:
    """What the answer says about its features, as protocol parameters (plain values only)."""
    statistics = model.extras["statistics"]
    statistics.feature_seconds.append(took)
    told: dict[str, Any] = {}
    # np.unique and the enumeration's look-up by value took 100 us of a request of 600.
    statuses = _statuses()
    counts = np.bincount(answer.status.ravel(), minlength=len(statuses)).tolist()
    defaults = 0
    for name, count in zip(statuses, counts, strict=True):
        if count:
            statistics.feature_status[name] += count
            if name != "present":
                defaults += count
    if lookup.views:
        told["feature_defaults"] = defaults
        if counts[statuses.index("unavailable")]:
            told["feature_store"] = "unavailable"
            statistics.store_failures += 1
        oldest = answer.age[0] if len(answer.age) == 1 else np.fmax.reduce(answer.age, axis=0)
        for view, age in zip(lookup.views, oldest.tolist(), strict=True):
            if age == age:
                told[f"feature_age.{view}"] = round(age, 3)
                statistics.feature_age[view] = age
    return told


def _fed(lookup: FeatureLookup, answer: Answer) -> str:
    """Of each column what went into the graph, row by row, and the state of its feature; null where it went
    in as NaN. A protocol's parameter is a plain value, so this is JSON in a string.
    """
    from slipway.features.lookup import Status

    names = [Status(code).name.lower() for code in range(len(Status))]
    told: dict[str, Any] = {}
    tensors = [array.reshape(len(answer.status), -1) for array in answer.tensors.values()]
    values = [column for tensor in tensors for column in tensor.T]
    for column, found, states in zip(lookup.columns, values, answer.status.T, strict=True):
        told[column] = {"values": found.tolist(), "status": [names[code] for code in states.tolist()]}
    return msgspec.json.encode(told).decode()


def columns_of(request: InferRequest) -> dict[str, Any]:
    """The columns of a v2 request: its inputs, each of shape [n] or [n, 1]."""
    columns: dict[str, Any] = {}
    for tensor in request.inputs:
        if len(tensor.shape) not in (1, 2) or (len(tensor.shape) == 2 and tensor.shape[1] != 1):
            raise InvalidRequest(
                f"column of shape {list(tensor.shape)}, a column has [n] or [n, 1]",
                where=f"input {tensor.name!r}",
            )
        if tensor.name in columns:
            raise InvalidRequest(f"column {tensor.name!r} is there twice")
        kind = DATATYPES[tensor.datatype]
        columns[tensor.name] = (
            tensor.data if kind.size == 0 else np.frombuffer(tensor.data, kind.numpy)  # type: ignore[arg-type]
        )
    return columns
