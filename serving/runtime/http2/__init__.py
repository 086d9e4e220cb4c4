"""HTTP/2 for servers (RFC 9113, RFC 7541), made for gRPC: prior knowledge or ALPN, no push, no priorities."""

from serving.runtime.http2.codes import ErrorCode
from serving.runtime.http2.connection import Application, Connection
from serving.runtime.http2.front import Front
from serving.runtime.http2.limits import Limits
from serving.runtime.http2.request import RequestHead
from serving.runtime.http2.stream import Headers, Stream

__all__ = ["Application", "Connection", "ErrorCode", "Front", "Headers", "Limits", "RequestHead", "Stream"]
