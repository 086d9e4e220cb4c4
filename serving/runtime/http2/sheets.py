"""Many answers of one shape at once: what is the same in all stands in a list already, what differs (streams,
ids, data) is put between by slices, and one join makes what each connection gets in one piece.

1 us an answer at 16, where a `struct` for each takes 4 and numpy 2, whose calls cost 2 us for any rows.
"""

from __future__ import annotations

from collections.abc import Sequence

from serving.runtime.http2 import codes
from serving.runtime.http2.hpack import Fields
from serving.runtime.http2.sender import Frames, Sender
from serving.runtime.http2.stream import Stream

Column = Sequence[bytes]
"""What one piece of every answer is, all of one width."""
_KEPT = 64


class Form:
    """Bodies that consist of pieces that are the same in all, each followed by a column that is not."""

    __slots__ = ("_sheets", "pieces", "size", "widths")

    def __init__(self, pieces: Sequence[bytes], widths: Sequence[int]) -> None:
        self.pieces = pieces
        self.widths = widths
        self.size = sum(map(len, pieces)) + sum(widths)
        self._sheets: dict[Frames, _Sheet] = {}

    def columns(self, blobs: Sequence[bytes]) -> list[list[bytes]]:
        """From the rows of each column, one behind the other."""
        return [
            [blob[at : at + width] for at in range(0, len(blob), width)]
            for blob, width in zip(blobs, self.widths, strict=True)
        ]

    def bodies(self, columns: Sequence[Column]) -> list[bytes]:
        return [
            b"".join([part for pair in zip(self.pieces, row, strict=True) for part in pair])
            for row in zip(*columns, strict=True)
        ]

    def sheet(self, frames: Frames) -> _Sheet:
        found = self._sheets.get(frames)
        if found is None:
            if len(self._sheets) >= _KEPT:
                self._sheets.clear()
            found = self._sheets[frames] = _Sheet(self, frames)
        return found


class _Sheet:
    __slots__ = ("_parts", "_rows", "bytes")

    def __init__(self, form: Form, frames: Frames) -> None:
        self.bytes = frames.layout.size
        row = [frames.first, b"", frames.block, b"", frames.second, b""]
        for piece in form.pieces:
            row += (piece, b"")
        row += (frames.third, b"", frames.end)
        self._parts = len(row)
        self._rows = row

    def fill(self, streams: Sequence[int], extras: Column, columns: Sequence[Column]) -> bytes:
        parts = self._parts
        wanted = parts * len(streams)
        if len(self._rows) < wanted:
            self._rows = self._rows[:parts] * len(streams)
        rows = self._rows[:wanted]
        ids = [stream_id.to_bytes(4, "big") for stream_id in streams]
        rows[1::parts] = rows[5::parts] = rows[parts - 2 :: parts] = ids
        rows[3::parts] = extras
        place = 7
        for column in columns:
            rows[place::parts] = column
            place += 2
        return b"".join(rows)


def answer_rows(
    targets: Sequence[tuple[Sender, int]],
    streams: Sequence[int],
    headers: Fields,
    extras: Column,
    form: Form,
    columns: Sequence[Column],
    trailers: Fields,
) -> list[int]:
    """As `respond_rows`, for requests that are no streams: what is asked is asked once a connection.

    `targets` are connections and how many of the rows, in their order, belong to each. It gives back the
    numbers of those whose requests have to become streams, to be answered as there is room, or one by one.
    """
    size = form.size
    shape = (headers, trailers, size, len(extras[0]))
    common: Frames | None = None
    pieces: list[tuple[Sender, int, int]] = []
    others = []
    start = 0
    for number, (sender, count) in enumerate(targets):
        first, start = start, start + count
        if sender._transport is None:
            continue  # nobody is there any more
        frames = sender.frames(shape) or sender._frame_response(shape)
        if (
            frames is None
            or (common is not None and frames is not common)
            or sender._paused
            or size * count > sender._window
            or size > sender.initial_window
            or size > codes.DEFAULT_FRAME_SIZE
        ):
            others.append(number)
            continue
        common = frames
        sender._window -= size * count
        sender.answered += count
        pieces.append((sender, first, start))
    if common is not None:
        sheet = form.sheet(common)
        octets = sheet.fill(streams, extras, columns)
        whole = sheet.bytes
        for sender, first, stop in pieces:
            sender._write_now(octets[first * whole : stop * whole])
            if sender._leaving and not sender.streams:
                sender.settle()
    return others


def respond_rows(
    targets: Sequence[tuple[Sender, int]],
    headers: Fields,
    extras: Column,
    form: Form,
    columns: Sequence[Column],
    trailers: Fields,
) -> None:
    """`send_response` for many streams, by connection and id. Streams that are no more are passed over."""
    size = form.size
    shape = (headers, trailers, size, len(extras[0]))
    common: Frames | None = None
    sender: Sender | None = None
    pieces: list[tuple[Sender, int, int]] = []
    others: list[tuple[int, Stream]] = []
    start = 0
    room = False
    for row, (target, stream_id) in enumerate(targets):
        if target is not sender:
            if sender is not None and row > start:
                pieces.append((sender, start, row))
            sender, streams, start = target, target.streams, row
            frames = sender.frames(shape)
            common = common or frames
            room = (
                frames is not None
                and frames is common
                and not sender._paused
                and size <= codes.DEFAULT_FRAME_SIZE
            )
        stream = streams.pop(stream_id, None)
        if stream is not None:
            if room and stream.remote_closed and size <= sender._window and size <= stream.send_window:
                sender._window -= size
                stream.closed = True
                continue
            streams[stream_id] = stream
            others.append((row, stream))
        if row > start:
            pieces.append((sender, start, row))
        start = row + 1
    if sender is not None and start < len(targets):
        pieces.append((sender, start, len(targets)))
    if common is not None and pieces:
        sheet = form.sheet(common)
        octets = sheet.fill([stream_id for _, stream_id in targets], extras, columns)
        for sender, first, last in pieces:
            sender._write(octets[first * sheet.bytes : last * sheet.bytes])
            sender.answered += last - first
            if sender._leaving and not sender.streams:
                sender.settle()
    for row, stream in others:
        body = form.bodies([[column[row]] for column in columns])[0]
        stream.respond(headers, extras[row], body, trailers)
