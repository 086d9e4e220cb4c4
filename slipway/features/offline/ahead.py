"""Work on one batch while the next is read."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterator
from typing import TypeVar, cast

T = TypeVar("T")
_DEPTH = 2
"""Batches that are ready and not yet taken: each is memory, and more than one is rarely of use."""


def ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items, made by a thread of their own from now on; what it raises is raised here."""
    ready: queue.Queue[tuple[str, object]] = queue.Queue(_DEPTH)
    stopped = threading.Event()

    def put(kind: str, item: object = None) -> None:
        while not stopped.is_set():
            with contextlib.suppress(queue.Full):
                ready.put((kind, item), timeout=0.1)
                return

    def make() -> None:
        try:
            for item in items:
                put("item", item)
                if stopped.is_set():
                    return
        except BaseException as error:
            put("error", error)
        else:
            put("end")

    thread = threading.Thread(target=make, name="slipway-read-ahead", daemon=True)
    thread.start()

    def take() -> Iterator[T]:
        try:
            while True:
                kind, item = ready.get()
                if kind == "end":
                    return
                if kind == "error":
                    raise cast(BaseException, item)
                yield cast(T, item)
        finally:
            stopped.set()
            thread.join()

    return take()
