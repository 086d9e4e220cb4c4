"""The models of one server: what is there, what is loaded, and loading what is asked for."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Literal

from serving.runtime.config import Config
from serving.runtime.memory import Measured, give_back
from serving.runtime.model import Model
from serving.runtime.storage import Place, Storage, find_models
from serving.runtime.warmup import warm_up
from slipway.baseline import parse_baseline
from slipway.contract import (
    BASELINE_FILE,
    CONTRACT_FILE,
    METADATA_KEY,
    ModelContract,
    check_agreement,
    prefix_digest,
)
from slipway.errors import (
    ContractMismatch,
    ModelNotFound,
    ModelNotReady,
    ObjectCorrupt,
    Overloaded,
    SlipwayError,
)

log = logging.getLogger("slipway.repository")

SESSION_BYTES = 1 << 20
_TOGETHER = "write the contract from the graph that is published"
_GIVE_BACK_SECONDS = 1.0
"""After a model was let go: one trim serves all that go meanwhile."""
State = Literal["UNLOADED", "LOADING", "READY", "UNAVAILABLE"]


@dataclass(slots=True)
class Entry:
    """One version of one model, loaded or not."""

    place: Place
    state: State = "UNLOADED"
    reason: str = "not loaded yet"
    fix: str | None = None
    """What to do about the reason, when loading failed."""
    model: Model | None = None
    proven: bool = False
    """It has been loaded before: it may be the default even while it is not in memory."""
    needs: int = 0
    """Bytes that it took when it was loaded last; 0: not known."""
    loading: asyncio.Future[Model] | None = field(default=None, repr=False)


class Repository:
    def __init__(
        self,
        storage: Storage,
        config: Config,
        executor: Executor,
        *,
        adopt: Callable[[Model], None],
    ) -> None:
        self.storage = storage
        self.config = config
        self.executor = executor
        self.adopt = adopt
        """Called with every model that was loaded, before it serves."""
        self.entries: dict[str, dict[str, Entry]] = {}
        self.serving: dict[tuple[str, str], Model] = {}
        """Loaded models by name and version; version "" is the one that is served when none is named."""
        self.startup_settled = False
        self._measuring = threading.Lock()
        self._giving_back = False

    # -- asking ------------------------------------------------------------------------------------

    def find(self, name: str, version: str = "") -> Model | None:
        """The model if it can answer right now."""
        return self.serving.get((name, version))

    def entry(self, name: str, version: str = "") -> Entry:
        versions = self.entries.get(name)
        if not versions and not self.startup_settled:
            raise ModelNotReady("models are being looked for", where=f"model {name}", fix="ask again soon")
        if not versions:
            raise ModelNotFound(
                f"there is no model {name!r}",
                where=self.storage.where,
                fix="the repository index lists all models",
            )
        if not version:
            return self._default(versions)
        if version not in versions:
            raise ModelNotFound(
                f"model {name!r} has no version {version!r}",
                where=self.storage.where,
                fix=f"it has {', '.join(sorted(versions))}",
            )
        return versions[version]

    @staticmethod
    def _default(versions: dict[str, Entry]) -> Entry:
        """The newest that has been loaded; while there is none, the newest that may be.

        So a version that has just appeared takes over when it can answer, not before.
        """
        usable = [entry for entry in versions.values() if entry.state != "UNAVAILABLE" or entry.model]
        proven = [entry for entry in usable if entry.proven]
        return max(proven or usable or versions.values(), key=lambda entry: entry.place.order)

    async def acquire(self, name: str, version: str = "") -> Model:
        """The model, loaded now if need be."""
        model = self.find(name, version)
        if model is not None:
            return model
        entry = self.entry(name, version)
        if entry.model is not None:
            return entry.model
        if entry.state == "UNAVAILABLE":
            fix = entry.fix or "load it through the repository API"
            raise ModelNotReady(entry.reason, where=f"model {name}", fix=fix)
        return await self._load_entry(entry)

    def index(self) -> list[Entry]:
        return [versions[key] for _, versions in sorted(self.entries.items()) for key in sorted(versions)]

    def versions(self, name: str) -> list[str]:
        return sorted(self.entries.get(name, {}), key=lambda version: self.entries[name][version].place.order)

    @property
    def ready(self) -> bool:
        """All that should be loaded at start is settled, and something can be served."""
        if not self.startup_settled:
            return False
        if self.config.load == "none":
            return True
        return bool(self.serving) or not self.entries

    # -- loading -----------------------------------------------------------------------------------

    async def start(self) -> None:
        await self.follow()
        self.startup_settled = True

    async def follow(self) -> None:
        """Look again, and load what has appeared: all of it, or where requests come on demand, new versions
        of what is served already.
        """
        await self.refresh()
        for versions in list(self.entries.values()):
            served = any(entry.proven for entry in versions.values())
            for entry in list(versions.values()):
                fresh = entry.state == "UNLOADED" and not entry.proven
                if fresh and (served or self.config.load == "all"):
                    await self._try(entry)

    async def _try(self, entry: Entry) -> None:
        try:
            await self._load_entry(entry, evict=False)
        except SlipwayError as error:
            log.warning("%s/%s: %s", entry.place.name, entry.place.version, error)

    async def refresh(self) -> None:
        """Look again at what is there. What is new appears; what is gone goes, once nobody needs it."""
        loop = asyncio.get_running_loop()
        places = await loop.run_in_executor(self.executor, self._scan)
        seen: set[tuple[str, str]] = set()
        for place in places:
            seen.add((place.name, place.version))
            versions = self.entries.setdefault(place.name, {})
            entry = versions.get(place.version)
            if entry is None:
                versions[place.version] = Entry(place)
            elif entry.place.fingerprint != place.fingerprint:
                entry.place, entry.needs = place, 0
                if entry.model is not None:
                    await self._reload(entry)
                elif entry.state == "UNAVAILABLE":
                    entry.state, entry.reason = "UNLOADED", "changed since it failed to load"
                    entry.proven = False
        for name in list(self.entries):
            for version in list(self.entries[name]):
                if (name, version) not in seen:
                    self._forget(name, version)

    def _scan(self) -> list[Place]:
        return find_models(self.storage.listing(), name=self.config.model_name, where=self.storage.where)

    async def _reload(self, entry: Entry) -> None:
        """The old one serves until the new one can; it stays when the new one cannot be loaded."""
        try:
            await self._load_entry(entry, again=True)
        except SlipwayError as error:
            entry.state = "READY"
            entry.reason = f"serving what was loaded before; the new content is refused: {error.what}"
            log.warning("%s/%s keeps its old content: %s", entry.place.name, entry.place.version, error)

    def _forget(self, name: str, version: str) -> None:
        entry = self.entries[name].pop(version)
        self._let_go(entry)
        if not self.entries[name]:
            del self.entries[name]
        self._index_serving(name)

    async def load(self, name: str) -> None:
        """The repository API's load: look again, then load every version anew or for the first time."""
        await self.refresh()
        self.entry(name)
        failures = []
        for entry in list(self.entries[name].values()):
            if entry.model is not None:
                continue
            try:
                await self._load_entry(entry)
            except SlipwayError as error:
                failures.append(error)
        if failures and not any(entry.model for entry in self.entries[name].values()):
            raise failures[0]

    def unload(self, name: str) -> None:
        self.entry(name)
        for entry in self.entries[name].values():
            self._let_go(entry)
            entry.state, entry.reason = "UNAVAILABLE", "unloaded through the repository API"
            entry.fix = None
        self._index_serving(name)

    async def _load_entry(self, entry: Entry, *, again: bool = False, evict: bool = True) -> Model:
        """One load at a time for an entry; whoever else asks meanwhile waits for the same one."""
        if entry.loading is not None:
            return await asyncio.shield(entry.loading)
        loop = asyncio.get_running_loop()
        entry.loading = loop.create_future()
        # Nobody else may be waiting: then its exception is not one that was never retrieved.
        entry.loading.add_done_callback(lambda future: future.cancelled() or future.exception())
        if not again:
            entry.state, entry.reason = "LOADING", "being loaded"
        try:
            self._make_room(entry.needs or memory_of(entry.place), entry, evict=evict)
            model = await loop.run_in_executor(self.executor, self._build, entry.place)
            entry.needs = model.memory
            self._make_room(entry.needs, entry, evict=evict)
            self.adopt(model)
        except BaseException as error:
            kind = (
                error if isinstance(error, SlipwayError) else ModelNotReady(f"loading it failed: {error!r}")
            )
            # Want of memory passes; all else stays until the content changes or somebody asks for a load.
            entry.state = "UNLOADED" if isinstance(error, Overloaded) else "UNAVAILABLE"
            entry.reason, entry.fix = kind.what, kind.fix
            failure = ModelNotReady(kind.what, where=kind.where or f"model {entry.place.name}", fix=kind.fix)
            entry.loading.set_exception(failure)
            entry.loading = None
            self._index_serving(entry.place.name)
            if isinstance(error, Exception):
                # One model that cannot be had must not end the server, whatever is wrong with it.
                raise failure from error
            raise
        self._let_go(entry)
        entry.model = model
        entry.proven = True
        entry.state, entry.reason = "READY", model.behaviour.reason
        self._index_serving(entry.place.name)
        entry.loading.set_result(model)
        entry.loading = None
        return model

    def _index_serving(self, name: str) -> None:
        for key in [key for key in self.serving if key[0] == name]:
            del self.serving[key]
        versions = self.entries.get(name, {})
        for version, entry in versions.items():
            if entry.model is not None:
                self.serving[(name, version)] = entry.model
        if versions:
            newest = self._default(versions)
            if newest.model is not None:
                self.serving[(name, "")] = newest.model

    def _let_go(self, entry: Entry) -> None:
        """Requests in flight hold the model until they are answered; then its memory goes back."""
        if entry.model is None:
            return
        entry.model = None
        if not self._giving_back:
            self._giving_back = True
            asyncio.get_running_loop().call_later(_GIVE_BACK_SECONDS, self._give_back)

    def _give_back(self) -> None:
        self._giving_back = False
        with contextlib.suppress(RuntimeError):  # the server has ended meanwhile
            self.executor.submit(give_back)

    def _make_room(self, needed: int, newcomer: Entry, *, evict: bool) -> None:
        budget = self.config.memory_budget
        if not budget:
            return
        loaded = [entry for entry in self.index() if entry.model is not None and entry is not newcomer]
        used = sum(entry.model.memory for entry in loaded if entry.model)
        loaded.sort(key=lambda entry: entry.model.last_used if entry.model else 0.0)
        while used + needed > budget and loaded and evict:
            entry = loaded.pop(0)
            used -= entry.model.memory if entry.model else 0
            self._let_go(entry)
            entry.state, entry.reason = "UNLOADED", "made room for another model; a request loads it again"
            self._index_serving(entry.place.name)
        if used + needed > budget:
            raise Overloaded(
                f"it needs {needed} bytes, the memory budget has {budget - used} left",
                where=f"model {newcomer.place.name}",
                fix="raise --memory-budget",
            )

    # -- building; runs in a thread ----------------------------------------------------------------

    def _build(self, place: Place) -> Model:
        where = f"{self.storage.where}/{place.prefix}".rstrip("/")
        names = {file.path for file in place.files}
        raw = self.storage.read(place.prefix + place.model_file)
        contract_text = self.storage.read(place.prefix + CONTRACT_FILE) if CONTRACT_FILE in names else None
        digest = self._digest(place, raw, contract_text, where)
        path = self.storage.local_path(place.prefix + place.model_file) if weight_files(place) else None
        weights = {}
        if path is None:
            weights = {name: self.storage.read(place.prefix + name) for name in weight_files(place)}
        with self._measuring, Measured() as measured:
            model = Model(
                place.name,
                place.version,
                raw if path is None else path,
                threads=self.config.intra_op_threads,
                digest=digest,
                weights=weights,
            )
            self._check(model, place, contract_text, names, where)
            warm_up(model, raw, max_rows=self.config.max_batch_rows, batching=self.config.batching)
        model.last_used = perf_counter()
        # Weights that are mapped from a file are not allocated, and in memory all the same.
        model.memory = max(measured.bytes, sum(file.size for file in place.files))
        return model

    def _check(
        self, model: Model, place: Place, contract_text: bytes | None, names: set[str], where: str
    ) -> None:
        if contract_text is not None:
            model.contract = check_agreement(contract_text, model.metadata, where=where)
            check_graph(model, model.contract, where)
        elif METADATA_KEY in model.metadata:
            raise ContractMismatch(
                f"the model carries a contract, but no {CONTRACT_FILE} lies beside it",
                where=where,
                fix="publish the prefix again; the contract is written last, so it may not be complete yet",
            )
        if BASELINE_FILE in names:
            text = self.storage.read(place.prefix + BASELINE_FILE)
            model.extras["baseline"] = parse_baseline(text, where=f"{where}/{BASELINE_FILE}")

    def _digest(self, place: Place, raw: bytes, contract: bytes | None, where: str) -> str:
        """The digest of the version; a folder that is named by a digest must have it."""
        known = {place.model_file: raw, CONTRACT_FILE: contract}
        names = [file.path for file in place.files]
        if contract is None:
            weights = weight_files(place)
            if not weights:
                return hashlib.sha256(raw).hexdigest()
            names = [place.model_file, *weights]
        digests = {}
        for name in names:
            content = known.get(name)
            if content is None:
                content = self.storage.read(place.prefix + name)
            digests[name] = hashlib.sha256(content).hexdigest()
        digest = prefix_digest(digests)
        if len(place.version) == 64 and place.version != digest:
            raise ObjectCorrupt(
                f"its files have the digest {digest}, its folder says {place.version}",
                where=where,
                fix="copy or publish the version again; its files are immutable",
            )
        return digest


def weight_files(place: Place) -> list[str]:
    """What may hold weights of the graph: files beside it that are nothing else."""
    return [file.path for file in place.files if not file.path.endswith((".onnx", ".html", ".json"))]


def memory_of(place: Place) -> int:
    """What a version is taken to need before it has been loaded, from the size of its files.

    What it took is measured then: 1.1 MB more than its file for the smallest session, 22 MB for a perceptron
    of 21 MB, 34 MB for a small convolutional network, whose batches take more than its weights.
    """
    return SESSION_BYTES + sum(file.size for file in place.files)


def check_graph(model: Model, contract: ModelContract, where: str) -> None:
    """The contract's tensors must be those of the graph."""
    for what, promised, actual in (
        ("input", contract.inputs, model.inputs),
        ("output", contract.outputs, model.outputs),
    ):
        specs = {spec.name: spec for spec in actual}
        if [tensor.name for tensor in promised] != list(specs):
            raise ContractMismatch(
                f"the contract names the {what}s {[t.name for t in promised]}, the graph {list(specs)}",
                where=where,
                fix=_TOGETHER,
            )
        for tensor in promised:
            spec = specs[tensor.name]
            if tensor.dtype != spec.datatype.name:
                raise ContractMismatch(
                    f"{what} {tensor.name!r} is {tensor.dtype} in the contract, "
                    f"{spec.datatype.name} in the graph",
                    where=where,
                    fix=_TOGETHER,
                )
            if spec.shape is not None and (
                len(spec.shape) != len(tensor.shape)
                or any(-1 not in (a, b) and a != b for a, b in zip(spec.shape, tensor.shape, strict=True))
            ):
                raise ContractMismatch(
                    f"{what} {tensor.name!r} has shape {list(tensor.shape)} in the contract, "
                    f"{spec.public_shape} in the graph",
                    where=where,
                    fix=_TOGETHER,
                )


def describe(entry: Entry) -> dict[str, Any]:
    """An entry as the repository index shows it."""
    state = {"UNLOADED": "UNAVAILABLE"}.get(entry.state, entry.state)
    return {"name": entry.place.name, "version": entry.place.version, "state": state, "reason": entry.reason}
