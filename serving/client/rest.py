"""The REST clients: one that waits and one that is awaited, with the same calls."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import ssl
import threading
import time
from collections.abc import Mapping
from typing import Any, TypeVar
from urllib.parse import urlsplit

from serving.client import calls
from serving.client.calls import Call, Reply
from serving.client.retry import AGAIN, Attempts, Retry
from serving.client.verbs import Awaited, Base, Waiting
from serving.client.wire import Stream
from slipway.errors import InvalidRequest, ServerUnreachable

T = TypeVar("T")
_IDLE = 16
"""Connections kept for the next call; more callers than that at once open their own."""


class _Address(Base):
    _calls = calls

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
        super().__init__(timeout, retry, token, headers)
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

    def _unreachable(self, error: Exception) -> ServerUnreachable:
        return ServerUnreachable(
            f"no answer: {str(error) or type(error).__name__}",
            where=self.url,
            fix="is the server up, and is this its address?",
        )


class Client(_Address, Waiting):
    """Safe to share between threads.

    with Client("http://127.0.0.1:8080") as client:
        answer = client.infer("flights", {"carrier": ["UA"], "distance": [1400.0]})
        answer["probabilities"], answer.receipt.model_digest
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._idle: list[http.client.HTTPConnection] = []
        self._lock = threading.Lock()

    def close(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

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


class AsyncClient(_Address, Awaited):
    """The same calls, awaited; for one event loop.

    async with AsyncClient("http://127.0.0.1:8080") as client:
        answers = await asyncio.gather(*(client.infer("flights", row) for row in rows))
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._idle: list[Stream] = []

    async def close(self) -> None:
        while self._idle:
            self._idle.pop().close()
        await asyncio.sleep(0)

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
