"""The gRPC clients; they need grpcio (the extra `client-grpc`). Tensors travel as raw contents."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any, TypeVar

import grpc

from serving.client import grpc_messages
from serving.client.grpc_messages import Call
from serving.client.retry import AGAIN, Attempts, Retry
from serving.client.verbs import Awaited, Base, Waiting
from slipway.errors import (
    DeadlineExceeded,
    Forbidden,
    InvalidRequest,
    ModelFailed,
    ModelNotFound,
    Overloaded,
    PayloadTooLarge,
    ServerUnreachable,
    ServingError,
    Unauthorized,
)

T = TypeVar("T")
_SERVICE = "/inference.GRPCInferenceService/"
_LIMITS = [("grpc.max_receive_message_length", 1 << 30), ("grpc.max_send_message_length", 1 << 30)]
_BY_CODE: dict[grpc.StatusCode, type[ServingError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.OUT_OF_RANGE: PayloadTooLarge,
    grpc.StatusCode.UNAUTHENTICATED: Unauthorized,
    grpc.StatusCode.PERMISSION_DENIED: Forbidden,
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


class _Address(Base):
    _calls = grpc_messages

    def __init__(
        self,
        address: str = "127.0.0.1:8081",
        *,
        timeout: float = 10.0,
        retry: Retry | None = None,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        """`timeout` is for a whole call, with its retries; `headers` go as metadata; `credentials`: TLS."""
        super().__init__(timeout, retry, token, headers)
        self.address = address
        self._credentials = credentials

    def _open(self, channels: Any) -> Any:
        """`channels`: grpc, or grpc.aio."""
        if self._credentials is None:
            return channels.insecure_channel(self.address, _LIMITS)
        return channels.secure_channel(self.address, self._credentials, _LIMITS)

    def _send(self, channel: Any, call: Call[T], attempts: Attempts) -> Any:
        return channel.unary_unary(_SERVICE + call.method)(
            call.message, timeout=attempts.remaining(), metadata=tuple(self._headers.items())
        )

    def _pause(self, error: grpc.RpcError, call: Call[T], attempts: Attempts) -> float:
        """Seconds after which to ask again; raises what it means when that would not help."""
        refused = _error(error, self.address)
        pause = attempts.wait(refused) if call.retries and isinstance(refused, AGAIN) else None
        if pause is None:
            raise refused from error
        return pause


class GrpcClient(_Address, Waiting):
    """As Client, over gRPC. Safe to share between threads."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._channel = self._open(grpc)

    def close(self) -> None:
        self._channel.close()

    def _do(self, call: Call[T], timeout: float | None) -> T:
        attempts = Attempts(self._retry, self._timeout if timeout is None else timeout)
        while True:
            try:
                return call.read(self._send(self._channel, call, attempts))
            except grpc.RpcError as error:
                if error.code() == grpc.StatusCode.NOT_FOUND and call.if_unknown is not None:
                    return call.if_unknown
                pause = self._pause(error, call, attempts)
            time.sleep(pause)


class AsyncGrpcClient(_Address, Awaited):
    """As AsyncClient, over gRPC; for one event loop."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._channel = self._open(grpc.aio)

    async def close(self) -> None:
        await self._channel.close()

    async def _do(self, call: Call[T], timeout: float | None) -> T:
        attempts = Attempts(self._retry, self._timeout if timeout is None else timeout)
        while True:
            try:
                return call.read(await self._send(self._channel, call, attempts))
            except grpc.RpcError as error:
                if error.code() == grpc.StatusCode.NOT_FOUND and call.if_unknown is not None:
                    return call.if_unknown
                pause = self._pause(error, call, attempts)
            await asyncio.sleep(pause)
