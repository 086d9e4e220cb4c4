"""The REST clients: one that waits and one that is awaited, with the same calls."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import ssl
import threading
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import urlsplit

import numpy as np

from serving.client import calls
from serving.client.answer import Answer
from serving.client.calls import Call, ModelMetadata, ModelState, Reply
from serving.client.retry import AGAIN, Attempts, Retry
from serving.client.tensors import TensorLike
from serving.client.wire import Stream
from slipway.errors import InvalidRequest, ServerUnreachable

T = TypeVar("T")
_IDLE = 16
"""Connections kept for the next call; more callers than that at once open their own."""


class _Base:
    def __init__(
        self,
        url: str = "http://127.0.0.1:8080",
        *,
        timeout: float = 10.0,
        retry: Retry | None = None,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """`timeout` is for a whole call, with its retries; each call may give its own."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InvalidRequest(
                f"{url!r} is no address of a server", where="the client", fix="write http://HOST:PORT"
            )
        self.url = url
        self._tls = (tls or ssl.create_default_context()) if parts.scheme == "https" else None
        self._host = parts.hostname
        self._port = parts.port or (443 if self._tls else 80)
        self._authority = parts.netloc.rpartition("@")[2]
        self._prefix = parts.path.rstrip("/")
        self._timeout = timeout
        self._retry = retry or Retry()
        self._headers = dict(headers or {})
        if token:
            self._headers["authorization"] = f"Bearer {token}"
        self._metadata: dict[tuple[str, str | None], ModelMetadata] = {}

    def _unreachable(self, error: Exception) -> ServerUnreachable:
        return ServerUnreachable(
            f"no answer: {str(error) or type(error).__name__}",
            where=self.url,
            fix="is the server up, and is this its address?",
        )


def _needs_metadata(inputs: Mapping[str, TensorLike]) -> bool:
    return not all(isinstance(value, np.ndarray) for value in inputs.values())


class Client(_Base):
    """Safe to share between threads.

    with Client("http://127.0.0.1:8080") as client:
        answer = client.infer("flights", {"carrier": ["UA"], "distance": [1400.0]})
        answer["probabilities"], answer.receipt.model_digest
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._idle: list[http.client.HTTPConnection] = []
        self._lock = threading.Lock()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

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
        call = calls.infer(
            model,
            inputs,
            version=version,
            outputs=outputs,
            id=id,
            parameters=parameters,
            metadata=described,
        )
        try:
            return self._do(call, timeout)
        except InvalidRequest:
            # The model may have been replaced by one that eats other types.
            self._metadata.pop((model, version), None)
            raise

    def metadata(
        self, model: str, version: str | None = None, *, timeout: float | None = None
    ) -> ModelMetadata:
        """What the model eats and answers; asked once."""
        key = (model, version)
        if key not in self._metadata:
            self._metadata[key] = self._do(calls.metadata(model, version), timeout)
        return self._metadata[key]

    def server(self, *, timeout: float | None = None) -> dict[str, Any]:
        return self._do(calls.server(), timeout)

    def live(self, *, timeout: float | None = None) -> bool:
        return self._do(calls.live(), timeout)

    def ready(
        self, model: str | None = None, version: str | None = None, *, timeout: float | None = None
    ) -> bool:
        return self._do(calls.ready(model, version), timeout)

    def models(self, *, only_ready: bool = False, timeout: float | None = None) -> list[ModelState]:
        return self._do(calls.index(only_ready), timeout)

    def load(self, model: str, *, timeout: float | None = None) -> None:
        self._do(calls.change(model, "load"), timeout)

    def unload(self, model: str, *, timeout: float | None = None) -> None:
        self._do(calls.change(model, "unload"), timeout)

    def _do(self, call: Call[T], timeout: float | None) -> T:
        attempts = Attempts(self._retry, self._timeout if timeout is None else timeout)
        while True:
            try:
                return call.read(self._send(call, attempts))
            except AGAIN as error:
                pause = attempts.wait(error) if call.retries else None
                if pause is None:
                    raise
            time.sleep(pause)

    def _send(self, call: Call[T], attempts: Attempts) -> Reply:
        with self._lock:
            kept = self._idle.pop() if self._idle else None
        if kept is not None:
            # The server may have closed it meanwhile; that costs nothing but a new connection.
            with contextlib.suppress(ConnectionError, http.client.BadStatusLine):
                return self._exchange(kept, call, attempts)
        if self._tls is None:
            fresh = http.client.HTTPConnection(self._host, self._port)
        else:
            fresh = http.client.HTTPSConnection(self._host, self._port, context=self._tls)
        try:
            return self._exchange(fresh, call, attempts)
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from error

    def _exchange(self, connection: http.client.HTTPConnection, call: Call[T], attempts: Attempts) -> Reply:
        try:
            connection.timeout = attempts.remaining()
            if connection.sock is not None:
                connection.sock.settimeout(connection.timeout)
            # Who refuses a body may hang up before it has read it: the answer is there all the same.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.request(
                    call.method,
                    self._prefix + call.path,
                    body=call.body or None,
                    headers={**self._headers, **call.headers},
                )
            response = connection.getresponse()
            content = _read(connection, response, attempts)
        except TimeoutError:
            connection.close()
            raise attempts.late() from None
        except BaseException:
            connection.close()
            raise
        with self._lock:
            keep = not response.will_close and len(self._idle) < _IDLE
            if keep:
                self._idle.append(connection)
        if not keep:
            connection.close()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return Reply(response.status, headers, content)


def _read(
    connection: http.client.HTTPConnection, response: http.client.HTTPResponse, attempts: Attempts
) -> bytes:
    """The whole body, with the deadline looked at after each piece: drops must not stretch it."""
    parts = []
    while chunk := response.read1(1 << 20):
        parts.append(chunk)
        if connection.sock is not None:
            connection.sock.settimeout(attempts.remaining())
    # read1 ends quietly where the connection did, and leaves a finished answer open.
    if response.length:
        raise ConnectionResetError(f"{response.length} bytes of the answer did not come")
    response.close()
    return b"".join(parts)


class AsyncClient(_Base):
    """The same calls, awaited; for one event loop.

    async with AsyncClient("http://127.0.0.1:8080") as client:
        answers = await asyncio.gather(*(client.infer("flights", row) for row in rows))
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._idle: list[Stream] = []

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        while self._idle:
            self._idle.pop().close()
        await asyncio.sleep(0)

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
        call = calls.infer(
            model,
            inputs,
            version=version,
            outputs=outputs,
            id=id,
            parameters=parameters,
            metadata=described,
        )
        try:
            return await self._do(call, timeout)
        except InvalidRequest:
            self._metadata.pop((model, version), None)
            raise

    async def metadata(
        self, model: str, version: str | None = None, *, timeout: float | None = None
    ) -> ModelMetadata:
        key = (model, version)
        if key not in self._metadata:
            self._metadata[key] = await self._do(calls.metadata(model, version), timeout)
        return self._metadata[key]

    async def server(self, *, timeout: float | None = None) -> dict[str, Any]:
        return await self._do(calls.server(), timeout)

    async def live(self, *, timeout: float | None = None) -> bool:
        return await self._do(calls.live(), timeout)

    async def ready(
        self, model: str | None = None, version: str | None = None, *, timeout: float | None = None
    ) -> bool:
        return await self._do(calls.ready(model, version), timeout)

    async def models(self, *, only_ready: bool = False, timeout: float | None = None) -> list[ModelState]:
        return await self._do(calls.index(only_ready), timeout)

    async def load(self, model: str, *, timeout: float | None = None) -> None:
        await self._do(calls.change(model, "load"), timeout)

    async def unload(self, model: str, *, timeout: float | None = None) -> None:
        await self._do(calls.change(model, "unload"), timeout)

    async def _do(self, call: Call[T], timeout: float | None) -> T:
        attempts = Attempts(self._retry, self._timeout if timeout is None else timeout)
        while True:
            try:
                async with asyncio.timeout(attempts.remaining()):
                    reply = await self._send(call)
                return call.read(reply)
            except TimeoutError:
                raise attempts.late() from None
            except AGAIN as error:
                pause = attempts.wait(error) if call.retries else None
                if pause is None:
                    raise
            await asyncio.sleep(pause)

    async def _send(self, call: Call[T]) -> Reply:
        while self._idle:
            kept = self._idle.pop()
            if kept.alive:
                with contextlib.suppress(ConnectionError):
                    return await self._exchange(kept, call)
            kept.close()
        try:
            return await self._exchange(await Stream.open(self._host, self._port, self._tls), call)
        except OSError as error:
            raise self._unreachable(error) from error

    async def _exchange(self, stream: Stream, call: Call[T]) -> Reply:
        try:
            reply = await stream.exchange(
                call.method,
                self._prefix + call.path,
                self._authority,
                {**self._headers, **call.headers},
                call.body,
            )
        except BaseException:
            stream.close()
            raise
        if stream.reusable and len(self._idle) < _IDLE:
            self._idle.append(stream)
        else:
            stream.close()
        return reply
