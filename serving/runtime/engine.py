"""The engine: what both fronts call. It owns the models, their queues, and what is counted about them.

A front decodes a request with `InferRequest(model, inputs, reply, …)` and hands it to `submit`; `reply` is
called on the loop with an InferResponse or an error. Everything else (ready, metadata, index, load, unload)
is a plain method, so that REST and gRPC cannot drift apart.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from serving.runtime.bound import Runner
from serving.runtime.config import Config
from serving.runtime.drift import Drift
from serving.runtime.features import FeatureJoiner
from serving.runtime.lane import Lane
from serving.runtime.messages import Batch, InferRequest, Rows, columns_of
from serving.runtime.metrics import Metrics
from serving.runtime.model import Model
from serving.runtime.repository import Entry, Repository, describe
from serving.runtime.storage import Storage
from serving.runtime.workers import Siblings
from slipway import __version__
from slipway.errors import ModelNotReady, SlipwayError
from slipway.processors import processors

log = logging.getLogger("slipway.engine")
SERVER_NAME = "slipway"
EXTENSIONS = ("binary_tensor_data", "model_repository", "slipway_entity_features")


class Engine:
    def __init__(self, config: Config, storage: Storage, loop: asyncio.AbstractEventLoop) -> None:
        self.config = config
        self.loop = loop
        self.cpus = processors()
        self.concurrency = config.concurrency or self.cpus
        self.runs = ThreadPoolExecutor(self.concurrency, thread_name_prefix="run")
        self.loads = ThreadPoolExecutor(2, thread_name_prefix="load")
        self.repository = Repository(storage, config, self.loads, adopt=self._adopt)
        self.draining = False
        self.failed: Exception | None = None
        """What ended the start; the process ends with it."""
        self.siblings: Siblings | None = None
        self._observers: list[Callable[[Model, list[InferRequest], Batch], None]] = []
        self._row_observers: list[Callable[[Model, Rows], None]] = []
        self._adopters: list[Callable[[Model], None]] = []
        self.metrics = Metrics(self)
        self.drift = Drift(self)
        self.metrics.extra.append(self.drift.expose)
        self.features = FeatureJoiner(self)

    # -- inference ---------------------------------------------------------------------------------

    def submit(self, request: InferRequest) -> None:
        """Queue it. Raises a SlipwayError at once for what is wrong with it; else `reply` will be called."""
        model = request.model
        if model.lookup is not None and request.features is None:
            numbers = model.input_numbers
            if request.columns is None and any(tensor.name not in numbers for tensor in request.inputs):
                request.columns = columns_of(request)
            if request.columns is not None:
                self.features.join(request)
                return
        model.admit(request)
        model.lane.submit(request)

    def find(self, name: str, version: str = "") -> Model | None:
        """The model if it is loaded: the hot path. Else `await acquire(…)`."""
        return self.repository.serving.get((name, version))

    async def acquire(self, name: str, version: str = "") -> Model:
        """The model, loaded now if it may be; raises ModelNotFound or ModelNotReady."""
        return await self.repository.acquire(name, version)

    def on_batch(
        self,
        observer: Callable[[Model, list[InferRequest], Batch], None],
        rows: Callable[[Model, Rows], None] | None,
    ) -> None:
        """`observer` is called once for every run, after its answers went out; `rows` where the requests were
        no objects: None for one who wants to know what such requests never have, a trace.
        """
        self._observers.append(observer)
        if rows is not None:
            self._row_observers.append(rows)

    def on_load(self, adopter: Callable[[Model], None]) -> None:
        self._adopters.append(adopter)

    def _adopt(self, model: Model) -> None:
        model.runner = Runner(model)
        model.lane = Lane(
            model,
            self.loop,
            self.runs,
            max_queue=self.config.max_queue,
            concurrency=self.concurrency,
            observer=self._observe,
        )
        for adopter in self._adopters:
            adopter(model)

    def _observe(self, model: Model, requests: list[InferRequest], batch: Batch) -> None:
        model.last_used = batch.started
        try:
            for observer in self._observers:
                observer(model, requests, batch)
        except Exception:
            # The answers are out, and others wait for their turn.
            log.exception("counting a run failed")

    def observe_rows(self, model: Model, rows: Rows) -> None:
        model.last_used = rows.started
        try:
            for observer in self._row_observers:
                observer(model, rows)
        except Exception:
            log.exception("counting a run failed")

    # -- the rest of the protocol ------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        return not self.draining and self.repository.ready

    def not_ready_reason(self) -> str:
        """Why `ready` is false."""
        if self.draining:
            return "draining: no new requests"
        if not self.repository.startup_settled:
            return "models are being loaded"
        return "no model could be loaded: " + "; ".join(
            f"{entry.place.name}/{entry.place.version}: {entry.reason}" for entry in self.repository.index()
        )

    def server_metadata(self) -> dict[str, Any]:
        return {"name": SERVER_NAME, "version": __version__, "extensions": list(EXTENSIONS)}

    def model_ready(self, name: str, version: str = "") -> bool:
        """Whether it can answer; raises ModelNotFound when there is no such model."""
        return self.repository.entry(name, version).model is not None

    async def model_metadata(self, name: str, version: str = "") -> dict[str, Any]:
        model = await self.acquire(name, version)
        versions = [version] if version else self.repository.versions(name)
        return {
            "name": model.name,
            "versions": versions,
            "platform": "onnxruntime_onnx",
            "inputs": [
                {"name": spec.name, "datatype": spec.datatype.name, "shape": spec.public_shape}
                for spec in model.inputs
            ],
            "outputs": [
                {"name": spec.name, "datatype": spec.datatype.name, "shape": spec.public_shape}
                for spec in model.outputs
            ],
        }

    def index(self, *, ready_only: bool = False) -> list[dict[str, Any]]:
        entries: list[Entry] = self.repository.index()
        return [describe(entry) for entry in entries if entry.model is not None or not ready_only]

    async def load(self, name: str) -> None:
        """Load, or look again and load anew what has changed; in all workers."""
        if self.draining:
            raise ModelNotReady("the server is shutting down", where=f"model {name}")
        await self.load_here(name)
        if self.siblings is not None:
            await self.siblings.tell("load", name)

    async def unload(self, name: str) -> None:
        await self.unload_here(name)
        if self.siblings is not None:
            await self.siblings.tell("unload", name)

    async def load_here(self, name: str) -> None:
        await self.repository.load(name)

    async def unload_here(self, name: str) -> None:
        self.repository.unload(name)

    async def exposition(self) -> bytes:
        """All metrics, of all workers."""
        own = self.metrics.exposition()
        return own if self.siblings is None else await self.siblings.metrics(own)

    # -- life --------------------------------------------------------------------------------------

    async def start(self) -> None:
        await self.repository.start()
        if self.config.poll_seconds > 0:
            self._poller = self.loop.create_task(self._poll())

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(self.config.poll_seconds)
            try:
                await self.repository.follow()
            except SlipwayError as error:
                log.warning("cannot look for new models: %s", error)

    def busy(self) -> bool:
        return any(entry.model is not None and not entry.model.lane.idle for entry in self.repository.index())

    def close(self) -> None:
        self.runs.shutdown(wait=False, cancel_futures=True)
        self.loads.shutdown(wait=False, cancel_futures=True)
