"""Bodies that do not come as they are: chunked, or compressed."""

from __future__ import annotations

import zlib

from slipway.errors import InvalidRequest, PayloadTooLarge, ServingError

MAX_CHUNK_LINE = 1024


class UnsupportedEncoding(ServingError):
    status = 415


class Chunks:
    """Reads a chunked body; strict about its lines, because a proxy in front must agree on where it ends."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.parts: list[bytes] = []
        self.size = 0
        self._buffer = b""
        self._missing = 0
        self._state = "size"
        self._trailer = 0

    def feed(self, data: bytes) -> bytes | None:
        """None: more must come. Else what follows the body."""
        buffer = self._buffer + data if self._buffer else data
        position = 0
        while True:
            if self._state == "data":
                piece = buffer[position : position + self._missing]
                self.parts.append(piece)
                position += len(piece)
                self._missing -= len(piece)
                if self._missing:
                    break
                self._state = "end"
            if self._state == "end":
                if len(buffer) - position < 2:
                    break
                if buffer[position : position + 2] != b"\r\n":
                    raise InvalidRequest("a chunk is longer than its size says", where="the chunked body")
                position += 2
                self._state = "size"
            line_end = buffer.find(b"\r\n", position)
            if line_end < 0:
                if len(buffer) - position > MAX_CHUNK_LINE:
                    raise InvalidRequest("a line of the chunked body does not end", where="the chunked body")
                break
            line = buffer[position:line_end]
            position = line_end + 2
            if self._state == "size":
                self._read_size(line)
            elif not line:
                return buffer[position:]
            else:
                self._trailer += len(line)
                if self._trailer > 8 * MAX_CHUNK_LINE:
                    raise InvalidRequest("the trailer is too long", where="the chunked body")
        self._buffer = buffer[position:]
        return None

    def _read_size(self, line: bytes) -> None:
        digits = line.partition(b";")[0].rstrip(b" \t")
        if not digits or len(digits) > 15 or digits.strip(b"0123456789abcdefABCDEF") or b"\n" in line:
            raise InvalidRequest(f"{line[:40]!r} is no chunk size", where="the chunked body")
        self._missing = int(digits, 16)
        self.size += self._missing
        if self.size > self.limit:
            raise too_large(self.limit)
        self._state = "data" if self._missing else "trailer"

    def body(self) -> bytes:
        return b"".join(self.parts)


def too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(
        f"the body is longer than {limit} bytes", fix="send fewer rows at once, or raise --max-body"
    )


def decompress(body: bytes, encoding: bytes, limit: int) -> bytes:
    """gzip and deflate, never to more than a body may have."""
    if encoding == b"identity":
        return body
    if encoding not in (b"gzip", b"deflate", b"x-gzip"):
        raise UnsupportedEncoding(
            f"content encoding {encoding.decode('latin-1')!r}", fix="use gzip, deflate or none"
        )
    reader = zlib.decompressobj(47 if encoding != b"deflate" or body[:1] == b"\x78" else -15)
    try:
        plain = reader.decompress(body, limit + 1)
    except zlib.error as error:
        raise InvalidRequest(f"the body is not {encoding.decode()}: {error}") from None
    if len(plain) > limit:
        raise too_large(limit)
    if not reader.eof or reader.unused_data:
        raise InvalidRequest(f"the {encoding.decode()} body is cut off, or something follows it")
    return plain
