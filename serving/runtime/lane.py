"""The queue of one model: what one tick of the loop brought runs together.

Requests are queued as they are decoded; one call_soon later everything of that tick stands in the queue and
goes through ONNX Runtime in as few runs as possible. A model whose runs take longer than about a millisecond
runs in a thread, and what comes in while it is busy makes the next batch.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from time import perf_counter
from typing import Any

from serving.runtime.bound import MAX_ROWS
from serving.runtime.messages import ALONE, Batch, InferRequest, InferResponse
from serving.runtime.model import Model
from serving.runtime.warmup import MAX_KEYS, compare_shape
from slipway.errors import DeadlineExceeded, ModelFailed, Overloaded, ServingError, SlipwayError

INLINE_SECONDS = 0.001
"""A run that is expected to take longer leaves the loop."""
GAP_SECONDS = 0.00003
"""A client that waits for its answer before it asks again cannot be quicker."""
TICK_SECONDS = 0.002
"""After this much work in one tick the loop gets to breathe."""
PATIENCE = 1.0
"""How long a run waits for those who were just answered, as a share of what a run takes whatever is in it: no
longer than for a run that was under way. With 16 connections to a model of 2.2 ms that saves 18 % of the CPU.
"""

Observer = Callable[[Model, list[InferRequest], Batch], None]


class Lane:
    def __init__(
        self,
        model: Model,
        loop: asyncio.AbstractEventLoop,
        executor: Executor,
        *,
        max_queue: int,
        concurrency: int,
        observer: Observer,
    ) -> None:
        # Not the model itself, which holds this: a circle would keep it in memory when it is unloaded.
        self._behaviour = model.behaviour
        self._where = f"model {model.name}"
        self.loop = loop
        self.executor = executor
        self.max_queue = max_queue
        self.concurrency = concurrency
        self.observer = observer
        self.queue: deque[InferRequest] = deque()
        self.running = 0
        """Runs that are in threads now."""
        self.in_threads = 0
        """Requests in those runs."""
        self._scheduled = False
        self._expected = 0
        """Who were answered together by a thread, and so will ask again together; see `_wait`."""
        self._until = 0.0
        self._waiting: asyncio.TimerHandle | None = None
        self._lone = True
        """The last run held one request."""
        self._ended = 0.0
        self._uneven = False
        """Whether the queue holds anything but single rows of one key without a deadline."""
        self._key: Any = None

    @property
    def depth(self) -> int:
        return len(self.queue) + self.in_threads

    @property
    def idle(self) -> bool:
        return not self.queue and not self.running

    def submit(self, request: InferRequest) -> None:
        """Queue an admitted request; raises Overloaded when the queue is full."""
        queue = self.queue
        request.submitted = perf_counter()
        if not queue:
            self._key = request.key
            self._uneven = request.rows != 1 or request.deadline is not None
        elif len(queue) >= self.max_queue:
            raise self._overloaded()
        elif request.key != self._key or request.rows != 1 or request.deadline is not None:
            self._uneven = True
        queue.append(request)
        if not self._scheduled:
            self._scheduled = True
            self.loop.call_soon(self._tick)

    def submit_or_run(self, request: InferRequest) -> None:
        """As `submit`; but a request that comes alone, as those before it did, is run before this returns.

        Saves the way through the loop, 5 us of 100. Who comes within GAP_SECONDS of the last answer came in
        the same tick as the one before, and waits for others as usual.
        """
        if (
            self._lone
            and not self.queue
            and not self.running
            and request.deadline is None
            and request.arrived - self._ended > GAP_SECONDS
            and self._behaviour.predict(request.rows) <= INLINE_SECONDS
        ):
            request.submitted = perf_counter()
            for requests, outcome in _run_here([request], request.rows):
                self._deliver(requests, outcome)
            self._ended = perf_counter()
            return
        self.submit(request)

    def submit_all(self, requests: list[InferRequest]) -> None:
        """Single rows of one key without a deadline, their `submitted` set: one step for all of them."""
        queue = self.queue
        if len(queue) + len(requests) > self.max_queue:
            for request in requests:
                try:
                    self.submit(request)
                except Overloaded as error:
                    request.reply(request, error)
            return
        if not queue:
            self._key, self._uneven = requests[0].key, False
        elif requests[0].key != self._key:
            self._uneven = True
        queue.extend(requests)
        if not self._scheduled:
            self._scheduled = True
            self.loop.call_soon(self._tick)

    def _overloaded(self) -> Overloaded:
        waiting = self._behaviour.predict(1) * len(self.queue) / self.concurrency
        return Overloaded(
            f"{len(self.queue)} requests are waiting already",
            where=self._where,
            fix="send fewer at once, or add replicas",
            retry_after=max(1.0, waiting),
        )

    def _tick(self) -> None:
        self._scheduled = False
        queue, behaviour = self.queue, self._behaviour
        began = perf_counter()
        while queue:
            if self.running >= self.concurrency:
                return  # the run that ends next takes up from here
            if self._expected and self._wait():
                return
            group, rows = self._next_group()
            if not group:
                continue
            if behaviour.base_seconds + behaviour.row_seconds * rows > INLINE_SECONDS:
                self._start_thread(group, rows)
                continue
            for requests, outcome in _run_here(group, rows):
                self._deliver(requests, outcome)
            self._lone = len(group) == 1
            if queue and perf_counter() - began > TICK_SECONDS:
                self._scheduled = True
                self.loop.call_soon(self._tick)
                return

    def _expect(self, answered: int) -> None:
        behaviour = self._behaviour
        if answered < 2 or not behaviour.batchable or behaviour.base_seconds <= INLINE_SECONDS:
            return
        now = perf_counter()
        if not self._expected or now >= self._until:
            self._expected, self._until = 0, now + PATIENCE * behaviour.base_seconds
        self._expected += answered

    def _wait(self) -> bool:
        """Whether the next run of a slow model has to wait for more.

        The first of those who were answered together would start a run by itself, and the others would wait
        for the end of it. Who asks alone does not wait.
        """
        left = self._until - perf_counter()
        if left <= 0 or len(self.queue) >= min(self._expected, self._behaviour.max_rows):
            self._expected = 0
            if self._waiting is not None:
                self._waiting.cancel()
                self._waiting = None
            return False
        if self._waiting is None:
            self._waiting = self.loop.call_later(left, self._waited)
        return True

    def _waited(self) -> None:
        self._waiting, self._expected = None, 0
        if not self._scheduled:
            self._tick()

    def _next_group(self) -> tuple[list[InferRequest], int]:
        """From the head of the queue: what may share a run, without what nobody waits for."""
        queue = self.queue
        limit = self._behaviour.most(queue[0].key)
        if not limit and self._behaviour.limits is not None and len(queue) > 1:
            self._measure(queue[0])
        if len(queue) <= limit and not self._uneven:
            # All of one key, one row each, no deadline: the usual case.
            alike = [request for request in queue if not request.cancelled]
            queue.clear()
            return alike, len(alike)
        now = perf_counter()
        group: list[InferRequest] = []
        rows = 0
        key: Any = None
        while queue:
            request = queue[0]
            if request.cancelled:
                queue.popleft()
                continue
            if request.deadline is not None and request.deadline < now:
                queue.popleft()
                request.reply(request, _too_late(request, now))
                continue
            if group and (request.key != key or rows + request.rows > limit):
                break
            queue.popleft()
            group.append(request)
            rows += request.rows
            key = request.key
        return group, rows

    def _measure(self, request: InferRequest) -> None:
        """Rows of this shape run alone until it is known how many may run together."""
        behaviour, key = self._behaviour, request.key
        limits = behaviour.limits
        if limits is None or key is ALONE or key in limits or len(limits) >= MAX_KEYS:
            return
        limits[key] = 0
        self.executor.submit(compare_shape, request.model, key)

    def _start_thread(self, group: list[InferRequest], rows: int) -> None:
        self.running += 1
        self.in_threads += len(group)

        def work() -> None:
            outcome = run_group(group, rows)
            self.loop.call_soon_threadsafe(done, outcome)

        def done(outcome: list[tuple[list[InferRequest], Batch | SlipwayError]]) -> None:
            self.running -= 1
            self.in_threads -= len(group)
            self._expect(len(group))
            if self.queue and not self._scheduled:
                self._scheduled = True
                self.loop.call_soon(self._tick)
            for requests, result in outcome:
                self._deliver(requests, result)

        self.executor.submit(work)

    def _deliver(self, requests: list[InferRequest], outcome: Batch | SlipwayError) -> None:
        if not isinstance(outcome, Batch):
            for request in requests:
                if not request.cancelled:
                    request.reply(request, outcome)
            return
        outcome.delivering = perf_counter()
        bulk = requests[0].bulk
        if bulk is not None and all([request.bulk is bulk for request in requests]):  # noqa: C419 - half a generator's time
            bulk(requests, outcome)
            self.observer(requests[0].model, requests, outcome)
            return
        start = 0
        single = len(requests) == 1
        for request in requests:
            stop = outcome.rows if single else start + request.rows
            if not request.cancelled:
                request.reply(request, InferResponse(request, outcome, start, stop))
            start = stop
        self.observer(requests[0].model, requests, outcome)


def _run_here(group: list[InferRequest], rows: int) -> list[tuple[list[InferRequest], Batch | SlipwayError]]:
    """As `run_group`, on the loop's thread: in bound memory where there is some."""
    first = group[0]
    model, key = first.model, first.key
    runner = model.runner
    if rows > MAX_ROWS or not runner.usable or key is ALONE:
        return run_group(group, rows)
    started = perf_counter()
    data: Any = first.inputs[0].data
    if len(group) > 1:
        data = b"".join([request.inputs[0].data for request in group])  # type: ignore[misc]
    bound = runner.run(key, data, rows)
    if bound is not None:
        ran = perf_counter() - started
        return [(group, Batch([bound.input], bound.arrays, rows, started, ran, borrowed=True))]
    outcomes = run_group(group, rows)
    if len(outcomes) == 1 and isinstance(batch := outcomes[0][1], Batch):
        runner.learn(model, key, batch.inputs[0], batch.arrays)
    return outcomes


def run_group(group: list[InferRequest], rows: int) -> list[tuple[list[InferRequest], Batch | SlipwayError]]:
    """Run them together; when that fails, each by itself, so that a bad request fails alone."""
    started = perf_counter()
    model = group[0].model
    try:
        feeds = model.feeds(group, rows)
        arrays = model.run(feeds)
        if len(group) == 1 or all(array.shape[0] == rows for array in arrays):
            return [(group, Batch(list(feeds.values()), arrays, rows, started, perf_counter() - started))]
        model.behaviour.batchable = False
        model.behaviour.reason = "an output does not have a row for each row of input"
        failure: SlipwayError = ModelFailed(model.behaviour.reason, where=f"model {model.name}")
    except SlipwayError as error:
        failure = error
    except Exception as error:
        failure = ModelFailed(f"running it failed: {error!r}", where=f"model {model.name}")
    if len(group) == 1:
        return [(group, failure)]
    return [outcome for request in group for outcome in run_group([request], request.rows)]


def _too_late(request: InferRequest, now: float) -> ServingError:
    return DeadlineExceeded(
        f"the deadline passed {(now - (request.deadline or now)) * 1000:.0f} ms ago, in the queue",
        where=f"model {request.model.name}",
        fix="give it longer, or add replicas",
    )
