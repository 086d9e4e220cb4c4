"""The calls of every client, over either protocol: once waiting, once awaited.

A client names the module that makes its calls (`calls` for REST, `grpc_messages` for gRPC) and carries out
one call (`_do`); all else is here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np

from serving.client.answer import Answer
from serving.client.calls import ModelMetadata, ModelState
from serving.client.retry import Retry
from serving.client.tensors import TensorLike
from slipway.errors import InvalidRequest


def _needs_metadata(inputs: Mapping[str, TensorLike]) -> bool:
    """Lists become what the model's metadata says; arrays are sent as they are."""
    return not all(isinstance(value, np.ndarray) for value in inputs.values())


class Base:
    _calls: Any
    """A module with a function for each verb, which says what to send and how to read what comes back."""

    def __init__(
        self, timeout: float, retry: Retry | None, token: str | None, headers: Mapping[str, str] | None
    ) -> None:
        self._timeout = timeout
        self._retry = retry or Retry()
        self._headers = dict(headers or {})
        if token:
            self._headers["authorization"] = f"Bearer {token}"
        self._metadata: dict[tuple[str, str | None], ModelMetadata] = {}


class Waiting(Base):
    """Calls that return when the answer is there."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        raise NotImplementedError

    def _do(self, call: Any, timeout: float | None) -> Any:
        raise NotImplementedError

    def infer(
        self,
        model: str,
        inputs: Mapping[str, TensorLike],
        *,
        version: str | None = None,
        outputs: Sequence[str] | None = None,
        id: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        timeout: float | None = None,
    ) -> Answer:
        """Arrays are sent as they are; lists become what the model's metadata says.

        For a model with a feature service, `inputs` may hold the entity columns and the request's own fields
        in place of tensors: the server joins the features.
        """
        described = self.metadata(model, version, timeout=timeout) if _needs_metadata(inputs) else None
        call = self._calls.infer(model, inputs, version, outputs, id, parameters, described)
        try:
            answer: Answer = self._do(call, timeout)
        except InvalidRequest:
            # The model may have been replaced by one that eats other types.
            self._metadata.pop((model, version), None)
            raise
        return answer

    def metadata(
        self, model: str, version: str | None = None, *, timeout: float | None = None
    ) -> ModelMetadata:
        """What the model eats and answers; asked once."""
        key = (model, version)
        if key not in self._metadata:
            self._metadata[key] = self._do(self._calls.metadata(model, version), timeout)
        return self._metadata[key]

    def server(self, *, timeout: float | None = None) -> dict[str, Any]:
        found: dict[str, Any] = self._do(self._calls.server(), timeout)
        return found

    def live(self, *, timeout: float | None = None) -> bool:
        return bool(self._do(self._calls.live(), timeout))

    def ready(
        self, model: str | None = None, version: str | None = None, *, timeout: float | None = None
    ) -> bool:
        return bool(self._do(self._calls.ready(model, version), timeout))

    def models(self, *, only_ready: bool = False, timeout: float | None = None) -> list[ModelState]:
        found: list[ModelState] = self._do(self._calls.index(only_ready), timeout)
        return found

    def load(self, model: str, *, timeout: float | None = None) -> None:
        self._do(self._calls.change(model, "load"), timeout)

    def unload(self, model: str, *, timeout: float | None = None) -> None:
        self._do(self._calls.change(model, "unload"), timeout)


class Awaited(Base):
    """The same calls, awaited; for one event loop."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        raise NotImplementedError

    async def _do(self, call: Any, timeout: float | None) -> Any:
        raise NotImplementedError

    async def infer(
        self,
        model: str,
        inputs: Mapping[str, TensorLike],
        *,
        version: str | None = None,
        outputs: Sequence[str] | None = None,
        id: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        timeout: float | None = None,
    ) -> Answer:
        """As Client.infer."""
        described = await self.metadata(model, version, timeout=timeout) if _needs_metadata(inputs) else None
        call = self._calls.infer(model, inputs, version, outputs, id, parameters, described)
        try:
            answer: Answer = await self._do(call, timeout)
        except InvalidRequest:
            self._metadata.pop((model, version), None)
            raise
        return answer

    async def metadata(
        self, model: str, version: str | None = None, *, timeout: float | None = None
    ) -> ModelMetadata:
        key = (model, version)
        if key not in self._metadata:
            self._metadata[key] = await self._do(self._calls.metadata(model, version), timeout)
        return self._metadata[key]

    async def server(self, *, timeout: float | None = None) -> dict[str, Any]:
        found: dict[str, Any] = await self._do(self._calls.server(), timeout)
        return found

    async def live(self, *, timeout: float | None = None) -> bool:
        return bool(await self._do(self._calls.live(), timeout))

    async def ready(
        self, model: str | None = None, version: str | None = None, *, timeout: float | None = None
    ) -> bool:
        return bool(await self._do(self._calls.ready(model, version), timeout))

    async def models(self, *, only_ready: bool = False, timeout: float | None = None) -> list[ModelState]:
        found: list[ModelState] = await self._do(self._calls.index(only_ready), timeout)
        return found

    async def load(self, model: str, *, timeout: float | None = None) -> None:
        await self._do(self._calls.change(model, "load"), timeout)

    async def unload(self, model: str, *, timeout: float | None = None) -> None:
        await self._do(self._calls.change(model, "unload"), timeout)
