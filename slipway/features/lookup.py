"""Features for a model, without Feast: entity columns in, tensors and the state of every value out.

    lookup = FeatureLookup.of_contract(contract, settings)
    answer = await lookup.read({"carrier": ["UA"], "origin": ["EWR"], "distance": [719.0]})
    answer.tensors["features"]      # (1, columns) of the input's dtype, defaults filled in
    answer.status                   # (1, columns) of Status
    answer.age                      # (1, views) seconds since the value became known, NaN without one

Everything that does not depend on the request is worked out once: which keys, which bytes of which blob
go to which column. A request is then one MGET for all its views and entities.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from slipway.clock import parse_clock
from slipway.contract import Column, FeatureService, ModelContract, TensorInput
from slipway.errors import ContractError, FeatureError, InvalidRequest, OnlineStoreUnavailable
from slipway.features.answer import Answer, Row, Status
from slipway.features.blocking import BlockingReader
from slipway.features.packing import BINARIES, SLOTS, TEXTS, Packing, is_message, item_type, unpack_items
from slipway.features.plan import Target, ViewPlan
from slipway.features.readers import ClusterReader, NodeReader, open_reader
from slipway.features.row import RowFiller
from slipway.features.wire import Reply
from slipway.settings import Settings

Values = Mapping[str, Sequence[Any] | npt.NDArray[Any]]


ReceiveRow = Callable[[Row | Answer | Exception, bool], None]
"""Called with the answer, and whether nobody else was asking at that time."""
_NUMPY: Mapping[str, Any] = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
    "BYTES": np.object_,
}
FEW = 4
"""Up to so many rows are faster one by one than as a table."""
_FLOATS = frozenset({"FP16", "FP32", "FP64"})
_TAKES: Mapping[str, frozenset[str]] = {
    **{name: frozenset(SLOTS) for name in _FLOATS},
    "INT64": frozenset({"Int64", "Int32", "UnixTimestamp", "Bool"}),
    "INT32": frozenset({"Int32", "Bool"}),
    "BOOL": frozenset({"Bool"}),
    "BYTES": TEXTS | BINARIES,
}
"""Which feature types each tensor type holds without a surprise; floats take all numbers, rounding."""


class FeatureLookup:
    """Compiled for one service and one set of inputs; serves any number of requests at once."""

    def __init__(
        self,
        service: FeatureService,
        inputs: Sequence[TensorInput],
        settings: Settings = Settings(),  # noqa: B008
    ) -> None:
        self.service = service
        self._settings = settings
        self._fixed_now = parse_clock(settings.features.clock)
        self._plans = [ViewPlan(service.project, view) for view in service.views]
        self._targets: list[Target] = []
        self._requested: list[tuple[int, int, int, Column]] = []
        self.columns: tuple[str, ...] = tuple(column.name for tensor in inputs for column in tensor.columns)
        self.views: tuple[str, ...] = tuple(view.name for view in service.views)
        self._compile(inputs)
        needed = [name for plan in self._plans for name in plan.keys.columns]
        self.entity_columns: tuple[str, ...] = tuple(dict.fromkeys(needed))
        self.request_columns: tuple[str, ...] = tuple(
            dict.fromkeys(column.name for *_, column in self._requested)
        )
        self.known_columns = frozenset((*self.entity_columns, *self.request_columns))
        self._readers: dict[asyncio.AbstractEventLoop, NodeReader | ClusterReader] = {}
        self._blocking: BlockingReader | None = None

    @classmethod
    def of_contract(cls, contract: ModelContract, settings: Settings) -> FeatureLookup:
        if contract.feature_service is None:
            raise ContractError(
                f"model {contract.name!r} has no feature service, so there is nothing to look up"
            )
        return cls(contract.feature_service, contract.inputs, settings)

    @classmethod
    def of_service(cls, service: FeatureService, settings: Settings) -> FeatureLookup:
        """All features of the service, each a tensor `view__feature` of its own natural type: for parity
        and for looking at values; types that no model input has (lists) come as objects.
        """
        lookup = cls(service, (), settings)
        names: list[str] = []
        for plan, view in zip(lookup._plans, service.views, strict=True):
            for field in view.features if view.features is not None else tuple(plan.packing.types):
                dtype = plan.packing.types[field]
                if is_message(dtype):
                    continue
                name = f"{view.name}__{field}"
                natural = SLOTS.get(dtype, "O")
                empty: Any = np.nan if dtype.startswith("Float") else 0 if dtype in SLOTS else None
                lookup._targets.append(Target(name, natural, [Column(name)], flat=True, empty=empty))
                plan.add(len(names), len(lookup._targets) - 1, 0, field)
                names.append(name)
            plan.seal()
        lookup.columns = tuple(names)
        lookup._filler = RowFiller(lookup._plans, lookup._targets)
        return lookup

    async def read(self, values: Values, *, rows: int | None = None) -> Answer:
        """Within settings.online.timeout; joins one MGET with whatever else this loop tick asks for."""
        count, keys = self._prepare(values, rows)
        try:
            wanted = [key for key in keys if key is not None]
            # A contract of request columns alone needs no store.
            replies = await self.reader().fetch(wanted) if wanted else []
        except OnlineStoreUnavailable:
            if self.service.on_unavailable == "fail":
                raise
            return self._answer(values, count, keys, None)
        return self._answer(values, count, keys, replies)

    def ask_row(self, values: Values, receive: ReceiveRow) -> bool:
        """As `read` of one row, without a task. False: it is for `read`."""
        _, keys = self._prepare(values, 1)
        if not keys:
            self._answer_row(values, keys, receive, [], True)
            return True
        reader = self.reader()
        if not isinstance(reader, NodeReader) or None in keys:
            return False
        reader.ask_for(keys, partial(self._answer_row, values, keys, receive))  # type: ignore[arg-type]
        return True

    def read_now(self, values: Values, *, rows: int | None = None) -> Answer:
        """The same without an event loop."""
        count, keys = self._prepare(values, rows)
        if self._blocking is None:
            online = self._settings.online
            self._blocking = BlockingReader(online.url, timeout=online.timeout, cluster=online.cluster)
        try:
            replies = self._blocking.fetch([key for key in keys if key is not None])
        except OnlineStoreUnavailable:
            if self.service.on_unavailable == "fail":
                raise
            return self._answer(values, count, keys, None)
        return self._answer(values, count, keys, replies)

    def reader(self) -> NodeReader | ClusterReader:
        """This loop's connection; models that share a reader share its MGETs, see `share_reader`."""
        loop = asyncio.get_running_loop()
        reader = self._readers.get(loop)
        if reader is None:
            online = self._settings.online
            reader = open_reader(online.url, timeout=online.timeout, cluster=online.cluster)
            self._readers[loop] = reader
        return reader

    def share_reader(self, reader: NodeReader | ClusterReader) -> None:
        """Use this one in the running loop: a server with many models needs one connection, not many."""
        self._readers[asyncio.get_running_loop()] = reader

    async def close(self) -> None:
        reader = self._readers.pop(asyncio.get_running_loop(), None)
        if reader is not None:
            await reader.close()
        self.close_now()

    def close_now(self) -> None:
        if self._blocking is not None:
            self._blocking.close()

    # Compiling

    def _compile(self, inputs: Sequence[TensorInput]) -> None:
        by_name = {plan.name: plan for plan in self._plans}
        column_number = 0
        for tensor in inputs:
            if not tensor.columns:
                continue
            number = len(self._targets)
            flat = len(tensor.shape) < 2
            if flat and len(tensor.columns) > 1:
                raise ContractError(f"input {tensor.name!r} has one axis for {len(tensor.columns)} columns")
            for place, column in enumerate(tensor.columns):
                if column.view is None:
                    self._requested.append((column_number, number, place, column))
                else:
                    plan = by_name.get(column.view)
                    field = column.feature or column.name
                    if plan is None or field not in plan.packing.types:
                        raise ContractError(
                            f"column {column.name!r} names {column.view}:{field}, which the feature service "
                            f"{self.service.name!r} does not have"
                        )
                    self._refuse(tensor, column, plan.packing.types[field])
                    plan.add(column_number, number, place, field)
                column_number += 1
            empty: Any = "" if tensor.dtype == "BYTES" else np.nan if tensor.dtype in _FLOATS else 0
            self._targets.append(
                Target(tensor.name, _NUMPY[tensor.dtype], tensor.columns, flat=flat, empty=empty)
            )
        for plan in self._plans:
            plan.seal()
        self._filler = RowFiller(self._plans, self._targets)

    def _refuse(self, tensor: TensorInput, column: Column, dtype: str) -> None:
        if dtype not in _TAKES.get(tensor.dtype, frozenset()):
            raise ContractError(
                f"column {column.name!r} is {dtype}; input {tensor.name!r} is {tensor.dtype}",
                where=f"feature service {self.service.name}",
                fix="change the type of the feature or of the graph's input",
            )
        if column.default is None and tensor.dtype not in _FLOATS and tensor.dtype != "BYTES":
            raise ContractError(
                f"column {column.name!r} of {tensor.dtype} has no default, and {tensor.dtype} has no NaN",
                where=f"feature service {self.service.name}",
                fix="give the column a default for missing values",
            )

    # Reading

    def _prepare(self, values: Values, rows: int | None) -> tuple[int, list[bytes | None]]:
        for name in (*self.entity_columns, *self.request_columns):
            if name not in values:
                raise InvalidRequest(
                    f"column {name!r} is missing",
                    where="feature lookup",
                    fix=f"send: {', '.join(dict.fromkeys((*self.entity_columns, *self.request_columns)))}",
                )
            if rows is None:
                rows = len(values[name])
            elif len(values[name]) != rows:
                raise InvalidRequest(
                    f"column {name!r} has {len(values[name])} rows, others have {rows}",
                    where="feature lookup",
                )
        count = rows or 0
        keys: list[bytes | None] = []
        for plan in self._plans:
            keys += plan.keys.make(values, count)
        return count, keys

    def _now(self) -> int:
        return round((time.time() if self._fixed_now is None else self._fixed_now) * 1e6)

    def _answer_row(
        self,
        values: Values,
        keys: Sequence[bytes | None],
        receive: ReceiveRow,
        replies: list[Reply] | FeatureError,
        alone: bool,
    ) -> None:
        found: Row | Answer | Exception
        try:
            if isinstance(replies, list):
                found = self._row(values, replies) or self._answer(values, 1, keys, replies)
            elif isinstance(replies, OnlineStoreUnavailable) and self.service.on_unavailable != "fail":
                found = self._answer(values, 1, keys, None)
            else:
                found = replies
        except Exception as error:
            found = error
        receive(found, alone)

    def _row(self, values: Values, replies: list[Reply]) -> Row | None:
        filled = self._filler.fill(replies, self._now())
        if filled is None:
            return None
        tensors, counts, ages = filled
        for _, target, place, column in self._requested:
            if self._fill_requested(values, tensors, target, place, column):
                return None
        return Row(self._name(tensors), counts, ages)

    def _name(self, tensors: list[npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        return {
            target.name: tensor[:, 0] if target.flat else tensor
            for target, tensor in zip(self._targets, tensors, strict=True)
        }

    def _answer(
        self, values: Values, rows: int, keys: Sequence[bytes | None], replies: Sequence[bytes | None] | None
    ) -> Answer:
        tensors = [target.blank(rows) for target in self._targets]
        status = np.zeros((rows, len(self.columns)), np.uint8)
        age = np.empty((rows, len(self._plans)), np.float64)
        if replies is None:
            self._fill_unavailable(tensors, status, age)
        else:
            if len(replies) != len(keys):
                left = iter(replies)
                replies = [None if key is None else next(left) for key in keys]
            now = self._now()
            for number, plan in enumerate(self._plans):
                blobs = replies[number * rows : (number + 1) * rows]
                self._fill(plan, blobs, tensors, status, age[:, number], now)
        for column_number, target, place, column in self._requested:
            missing = self._fill_requested(values, tensors, target, place, column)
            if missing:
                status[missing, column_number] = Status.NULL
        return Answer(self._name(tensors), status, age)

    def _fill(
        self,
        plan: ViewPlan,
        blobs: Sequence[bytes | None],
        tensors: list[npt.NDArray[Any]],
        status: npt.NDArray[np.uint8],
        age: npt.NDArray[np.float64],
        now: int,
    ) -> None:
        if len(blobs) <= FEW and self._fill_few(plan, blobs, tensors, age, now):
            return
        packing = plan.packing
        records = packing.read(blobs)
        digest = records["digest"]
        ours = digest == packing.digest
        whole = bool(ours.all())
        micros = now - records["event"]
        np.multiply(micros, 1e-6, out=age)
        stale = (micros > plan.ttl) if plan.ttl else None
        if stale is not None and not stale.any():
            stale = None
        for block in plan.blocks.values():
            tensors[block.target][:, block.to] = records[block.code][:, block.take]
        bad: npt.NDArray[Any] | None = None
        if not whole or stale is not None:
            state = np.where(ours, Status.PRESENT, np.where(digest == 0, Status.NOT_FOUND, Status.UNREADABLE))
            if stale is not None:
                state = np.where(ours & stale, Status.STALE, state)
            age[~ours] = np.nan
            status[:, plan.to] = state[:, None]
            bad = np.broadcast_to((state != Status.PRESENT)[:, None], (len(blobs), len(plan.columns)))
        if records["nulls"].any():
            null = packing.nulls(records)[:, plan.bits]
            if bad is not None:
                null = null & ~bad
            held = status[:, plan.to]
            held[null] = Status.NULL
            status[:, plan.to] = held
            bad = null if bad is None else bad | null
        for target, place, field in plan.heaps:
            kept = ours if stale is None else ours & ~stale
            self._fill_heap(packing, field, records, blobs, kept, tensors[target][:, place])
        if bad is not None:
            for target, to, mine in plan.by_target:
                tensor = tensors[target]
                tensor[:, to] = np.where(bad[:, mine], self._targets[target].defaults[to], tensor[:, to])

    def _fill_few(
        self,
        plan: ViewPlan,
        blobs: Sequence[bytes | None],
        tensors: list[npt.NDArray[Any]],
        age: npt.NDArray[np.float64],
        now: int,
    ) -> bool:
        """The usual case of a few fresh and whole blobs, row by row; False leaves the work to `_fill`."""
        for row, blob in enumerate(blobs):
            event = plan.packing.clean_event(blob)
            if event is None or blob is None or (plan.ttl and now - event > plan.ttl):
                return False
            age[row] = (now - event) * 1e-6
            for block in plan.blocks.values():
                group = np.frombuffer(blob, block.dtype, block.count, block.offset)
                tensors[block.target][row, block.to] = group[block.take]
        return True

    def _fill_heap(
        self,
        packing: Packing,
        field: str,
        records: npt.NDArray[Any],
        blobs: Sequence[bytes | None],
        kept: npt.NDArray[np.bool_],
        out: npt.NDArray[Any],
    ) -> None:
        dtype = packing.types[field]
        masked = [blob if keep else None for blob, keep in zip(blobs, kept.tolist(), strict=True)]
        for at, (raw, blob) in enumerate(zip(packing.heap(field, records, masked), masked, strict=True)):
            if blob is not None:
                if dtype in TEXTS:
                    out[at] = raw.decode()
                else:
                    out[at] = unpack_items(dtype, raw) if item_type(dtype) else raw

    def _fill_unavailable(
        self,
        tensors: list[npt.NDArray[Any]],
        status: npt.NDArray[np.uint8],
        age: npt.NDArray[np.float64],
    ) -> None:
        age[:] = np.nan
        for plan in self._plans:
            status[:, plan.to] = Status.UNAVAILABLE
            for target, to, _ in plan.by_target:
                tensors[target][:, to] = self._targets[target].defaults[to]

    def _fill_requested(
        self,
        values: Values,
        tensors: list[npt.NDArray[Any]],
        target: int,
        place: int,
        column: Column,
    ) -> list[int]:
        """The rows that bring no value."""
        given = values[column.name]
        tensor = tensors[target]
        if isinstance(given, np.ndarray) and given.dtype == tensor.dtype and given.dtype != np.object_:
            tensor[:, place] = given
            return []
        try:
            if tensor.dtype == np.object_:
                given = [item.decode() if isinstance(item, bytes) else item for item in given]
            missing = [at for at, item in enumerate(given) if item is None]
            if missing:
                default = self._targets[target].defaults[place]
                given = [default if item is None else item for item in given]
            tensor[:, place] = given
        except (TypeError, ValueError, OverflowError) as error:
            raise InvalidRequest(
                f"column {column.name!r} does not fit {tensor.dtype}: {error}", where="feature lookup"
            ) from error
        return missing
