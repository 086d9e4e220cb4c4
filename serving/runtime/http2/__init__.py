"""HTTP/2 for servers (RFC 9113, RFC 7541), made for gRPC: prior knowledge or ALPN, no push, no priorities."""

from serving.runtime.http2.codes import ErrorCode
from serving.runtime.http2.connection import Application, Connection
from serving.runtime.http2.front import Front
from serving.runtime.http2.hpack import Fields, Headers, literal
from serving.runtime.http2.limits import Limits
from serving.runtime.http2.patterns import Found
from serving.runtime.http2.request import RequestHead
from serving.runtime.http2.sender import respond_all
from serving.runtime.http2.sheets import Form, answer_rows, respond_rows
from serving.runtime.http2.stream import Stream

__all__ = [
    "Application",
    "Connection",
    "ErrorCode",
    "Fields",
    "Form",
    "Found",
    "Front",
    "Headers",
    "Limits",
    "RequestHead",
    "Stream",
    "answer_rows",
    "literal",
    "respond_all",
    "respond_rows",
]
