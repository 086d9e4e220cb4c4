"""The shapes of methods, and the unary one whose messages are dictionaries."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from serving.runtime.grpc.call import Call
from serving.runtime.grpc.protobuf import Message
from serving.runtime.grpc.status import CallFailed, Status

Answer = Mapping[str, Any]
Handler = Callable[[dict[str, Any]], Answer | Awaitable[Answer]]
Guard = Callable[[Call, dict[str, Any]], None]
"""Asks the access policy about a message; raises Unauthorized or Forbidden."""


class Unary:
    """One message in, one out."""

    unary = True
    client_streaming = False
    long = False
    """Long calls have no deadline of the server's own."""

    def call(self, call: Call, data: bytes, start: int, stop: int) -> None:
        raise NotImplementedError


class Streaming:
    """Messages come until `end`; answers may go out at any time."""

    unary = False
    client_streaming = True
    long = True

    def open(self, call: Call) -> None:
        """The headers are here."""

    def message(self, call: Call, message: bytes) -> None:
        raise NotImplementedError

    def end(self, call: Call) -> None:
        """The client has sent all."""
        call.finish()


class Plain(Unary):
    """Messages by descriptor; the handler may be a coroutine."""

    def __init__(
        self, handler: Handler, request: Message, response: Message, guard: Guard | None = None
    ) -> None:
        self._handler = handler
        self._request = request
        self._response = response
        self._guard = guard

    def call(self, call: Call, data: bytes, start: int, stop: int) -> None:
        request = decode(self._request, data, start, stop)
        if self._guard is not None:
            self._guard(call, request)
        answer = self._handler(request)
        if inspect.isawaitable(answer):
            call.application.spawn(call, self._later(call, answer))
        else:
            call.reply(self._response.encode(answer))

    async def _later(self, call: Call, answer: Awaitable[Answer]) -> None:
        call.reply(self._response.encode(await answer))


def decode(schema: Message, data: bytes, start: int = 0, stop: int | None = None) -> dict[str, Any]:
    try:
        return schema.decode(data, start, stop)
    except ValueError as error:
        raise not_a(schema.name, error) from None


def not_a(name: str, error: ValueError) -> CallFailed:
    return CallFailed(Status.INVALID_ARGUMENT, f"the message is no {name}: {error}")
