"""HTTP/1.1 on asyncio.Protocol."""

from serving.runtime.http1.body import Chunks, decompress
from serving.runtime.http1.connection import CLOSE, JSON_TYPE, STATUS_LINES, Connection, Exchange, Server
from serving.runtime.http1.head import Head, parse_head

__all__ = [
    "CLOSE",
    "JSON_TYPE",
    "STATUS_LINES",
    "Chunks",
    "Connection",
    "Exchange",
    "Head",
    "Server",
    "decompress",
    "parse_head",
]
