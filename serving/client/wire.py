"""HTTP/1.1 for the asynchronous client: one request and its answer on an asyncio stream."""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
from collections.abc import Mapping

from serving.client.calls import Reply

MAX_HEAD = 64 << 10
_STATUS_LINE = re.compile(r"HTTP/1\.[01] (\d{3})(?: |$)")


class BadAnswer(ConnectionError):
    """Not HTTP/1.1, or cut off."""


class Stream:
    """A kept connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.reusable = True

    @classmethod
    async def open(cls, host: str, port: int, tls: ssl.SSLContext | None) -> Stream:
        return cls(*await asyncio.open_connection(host, port, ssl=tls, limit=MAX_HEAD))

    @property
    def alive(self) -> bool:
        return self.reusable and not self._reader.at_eof() and not self._writer.is_closing()

    def close(self) -> None:
        self.reusable = False
        self._writer.close()

    async def exchange(
        self, method: str, target: str, host: str, headers: Mapping[str, str], body: bytes
    ) -> Reply:
        # Whatever goes wrong from here, the rest of this answer may still be on its way: never use it again.
        self.reusable = False
        lines = [f"{method} {target} HTTP/1.1", f"host: {host}", f"content-length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self._writer.write("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body)
        # Who refuses a body may hang up before it has read it: the answer is there all the same.
        with contextlib.suppress(ConnectionError):
            await self._writer.drain()
        while True:
            status, found = await self._head()
            if status >= 200:
                break
        content, self.reusable = await self._body(method, status, found)
        return Reply(status, found, content)

    async def _head(self) -> tuple[int, dict[str, str]]:
        try:
            head = await self._reader.readuntil(b"\r\n\r\n")
            first, *lines = head[:-4].decode("latin-1").split("\r\n")
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            raise BadAnswer(f"no HTTP/1.1 answer: {error}") from error
        found = _STATUS_LINE.match(first)
        if found is None:
            raise BadAnswer(f"no HTTP/1.1 answer: {first[:80]!r}")
        pairs = (line.partition(":") for line in lines)
        return int(found[1]), {name.strip().lower(): value.strip() for name, _, value in pairs}

    async def _body(self, method: str, status: int, headers: Mapping[str, str]) -> tuple[bytes, bool]:
        """The content, and whether the connection may be used again."""
        keep = headers.get("connection", "").lower() != "close"
        try:
            if method == "HEAD" or status in (204, 304):
                return b"", keep
            if headers.get("transfer-encoding", "").lower() == "chunked":
                return await self._chunks(), keep
            if "content-length" in headers:
                return await self._reader.readexactly(int(headers["content-length"])), keep
            return await self._reader.read(), False
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError) as error:
            raise BadAnswer(f"the answer was cut off: {error}") from error

    async def _chunks(self) -> bytes:
        parts = []
        while size := int((await self._reader.readuntil(b"\r\n")).split(b";")[0], 16):
            parts.append((await self._reader.readexactly(size + 2))[:-2])
        while (await self._reader.readuntil(b"\r\n")) != b"\r\n":
            pass
        return b"".join(parts)
