"""Single rows for a quick model over gRPC, from what came in one read to what goes out in one write.

As `serving.runtime.express` for REST: calls that are like those before in all but their numbers, for a model
that answers within the tick in which it is asked, are no objects and no streams, and all that can be is asked
once a connection. Until they are answered their connection does nothing else (`Connection.owed`). All that is
not like this goes the general way, through streams and the queue of the lane.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

from serving.runtime.engine import Engine
from serving.runtime.express import most_rows, run_rows
from serving.runtime.grpc import request_ids
from serving.runtime.grpc.call import OK_TRAILERS, CallHead
from serving.runtime.grpc.request_ids import RequestIds
from serving.runtime.grpc.templates import Template, Writer
from serving.runtime.http2 import Connection, Found, RequestHead, answer_rows
from serving.runtime.lane import GAP_SECONDS
from serving.runtime.messages import Rows
from serving.runtime.model import Model

SOON = 0.05
"""A call that has to be answered sooner than in this time has its deadline watched."""

General = Callable[[Template, Connection, list[Found]], None]
_Asked = tuple[Connection, RequestHead, Sequence[int], Sequence[int], Sequence[bytes], float]
"""Who asked, with which head, on which streams, what may be sent on each, the rows, when they came."""


class Express:
    """Of one model."""

    def __init__(
        self, model: Model, writer: Writer, engine: Engine, ids: RequestIds, general: General
    ) -> None:
        self._limit = min(most_rows(model), engine.config.max_queue, request_ids.MOST)
        self._writer = writer
        self._ids = ids
        self._general = general
        self._loop = engine.loop
        self._observe = engine.observe_rows
        self._asked: list[_Asked] = []
        """In this tick, in order."""
        self._count = 0
        """Rows of them."""
        # Only while something is asked; a model must not be kept by what it holds.
        self._model: Model | None = None
        self._template: Template | None = None
        self._lone = True
        """The last run held one row; see Lane.submit_or_run."""
        self._ended = 0.0

    def take(
        self,
        model: Model,
        template: Template,
        connection: Connection,
        head: RequestHead,
        streams: Sequence[int],
        windows: Sequence[int],
        parts: Sequence[bytes],
    ) -> bool:
        """Whether these calls are some for here. If so, they are answered now or in this tick."""
        prepared: CallHead = head.prepared
        if not prepared.plainest and (
            not prepared.anonymous
            or prepared.refused is not None
            or (prepared.timeout is not None and prepared.timeout < SOON)
        ):
            return False
        number = len(parts)
        first = self._template
        if number + self._count > self._limit or (first is not None and first.key != template.key):
            return False
        now = perf_counter()
        self._asked.append((connection, head, streams, windows, parts, now))
        self._count += number
        connection.owed = self.flush
        if first is None:
            self._model, self._template = model, template
            if number == 1 and self._lone and now - self._ended > GAP_SECONDS:
                self.flush()
            else:
                self._loop.call_soon(self.flush)
        return True

    def flush(self) -> None:
        """Answer what was asked in this tick."""
        asked, model, template = self._asked, self._model, self._template
        if model is None or template is None:
            return
        self._asked, self._model, self._template, self._count = [], None, None, 0
        parts: list[bytes] = []
        streams: list[int] = []
        arrived: list[float] = []
        targets: list[tuple[Connection, int]] = []
        for connection, _, own, _, stretches, now in asked:
            connection.owed = None
            parts += stretches
            streams += own
            arrived += [now] * len(own)
            targets.append((connection, len(own)))
        count = len(parts)
        self._lone = count == 1
        started = perf_counter()
        try:
            array, outputs, _ = run_rows(model, template.key, template.shape, b"".join(parts), count)
            delivering = perf_counter()
            form = self._writer.form(outputs, count)
            if form is None:
                self._limit = 0
                self._one_by_one(template, asked)
                return
            columns = form.columns([output.tobytes() for output in outputs])
            extras, prefix, first = self._ids.new_headers(count)
        except Exception:
            # A bad row fails alone, and is told why: there.
            self._limit = min(self._limit, most_rows(model))
            self._one_by_one(template, asked)
            return
        others = answer_rows(targets, streams, self._writer.headers, extras, form, columns, OK_TRAILERS)
        done = self._ended = perf_counter()
        serial: int | list[int] = first
        if others:
            # Theirs are run once more, and counted then.
            kept = _rows_without(targets, others)
            arrived, serial = [arrived[row] for row in kept], [first + row for row in kept]
            array, outputs = array[kept], [output[kept] for output in outputs]
        if arrived:
            rows = Rows(
                arrived,
                arrived,
                started,
                delivering,
                done,
                [array],
                outputs,
                serial,
                prefix,
                request_ids.DIGITS,
            )
            self._observe(model, rows)
        self._one_by_one(template, [asked[number] for number in others])

    def _one_by_one(self, template: Template, asked: list[_Asked]) -> None:
        for connection, head, streams, windows, parts, _ in asked:
            if connection.open:
                found: list[tuple[int, Any, int, bytes]] = [
                    (stream, head, window, part)
                    for stream, window, part in zip(streams, windows, parts, strict=True)
                ]
                self._general(template, connection, found)


def _rows_without(targets: list[tuple[Connection, int]], others: list[int]) -> list[int]:
    """The numbers of the rows that belong to all other targets."""
    numbers = itertools.count()
    owned = [list(itertools.islice(numbers, count)) for _, count in targets]
    return [row for number, rows in enumerate(owned) if number not in others for row in rows]
