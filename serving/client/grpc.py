"""The gRPC clients; they need grpcio (the extra `client-grpc`). Tensors travel as raw contents."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import grpc
import numpy as np

from serving.client import protobuf
from serving.client.answer import Answer
from serving.client.calls import ModelMetadata, ModelState
from serving.client.grpc_messages import infer_message, is_true, named, read_answer, read_index, read_metadata
from serving.client.retry import AGAIN, Attempts, Retry
from serving.client.tensors import TensorLike
from slipway.errors import (
    DeadlineExceeded,
    InvalidRequest,
    ModelFailed,
    ModelNotFound,
    Overloaded,
    PayloadTooLarge,
    ServerUnreachable,
    ServingError,
    Unauthorized,
)

_SERVICE = "/inference.GRPCInferenceService/"
_LIMITS = [("grpc.max_receive_message_length", 1 << 30), ("grpc.max_send_message_length", 1 << 30)]
_BY_CODE: dict[grpc.StatusCode, type[ServingError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.OUT_OF_RANGE: PayloadTooLarge,
    grpc.StatusCode.UNAUTHENTICATED: Unauthorized,
    grpc.StatusCode.PERMISSION_DENIED: Unauthorized,
    grpc.StatusCode.NOT_FOUND: ModelNotFound,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Overloaded,
    grpc.StatusCode.UNAVAILABLE: ServerUnreachable,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.INTERNAL: ModelFailed,
}


def _error(error: grpc.RpcError, address: str) -> ServingError:
    kind = _BY_CODE.get(error.code(), ServingError)
    trailers = dict(error.trailing_metadata() or ())
    text = error.details() or error.code().name
    try:
        wait = float(trailers["retry-after"])
    except (KeyError, ValueError):
        return kind(text, where=address)
    return Overloaded(text, where=address, retry_after=wait)


class _Base:
    def __init__(
        self,
        address: str = "127.0.0.1:8081",
        *,
        timeout: float = 10.0,
        retry: Retry | None = None,
        token: str | None = None,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        """`timeout` is for a whole call, with its retries; `credentials` make it TLS."""
        self.address = address
        self._timeout = timeout
        self._retry = retry or Retry()
        self._headers = (("authorization", f"Bearer {token}"),) if token else ()
        self._metadata: dict[tuple[str, str | None], ModelMetadata] = {}
        self._credentials = credentials


def _needs_metadata(inputs: Mapping[str, TensorLike]) -> bool:
    return not all(isinstance(value, np.ndarray) for value in inputs.values())


class GrpcClient(_Base):
    """As Client, over gRPC. Safe to share between threads."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        if self._credentials is None:
            self._channel = grpc.insecure_channel(self.address, _LIMITS)
        else:
            self._channel = grpc.secure_channel(self.address, self._credentials, _LIMITS)

    def __enter__(self) -> GrpcClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._channel.close()

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
        described = self.metadata(model, version, timeout=timeout) if _needs_metadata(inputs) else None
        message = infer_message(model, inputs, version, outputs, id, parameters, described)
        try:
            return read_answer(self._do("ModelInfer", message, timeout))
        except InvalidRequest:
            self._metadata.pop((model, version), None)
            raise

    def metadata(
        self, model: str, version: str | None = None, *, timeout: float | None = None
    ) -> ModelMetadata:
        key = (model, version)
        if key not in self._metadata:
            self._metadata[key] = read_metadata(self._do("ModelMetadata", named(model, version), timeout))
        return self._metadata[key]

    def live(self, *, timeout: float | None = None) -> bool:
        return self._state("ServerLive", b"", timeout)

    def ready(
        self, model: str | None = None, version: str | None = None, *, timeout: float | None = None
    ) -> bool:
        if model is None:
            return self._state("ServerReady", b"", timeout)
        return self._state("ModelReady", named(model, version), timeout)

    def models(self, *, only_ready: bool = False, timeout: float | None = None) -> list[ModelState]:
        return read_index(self._do("RepositoryIndex", protobuf.flag(2, only_ready), timeout))

    def load(self, model: str, *, timeout: float | None = None) -> None:
        self._do("RepositoryModelLoad", protobuf.text(2, model), timeout)

    def unload(self, model: str, *, timeout: float | None = None) -> None:
        self._do("RepositoryModelUnload", protobuf.text(2, model), timeout)

    def _state(self, method: str, message: bytes, timeout: float | None) -> bool:
        try:
            return is_true(self._do(method, message, timeout, retries=False))
        except ModelNotFound:
            return False

    def _do(self, method: str, message: bytes, timeout: float | None, retries: bool = True) -> bytes:
        attempts = Attempts(self._retry, self._timeout if timeout is None else timeout)
        call = self._channel.unary_unary(_SERVICE + method)
        while True:
            try:
                answer: bytes = call(message, timeout=attempts.remaining(), metadata=self._headers)
            except grpc.RpcError as error:
                refused = _error(error, self.address)
                pause = attempts.wait(refused) if retries and isinstance(refused, AGAIN) else None
                if pause is None:
                    raise refused from error
            else:
                return answer
            time.sleep(pause)


class AsyncGrpcClient(_Base):
    """As AsyncClient, over gRPC; for one event loop."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        if self._credentials is None:
            self._channel = grpc.aio.insecure_channel(self.address, _LIMITS)
        else:
            self._channel = grpc.aio.secure_channel(self.address, self._credentials, _LIMITS)

    async def __aenter__(self) -> AsyncGrpcClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._channel.close()

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
        described = await self.metadata(model, version, timeout=timeout) if _needs_metadata(inputs) else None
        message = infer_message(model, inputs, version, outputs, id, parameters, described)
        try:
            return read_answer(await self._do("ModelInfer", message, timeout))
        except InvalidRequest:
            self._metadata.pop((model, version), None)
            raise

    async def metadata(
        self, model: str, version: str | None = None, *, timeout: float | None = None
    ) -> ModelMetadata:
        key = (model, version)
        if key not in self._metadata:
            answer = await self._do("ModelMetadata", named(model, version), timeout)
            self._metadata[key] = read_metadata(answer)
        return self._metadata[key]

    async def live(self, *, timeout: float | None = None) -> bool:
        return await self._state("ServerLive", b"", timeout)

    async def ready(
        self, model: str | None = None, version: str | None = None, *, timeout: float | None = None
    ) -> bool:
        if model is None:
            return await self._state("ServerReady", b"", timeout)
        return await self._state("ModelReady", named(model, version), timeout)

    async def models(self, *, only_ready: bool = False, timeout: float | None = None) -> list[ModelState]:
        return read_index(await self._do("RepositoryIndex", protobuf.flag(2, only_ready), timeout))

    async def load(self, model: str, *, timeout: float | None = None) -> None:
        await self._do("RepositoryModelLoad", protobuf.text(2, model), timeout)

    async def unload(self, model: str, *, timeout: float | None = None) -> None:
        await self._do("RepositoryModelUnload", protobuf.text(2, model), timeout)

    async def _state(self, method: str, message: bytes, timeout: float | None) -> bool:
        try:
            return is_true(await self._do(method, message, timeout, retries=False))
        except ModelNotFound:
            return False

    async def _do(self, method: str, message: bytes, timeout: float | None, retries: bool = True) -> bytes:
        attempts = Attempts(self._retry, self._timeout if timeout is None else timeout)
        call = self._channel.unary_unary(_SERVICE + method)
        while True:
            try:
                answer: bytes = await call(message, timeout=attempts.remaining(), metadata=self._headers)
            except grpc.RpcError as error:
                refused = _error(error, self.address)
                pause = attempts.wait(refused) if retries and isinstance(refused, AGAIN) else None
                if pause is None:
                    raise refused from error
            else:
                return answer
            await asyncio.sleep(pause)
