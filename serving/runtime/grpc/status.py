"""gRPC's status codes, what our errors mean in them, and how messages travel in a header."""

from __future__ import annotations

import logging
from enum import IntEnum

from serving.runtime.http2 import Headers
from slipway import errors

log = logging.getLogger("slipway.grpc")

_MESSAGE_LIMIT = 2048
"""Clients take 8 KiB of headers; an error names what matters at its beginning."""

CONTENT_TYPE = (b"content-type", b"application/grpc")
STATUS_OK = (b":status", b"200")


class Status(IntEnum):
    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class CallFailed(Exception):
    """A failure that is gRPC's own, with no class in the tree of slipway.errors: a call that is not known,
    a compression that is not spoken."""

    def __init__(self, status: Status, message: str, headers: Headers = ()) -> None:
        self.status = status
        self.message = message
        self.headers = headers
        super().__init__(message)


# By what the caller must do: the HTTP statuses of the same classes, in gRPC's words.
_BY_HTTP = {
    400: Status.INVALID_ARGUMENT,
    401: Status.UNAUTHENTICATED,
    403: Status.PERMISSION_DENIED,
    404: Status.NOT_FOUND,
    405: Status.UNIMPLEMENTED,
    409: Status.FAILED_PRECONDITION,
    413: Status.RESOURCE_EXHAUSTED,
    429: Status.RESOURCE_EXHAUSTED,
    500: Status.INTERNAL,
    501: Status.UNIMPLEMENTED,
    503: Status.UNAVAILABLE,
    504: Status.DEADLINE_EXCEEDED,
}


def explain(error: BaseException) -> tuple[Status, str, Headers]:
    """Status, message and further trailers for an exception."""
    if isinstance(error, CallFailed):
        return error.status, error.message, error.headers
    if isinstance(error, errors.ServingError):
        extra: Headers = ()
        if isinstance(error, errors.Overloaded):
            # What gRPC's retry policy reads: when to try again.
            extra = ((b"grpc-retry-pushback-ms", b"%d" % int(error.retry_after * 1000)),)
        return _BY_HTTP.get(error.status, Status.INTERNAL), str(error), extra
    if isinstance(error, errors.SlipwayError):
        return Status.UNAVAILABLE, str(error), ()
    if isinstance(error, MemoryError):
        return Status.RESOURCE_EXHAUSTED, "there is not enough memory for this request", ()
    log.exception("a call failed in a way that is a fault of the server", exc_info=error)
    return Status.INTERNAL, f"the server failed on this call: {error!r}", ()


def kind_of(error: BaseException) -> str:
    """What an error is counted as: the name of its class, as on the REST port."""
    if isinstance(error, CallFailed):
        return error.status.name.title().replace("_", "")
    return type(error).__name__ if isinstance(error, errors.SlipwayError) else errors.ModelFailed.__name__


def trailers(status: Status, message: str, extra: Headers = ()) -> Headers:
    head: Headers = ((b"grpc-status", b"%d" % status),)
    if message:
        head = (*head, (b"grpc-message", escape(message[:_MESSAGE_LIMIT])))
    return (*head, *extra)


def escape(message: str) -> bytes:
    """UTF-8 in percent encoding: all but printable ASCII, and the percent sign."""
    raw = message.encode("utf-8", "replace")
    if raw.isascii() and b"%" not in raw and raw.decode().isprintable():
        return raw
    return b"".join(
        bytes((byte,)) if 0x20 <= byte <= 0x7E and byte != 0x25 else b"%%%02X" % byte for byte in raw
    )
