"""Single rows for a quick model, from the bytes that came to the bytes that go, without an object a request.

Most traffic is this: one row in one tensor, the same message as before with other numbers in it, for a model
that answers within the tick in which it is asked. Such a request is a tuple in a list. What came in
one tick runs at once and is written at once, and nothing can happen to it in between, so it needs no deadline
and nobody has to cancel it. All that is not like this goes the general way, through the queue of the lane.

A connection that is owed such an answer knows how to get it at once (`owed`), so that whatever happens on it
first (more data, its end, the server's) finds the answers in their order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from serving.runtime.bound import rows_of
from serving.runtime.fastanswer import Answers, Writer
from serving.runtime.fastpath import FastReader, Quick
from serving.runtime.http1 import Exchange
from serving.runtime.lane import GAP_SECONDS, INLINE_SECONDS
from serving.runtime.messages import Rows
from serving.runtime.model import Array, Model
from slipway.errors import ModelFailed

if TYPE_CHECKING:
    from serving.runtime.http1 import Connection, Head

_Asked = tuple[bytes, "Connection", bytes, float, float]
"""The row, who asked, the id as a field of the answer; when it came, and when it was read."""
Ran = tuple[Array, list[Array], list[Array]]
"""Input, outputs, outputs with two axes."""


def run_rows(model: Model, key: Any, shape: tuple[int, ...], data: bytes, rows: int) -> Ran:
    """Single rows of one key, `shape` with their one axis of rows; on the loop's thread.

    What it gives is overwritten by the next run.
    """
    runner = model.runner
    bound = runner.run(key, data, rows)
    if bound is not None:
        return bound.input, bound.arrays, bound.views
    spec = model.inputs[0]
    array = np.frombuffer(data, spec.datatype.numpy).reshape((rows, *shape[1:]))
    outputs = model.run({spec.name: array})
    if rows > 1 and any(len(output) != rows for output in outputs):
        model.behaviour.batchable = False
        model.behaviour.reason = "an output does not have a row for each row of input"
        raise ModelFailed(model.behaviour.reason, where=f"model {model.name}")
    runner.learn(model, key, array, outputs)
    return array, outputs, rows_of(outputs, rows)


class Express:
    """Of one model."""

    def __init__(
        self,
        model: Model,
        reader: FastReader,
        loop: asyncio.AbstractEventLoop,
        observe: Callable[[Model, Rows], None],
        *,
        limit: int,
    ) -> None:
        """`limit`: rows that run at once, at most `most_rows`."""
        self.limit = limit
        self._row = reader.row
        self._answers: Answers = reader.answers
        self._loop = loop
        self._observe = observe
        self._lone = True
        """The last run held one row; see Lane.submit_or_run."""
        self._ended = 0.0
        self._asked: list[_Asked] = []
        """In this tick, in order."""
        # Only while something is asked; a model must not be kept by what it holds.
        self._model: Model | None = None
        self._quick: Quick | None = None
        """How the first was asked; all others have its key."""
        self._writers: list[Writer] | None = None
        """None: that of the first for all."""

    def take(self, model: Model, connection: Connection, head: Head, data: bytes, arrived: float) -> bool:
        """Whether this whole request is one for here. If so, it is answered now or in this tick."""
        found = self._row(data, head.size, head.json_length)
        if found is None:
            return False
        quick, raw, identity = found
        asked = self._asked
        if asked:
            if len(asked) >= self.limit:
                return False
            if quick is not self._quick and not self._joins(quick):
                return False
        elif self._lone and arrived - self._ended > GAP_SECONDS:
            self._answer_one(model, connection, quick, raw, identity, arrived)
            return True
        else:
            self._model, self._quick = model, quick
            self._loop.call_soon(self.flush)
        if self._writers is not None:
            self._writers.append(quick.writer)
        asked.append((raw, connection, identity, arrived, perf_counter()))
        connection.owed = self.flush
        connection.fresh = False
        return True

    def _joins(self, quick: Quick) -> bool:
        """Asked in another way than the first: may they share a run?"""
        first = self._quick
        if first is None or quick.key != first.key:
            return False
        if self._writers is None and quick.writer is not first.writer:
            self._writers = [first.writer] * len(self._asked)
        return True

    # -- running -----------------------------------------------------------------------------------

    def _answer_one(
        self, model: Model, connection: Connection, quick: Quick, raw: bytes, identity: bytes, arrived: float
    ) -> None:
        """Alone, now: saves the way through the loop and the lists."""
        submitted = perf_counter()
        writer = quick.writer
        try:
            array, outputs, views = run_rows(model, quick.key, quick.shape, raw, 1)
            delivering = perf_counter()
            body = writer.body(identity, outputs, views)
        except Exception as error:
            self._fail(connection, arrived, error)
            return
        serial = writer.send(connection, body)
        done = self._ended = perf_counter()
        self._observe(
            model,
            Rows(
                (arrived,),
                (submitted,),
                submitted,
                delivering,
                done,
                [array],
                outputs,
                serial,
                self._answers.prefix,
            ),
        )

    def flush(self) -> None:
        """Answer what was asked in this tick."""
        asked, model, quick, writers = self._asked, self._model, self._quick, self._writers
        if model is None or quick is None:
            return
        self._asked, self._model, self._quick, self._writers = [], None, None, None
        parts, connections, identities, arrived, submitted = zip(*asked, strict=True)
        count = len(asked)
        self._lone = count == 1
        fresh = not connections[0].server.draining
        for connection in connections:
            connection.owed = None
            connection.fresh = fresh and not connection.closing
        started = perf_counter()
        try:
            array, outputs, views = run_rows(model, quick.key, quick.shape, b"".join(parts), count)
            delivering = perf_counter()
            serial = (
                quick.writer.send_all(connections, identities, outputs, views)
                if writers is None
                else _send_mixed(writers, connections, identities, outputs, views)
            )
        except Exception as error:
            if count == 1:
                self._fail(connections[0], arrived[0], error)
                return
            self.limit = min(self.limit, most_rows(model))
            # A bad request fails alone.
            for number, connection in enumerate(connections):
                if not connection.closing:
                    how = quick if writers is None else quick.written_by(writers[number])
                    self._answer_one(
                        model, connection, how, parts[number], identities[number], arrived[number]
                    )
            return
        done = self._ended = perf_counter()
        self._observe(
            model,
            Rows(
                arrived, submitted, started, delivering, done, [array], outputs, serial, self._answers.prefix
            ),
        )

    def _fail(self, connection: Connection, arrived: float, error: Exception) -> None:
        head = connection.usual
        if head is None or connection.closing:
            return
        exchange = Exchange(connection, head, b"", arrived)
        connection.pending.append(exchange)
        self._answers.refuse(exchange, error)


def most_rows(model: Model) -> int:
    """That run within INLINE_SECONDS, and may share a run; 0: the model is not for such requests."""
    behaviour = model.behaviour
    if len(model.inputs) != 1:
        return 0
    spec = model.inputs[0]
    if not spec.datatype.size or spec.datatype.kind == "b":
        return 0
    if not model.has_batch_axis or behaviour.predict(1) > INLINE_SECONDS:
        return 0
    if not behaviour.batchable or behaviour.limits is not None:
        return 1
    room = INLINE_SECONDS - behaviour.base_seconds
    return max(1, min(behaviour.max_rows, int(room / max(behaviour.row_seconds, 1e-9))))


def _send_mixed(
    writers: list[Writer],
    connections: Sequence[Connection],
    identities: Sequence[bytes],
    outputs: list[Array],
    views: list[Array],
) -> list[int]:
    """Each writer has its rows; the numbers in the request ids of all, in the order of the rows."""
    serials = [0] * len(writers)
    for writer in dict.fromkeys(writers):
        rows = [number for number, found in enumerate(writers) if found is writer]
        first = writer.send_all(
            [connections[row] for row in rows],
            [identities[row] for row in rows],
            [array[rows] for array in outputs],
            [view[rows] for view in views],
        )
        for place, row in enumerate(rows):
            serials[row] = first + place
    return serials
