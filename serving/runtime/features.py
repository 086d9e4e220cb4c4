"""Requests that bring entity columns in place of tensors.

A model with a contract takes either its graph's tensors or the contract's columns by name: entity columns
(carrier, tailnum, …) whose features are read from the online store, and request columns that go into the
graph as they are. The answer says how old the values were and how many defaults stood in; one that was asked
with the parameter `return_features` says of every column what went into the graph, and why.
"""

from __future__ import annotations

import asyncio
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any

import msgspec

from serving.runtime.messages import InferRequest, Tensor
from serving.runtime.model import Model, TensorSpec
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
from slipway.features.answer import Answer, Row, Status

if TYPE_CHECKING:
    from serving.runtime.engine import Engine
    from slipway.features.lookup import FeatureLookup


RETURN_FEATURES = "return_features"
_STATUSES = tuple(status.name.lower() for status in Status)


class FeatureStoreDown(ServingError):
    """503: the contract says to fail when the store does not answer."""

    status = 503


class FeatureJoiner:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._tasks: set[asyncio.Task[None]] = set()
        self._asked = 0
        """Single rows that wait for the store."""
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

    def join(self, request: InferRequest) -> None:
        """Read the features of a request's columns, then submit it with tensors."""
        model, columns = request.model, request.columns
        lookup = model.lookup
        if columns is None or lookup is None:
            raise InvalidRequest("the request has no columns", where=f"model {model.name}")
        waiting = self._asked + len(self._tasks)
        if waiting >= self._engine.config.max_queue:
            raise Overloaded(f"{waiting} feature lookups are waiting already", where=f"model {model.name}")
        rows = _rows(columns)
        _refuse_unknown(columns, lookup, model)
        began = perf_counter()
        request.decoded = began - request.arrived
        if rows == 1 and not _returns_features(request):
            receive = partial(self._receive, request, lookup, began)
            self._asked += 1
            taken = False
            try:
                taken = lookup.ask_row(columns, receive)
            finally:
                if not taken:
                    self._asked -= 1
            if taken:
                return
        task = self._engine.loop.create_task(self._join(request, lookup, columns, rows, began))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _receive(
        self,
        request: InferRequest,
        lookup: FeatureLookup,
        began: float,
        found: Row | Answer | Exception,
        alone: bool,
    ) -> None:
        """What became of a single row."""
        self._asked -= 1
        try:
            self._go_on(request, lookup, found, began, alone)
        except Exception as error:
            self._fail(request, error)

    async def _join(
        self,
        request: InferRequest,
        lookup: FeatureLookup,
        columns: dict[str, Any],
        rows: int,
        began: float,
    ) -> None:
        try:
            answer = await lookup.read(columns, rows=rows)
            self._go_on(request, lookup, answer, began, False)
        except Exception as error:
            self._fail(request, error)

    def _fail(self, request: InferRequest, error: Exception) -> None:
        if isinstance(error, OnlineStoreUnavailable):
            request.model.extras["statistics"].store_failures += 1
            error = FeatureStoreDown(error.what, where=error.where, fix=error.fix)
        elif not isinstance(error, SlipwayError):
            error = ModelFailed(f"the feature lookup failed: {error!r}")
        if not request.cancelled:
            request.reply(request, error)

    def _go_on(
        self,
        request: InferRequest,
        lookup: FeatureLookup,
        found: Row | Answer | Exception,
        began: float,
        alone: bool,
    ) -> None:
        """With what was found in place of the columns."""
        if isinstance(found, Exception):
            raise found
        model = request.model
        now = perf_counter()
        model.extras["statistics"].feature_seconds.append(now - began)
        if request.cancelled:
            return
        if request.deadline is not None and now > request.deadline:
            raise DeadlineExceeded(
                "the deadline passed while features were read", where=f"model {model.name}"
            )
        request.features = _freshness(lookup, found, model)
        if _returns_features(request) and isinstance(found, Answer):
            request.features["features"] = _fed(lookup, found)
        request.columns = None
        request.inputs = [_tensor(spec, found) for spec in model.inputs]
        model.admit(request)
        if alone:
            model.lane.submit_or_run(request)
        else:
            model.lane.submit(request)


def _returns_features(request: InferRequest) -> bool:
    return request.parameters is not None and request.parameters.get(RETURN_FEATURES) is True


def _refuse_unknown(columns: dict[str, Any], lookup: FeatureLookup, model: Model) -> None:
    unknown = columns.keys() - lookup.known_columns
    if unknown:
        raise InvalidRequest(
            f"the model has no column {', '.join([repr(name) for name in columns if name in unknown])}",
            where=f"model {model.name}",
            fix=f"its columns are {', '.join(sorted(lookup.known_columns))}",
        )


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


def _tensor(spec: TensorSpec, found: Row | Answer) -> Tensor:
    array = found.tensors[spec.name]
    kind = spec.datatype
    if kind.size == 0:
        return Tensor(spec.name, kind.name, array.shape, array.ravel().tolist())
    return Tensor(spec.name, kind.name, array.shape, array.astype(kind.numpy, copy=False).tobytes())


def _freshness(lookup: FeatureLookup, found: Row | Answer, model: Model) -> dict[str, Any]:
    """What the answer says about its features, as protocol parameters (plain values only)."""
    statistics = model.extras["statistics"]
    told: dict[str, Any] = {}
    counts = found.counts()
    defaults = 0
    for name, count in zip(_STATUSES, counts, strict=True):
        if count:
            statistics.feature_status[name] += count
            if name != "present":
                defaults += count
    if lookup.views:
        told["feature_defaults"] = defaults
        if counts[Status.UNAVAILABLE]:
            told["feature_store"] = "unavailable"
            statistics.store_failures += 1
        for view, age in zip(lookup.views, found.oldest(), strict=True):
            if age == age:
                told[f"feature_age.{view}"] = round(age, 3)
                statistics.feature_age[view] = age
    return told


def _fed(lookup: FeatureLookup, answer: Answer) -> str:
    """Of each column what went into the graph, row by row, and the state of its feature; null where it went
    in as NaN. A protocol's parameter is a plain value, so this is JSON in a string.
    """
    told: dict[str, Any] = {}
    tensors = [array.reshape(len(answer.status), -1) for array in answer.tensors.values()]
    values = [column for tensor in tensors for column in tensor.T]
    for column, found, states in zip(lookup.columns, values, answer.status.T, strict=True):
        told[column] = {"values": found.tolist(), "status": [_STATUSES[code] for code in states.tolist()]}
    return msgspec.json.encode(told).decode()
