"""Which requests share a run of a model that is too slow for the loop. The threads are the test's own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

import numpy as np
import pytest

from serving.runtime.bound import Runner
from serving.runtime.lane import PATIENCE, Lane
from serving.runtime.messages import Batch, InferRequest, InferResponse, Tensor
from serving.runtime.model import Behaviour, Model
from slipway.errors import SlipwayError
from tests.support.models import echo

STALL = 1.5
"""Seconds a run takes, and so the patience with those who may come back: more than a busy machine stalls."""


class Threads(Executor):
    """Runs begin when they are submitted, and end when the test says so."""

    def __init__(self) -> None:
        self.begun: list[Callable[[], None]] = []

    def submit(self, work: Any, *arguments: Any, **more: Any) -> Future[Any]:
        self.begun.append(work)
        return Future()


class Slow:
    """A model whose runs take `seconds`, and those who ask it."""

    def __init__(self, seconds: float, *, batchable: bool = True, most: int = 8) -> None:
        self.model = Model("slow", "1", echo("FP32").SerializeToString())
        self.model.behaviour = Behaviour(batchable, most, "as the test says", seconds, 0.0)
        self.model.runner = Runner(self.model)
        self.threads = Threads()
        self.sizes: list[int] = []
        """Requests in each run that has ended."""
        self.answers: dict[str, float] = {}
        self.lane = self.model.lane = Lane(
            self.model,
            asyncio.get_running_loop(),
            self.threads,
            max_queue=100,
            concurrency=2,
            observer=self._ran,
        )

    def _ran(self, model: Model, requests: list[InferRequest], batch: Batch) -> None:
        self.sizes.append(len(requests))

    def _reply(self, request: InferRequest, result: InferResponse | SlipwayError) -> None:
        assert isinstance(result, InferResponse)
        self.answers[request.id] = float(result.array(0)[0, 0])

    async def ask(self, *numbers: int) -> None:
        """All in one tick; returns after the next."""
        for number in numbers:
            tensor = Tensor("x", "FP32", (1, 1), np.float32(number).tobytes())
            request = InferRequest(self.model, [tensor], self._reply, id=str(number))
            self.model.admit(request)
            self.lane.submit(request)
        await ticks()

    async def end(self) -> None:
        """The run that has run for longest."""
        self.threads.begun.pop(0)()
        await ticks()


async def ticks() -> None:
    for _ in range(4):
        await asyncio.sleep(0)


async def test_who_was_answered_together_is_waited_for() -> None:
    slow = Slow(60.0)
    await slow.ask(1, 2, 3)
    await slow.end()
    assert slow.sizes == [3]
    await slow.ask(4)
    await slow.ask(5)
    assert not slow.threads.begun
    await slow.ask(6)
    assert len(slow.threads.begun) == 1
    await slow.ask(7)  # nobody else is expected by now
    assert len(slow.threads.begun) == 2
    await slow.end()
    await slow.end()
    assert slow.sizes == [3, 3, 1]
    assert slow.answers == {str(number): number for number in range(1, 8)}


async def test_those_who_do_not_come_back_are_not_waited_for_long() -> None:
    slow = Slow(STALL)
    await slow.ask(1, 2, 3)
    await slow.end()
    await slow.ask(4)
    assert not slow.threads.begun
    await asyncio.sleep(STALL * PATIENCE + 0.05)
    assert len(slow.threads.begun) == 1
    await slow.end()
    await asyncio.sleep(STALL * PATIENCE + 0.05)
    await slow.ask(5)  # the time is over before anybody asks
    await slow.end()
    assert slow.sizes == [3, 1, 1]
    assert slow.answers["5"] == 5


async def test_an_expectation_that_was_never_met_is_forgotten() -> None:
    slow = Slow(STALL)
    await slow.ask(1, 2)
    await slow.ask(3, 4)
    await slow.end()
    await asyncio.sleep(STALL * PATIENCE + 0.05)  # those two stay away
    await slow.end()
    await slow.ask(5)
    assert not slow.threads.begun
    await slow.ask(6)
    assert len(slow.threads.begun) == 1


async def test_no_more_are_waited_for_than_fit_into_a_run() -> None:
    slow = Slow(60.0, most=4)
    await slow.ask(1, 2, 3, 4)
    await slow.ask(5, 6, 7)
    assert len(slow.threads.begun) == 2
    await slow.end()
    await slow.end()  # seven are expected, four are as many as may run
    await slow.ask(11, 12, 13)
    assert not slow.threads.begun
    await slow.ask(14)
    assert len(slow.threads.begun) == 1
    await slow.end()
    assert slow.sizes == [4, 3, 4]


@pytest.mark.parametrize(("seconds", "batchable"), [(60.0, True), (60.0, False), (0.0011, True)])
async def test_who_asks_alone_does_not_wait(seconds: float, batchable: bool) -> None:
    slow = Slow(seconds, batchable=batchable)
    for number in range(3):
        await slow.ask(number)
        assert len(slow.threads.begun) == 1
        await slow.end()
    assert slow.sizes == [1, 1, 1]


async def test_a_model_whose_rows_run_alone_never_waits() -> None:
    slow = Slow(60.0, batchable=False)
    await slow.ask(1, 2)
    assert len(slow.threads.begun) == 2
    await slow.end()
    await slow.ask(3)
    assert len(slow.threads.begun) == 2
