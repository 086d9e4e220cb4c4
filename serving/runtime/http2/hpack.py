"""HPACK (RFC 7541): header compression with a table that both ends keep.

Both directions count the changes of their table. While it does not change, the same bytes mean the same
headers: the connection keeps whole decoded blocks by their bytes, the encoder whole encoded blocks by
their headers. gRPC clients repeat a block of 10 bytes for every call, and pay one look-up.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from functools import lru_cache

from serving.runtime.http2.codes import ConnectionFault, ErrorCode
from serving.runtime.http2.huffman import decode as huffman_decode

Header = tuple[bytes, bytes]
Headers = Sequence[Header]


class Fields:
    """Headers that are sent again and again, told apart by identity: hashing eight of them takes 1 us."""

    __slots__ = ("headers",)

    def __init__(self, *headers: Header) -> None:
        self.headers = headers


DEFAULT_TABLE_SIZE = 4096
ENTRY_OVERHEAD = 32
"""Section 4.1: what an entry counts beside its bytes."""

_LARGEST_INTEGER = 2**28
_INDEXED = re.compile(rb"[\x81-\xfe]{1,64}")
"""Fields that are in a table, with an index of one byte."""
_KEPT_RUNS = 64
_ENCODER_CACHE = 64

STATIC_TABLE: tuple[Header, ...] = (
    (b":authority", b""),
    (b":method", b"GET"),
    (b":method", b"POST"),
    (b":path", b"/"),
    (b":path", b"/index.html"),
    (b":scheme", b"http"),
    (b":scheme", b"https"),
    *((b":status", status) for status in (b"200", b"204", b"206", b"304", b"400", b"404", b"500")),
    (b"accept-charset", b""),
    (b"accept-encoding", b"gzip, deflate"),
    *(
        (name, b"")
        for name in (
            b"accept-language accept-ranges accept access-control-allow-origin age allow authorization "
            b"cache-control content-disposition content-encoding content-language content-length "
            b"content-location content-range content-type cookie date etag expect expires from host if-match "
            b"if-modified-since if-none-match if-range if-unmodified-since last-modified link location "
            b"max-forwards proxy-authenticate proxy-authorization range referer refresh retry-after server "
            b"set-cookie strict-transport-security transfer-encoding user-agent vary via www-authenticate"
        ).split()
    ),
)
_STATIC_COUNT = len(STATIC_TABLE)
_STATIC_WHOLE = {header: index for index, header in reversed(list(enumerate(STATIC_TABLE, 1)))}
_STATIC_NAMES = {header[0]: index for index, header in reversed(list(enumerate(STATIC_TABLE, 1)))}


class _Table:
    """The dynamic table: newest first, evicting the oldest when the size is passed."""

    __slots__ = ("capacity", "changes", "entries", "size")

    def __init__(self) -> None:
        self.entries: deque[Header] = deque()
        self.size = 0
        self.capacity = DEFAULT_TABLE_SIZE
        self.changes = 0

    def add(self, header: Header) -> None:
        self.changes += 1
        self.entries.appendleft(header)
        self.size += len(header[0]) + len(header[1]) + ENTRY_OVERHEAD
        self._evict()

    def resize(self, capacity: int) -> None:
        self.changes += 1
        self.capacity = capacity
        self._evict()

    def _evict(self) -> None:
        while self.size > self.capacity:
            name, value = self.entries.pop()
            self.size -= len(name) + len(value) + ENTRY_OVERHEAD


def _bad(reason: str) -> ConnectionFault:
    return ConnectionFault(ErrorCode.COMPRESSION_ERROR, reason)


class HeaderDecoder:
    __slots__ = ("_list_limit", "_runs", "_runs_of", "_table")

    def __init__(self, list_limit: int) -> None:
        self._table = _Table()
        self._list_limit = list_limit
        self._runs: dict[bytes, tuple[list[Header], int]] = {}
        """What blocks begin with, as long as the table stays: clients put what changes (ids) behind it."""
        self._runs_of = 0

    @property
    def changes(self) -> int:
        """Grows whenever the table changes; equal numbers mean equal tables."""
        return self._table.changes

    def decode(self, block: bytes) -> list[Header] | None:
        """The headers of a whole block; None when they are longer than the limit.

        A list too long is still read to its end, since the table must stay that of the peer, but it is not
        kept: 30 KiB of indexes can name 100 MiB of headers.
        """
        headers: list[Header] = []
        room = self._list_limit
        position, end = 0, len(block)
        run = _INDEXED.match(block)
        if run is not None:
            known, size = self._run(run[0])
            position = run.end()
            room -= size
            if room >= 0:
                headers += known
        while position < end:
            first = block[position]
            position += 1
            if first >= 0x80:  # indexed
                index = first & 0x7F
                if index == 0x7F:
                    index, position = _integer(block, position, 0x7F)
                header = self._entry(index)
            elif first & 0xE0 == 0x20:  # table size update
                if headers or room != self._list_limit:
                    raise _bad("a table size update stands after a header")
                capacity = first & 0x1F
                if capacity == 0x1F:
                    capacity, position = _integer(block, position, 0x1F)
                if capacity > DEFAULT_TABLE_SIZE:
                    raise _bad(f"a table of {capacity} bytes, and the settings allow {DEFAULT_TABLE_SIZE}")
                self._table.resize(capacity)
                continue
            else:  # a literal: with indexing (01), without (0000), never indexed (0001)
                mask = 0x3F if first & 0x40 else 0x0F
                index = first & mask
                if index == mask:
                    index, position = _integer(block, position, mask)
                if index:
                    name = self._entry(index)[0]
                else:
                    name, position = _string(block, position)
                value, position = _string(block, position)
                header = (name, value)
                if first & 0x40:
                    self._table.add(header)
            room -= len(header[0]) + len(header[1]) + ENTRY_OVERHEAD
            if room >= 0:
                headers.append(header)
        return headers if room >= 0 else None

    def _run(self, indexes: bytes) -> tuple[list[Header], int]:
        if self._runs_of != self._table.changes or len(self._runs) >= _KEPT_RUNS:
            self._runs.clear()
            self._runs_of = self._table.changes
        found = self._runs.get(indexes)
        if found is None:
            headers = [self._entry(index & 0x7F) for index in indexes]
            size = sum([len(name) + len(value) + ENTRY_OVERHEAD for name, value in headers])
            found = self._runs[indexes] = (headers, size)
        return found

    def _entry(self, index: int) -> Header:
        if 0 < index <= _STATIC_COUNT:
            return STATIC_TABLE[index - 1]
        try:
            if index:
                return self._table.entries[index - _STATIC_COUNT - 1]
        except IndexError:
            pass
        raise _bad(f"no header has the index {index}")


def _integer(block: bytes, position: int, value: int) -> tuple[int, int]:
    """Section 5.1, after a prefix that was full."""
    shift = 0
    while True:
        if position >= len(block):
            raise _bad("the block ends inside an integer")
        byte = block[position]
        position += 1
        value += (byte & 0x7F) << shift
        if value > _LARGEST_INTEGER or shift > 28:
            raise _bad("an integer is too large")
        if byte < 0x80:
            return value, position
        shift += 7


def _string(block: bytes, position: int) -> tuple[bytes, int]:
    if position >= len(block):
        raise _bad("the block ends before a string")
    first = block[position]
    position += 1
    length = first & 0x7F
    if length == 0x7F:
        length, position = _integer(block, position, 0x7F)
    end = position + length
    if end > len(block):
        raise _bad(f"a string of {length} bytes in a block that has {len(block) - position} left")
    text = block[position:end]
    if first & 0x80:
        try:
            text = huffman_decode(text)
        except ValueError as error:
            raise _bad(str(error)) from error
    return text, end


def plain_literals(block: bytes) -> set[int]:
    """Where fields begin that bring their name and go into no table, in a block that was decoded before."""
    found = set()
    position = 0
    while position < len(block):
        first = block[position]
        if first == 0:
            found.add(position)
        position += 1
        mask = 0x7F if first & 0x80 else 0x3F if first & 0x40 else 0x1F if first & 0x20 else 0x0F
        index = first & mask
        if index == mask:
            index, position = _integer(block, position, mask)
        if first & 0x80 or first & 0xE0 == 0x20:
            continue  # indexed, or the table's size
        if not index:
            _, position = _string(block, position)
        _, position = _string(block, position)
    return found


class HeaderEncoder:
    """Puts what will be said again into the table, so that the next time it takes one byte a header."""

    __slots__ = ("_blocks", "_pending_sizes", "_table")

    def __init__(self) -> None:
        self._table = _Table()
        self._blocks: dict[Fields, bytes] = {}
        self._pending_sizes: list[int] = []

    def limit(self, size: int) -> None:
        """The peer's SETTINGS_HEADER_TABLE_SIZE; we never use more than the default."""
        size = min(size, DEFAULT_TABLE_SIZE)
        if size == self._table.capacity and not self._pending_sizes:
            return
        # The lowest size since the last block must be told, then the final one (section 4.2).
        lowest = min(self._pending_sizes[0], size) if self._pending_sizes else size
        self._pending_sizes = [lowest] if lowest == size else [lowest, size]
        self._table.resize(lowest)
        self._table.resize(size)
        self._blocks.clear()

    @property
    def changes(self) -> int:
        """Grows whenever the table changes; equal numbers mean that a kept block still says the same."""
        return self._table.changes

    def encode(self, fields: Fields) -> bytes:
        """The whole block is kept while the table does not change."""
        block = self._blocks.get(fields)
        if block is None:
            before = self._table.changes
            block = self._encode(fields.headers, index=True)
            if self._table.changes != before or len(self._blocks) >= _ENCODER_CACHE:
                self._blocks.clear()
            if self._table.changes == before:
                self._blocks[fields] = block
        return block

    def known(self, fields: Fields) -> bytes | None:
        """The block, if it has been sent and can be sent again as it is."""
        return self._blocks.get(fields)

    def encode_once(self, headers: Headers) -> bytes:
        """Headers that will not come again (messages, ids): they stay out of the table."""
        return self._encode(headers, index=False)

    def _encode(self, headers: Headers, *, index: bool) -> bytes:
        block = bytearray()
        for size in self._pending_sizes:
            block += _prefixed(size, 0x1F, 0x20)
        if self._pending_sizes:
            self._pending_sizes = []
            self._table.changes += 1  # this block says it once, so it must not be kept
        for header in headers:
            known = self._find(header)
            if known:
                block += _prefixed(known, 0x7F, 0x80)
                continue
            name, value = header
            keep = index and len(name) + len(value) + ENTRY_OVERHEAD <= self._table.capacity // 4
            mask, kind = (0x3F, 0x40) if keep else (0x0F, 0x00)
            named = _STATIC_NAMES.get(name, 0)
            block += _prefixed(named, mask, kind)
            if not named:
                block += _prefixed(len(name), 0x7F, 0) + name
            block += _prefixed(len(value), 0x7F, 0) + value
            if keep:
                self._table.add(header)
        return bytes(block)

    def _find(self, header: Header) -> int:
        index = _STATIC_WHOLE.get(header)
        if index is not None:
            return index
        try:
            return self._table.entries.index(header) + _STATIC_COUNT + 1
        except ValueError:
            return 0


def literal(name: bytes, value: bytes) -> bytes:
    """One header, coded by itself and kept out of every table: for ids, which would push all else out."""
    return _literal_name(name) + _prefixed(len(value), 0x7F, 0) + value


@lru_cache(64)
def _literal_name(name: bytes) -> bytes:
    return b"\x00" + _prefixed(len(name), 0x7F, 0) + name


def _prefixed(value: int, mask: int, kind: int) -> bytes:
    if value < mask:
        return bytes((kind | value,))
    coded = bytearray((kind | mask,))
    value -= mask
    while value >= 0x80:
        coded.append(value & 0x7F | 0x80)
        value >>= 7
    coded.append(value)
    return bytes(coded)
