"""The usual request, read without looking at what was looked at before.

A client sends the same message again and again, with other numbers in it. What stands around the numbers is
compared by its bytes, and only the numbers are parsed. That is exact, not a guess: a frame is learnt from a
body that the general path read and admitted, after making sure, by putting other lists into it, that each
gap holds the data of one tensor; JSON is read from left to right, so equal text around the gaps leads to the
same places in any body, and what stands in a gap must parse as one list.

Clients that number their requests (`{"id": "…", …`) have the id cut off before the comparison. In the binary
extension the JSON part is the frame, and what follows it is taken as it is.
"""

from __future__ import annotations

import re
import secrets
import struct
from functools import lru_cache
from typing import Any

import msgspec

from serving.runtime.codec_json import parse_request
from serving.runtime.datatypes import DATATYPES, packer
from serving.runtime.fastanswer import Answers, Writer
from serving.runtime.messages import InferRequest, Reply, RequestedOutput, Tensor, columns_of
from serving.runtime.model import Model
from slipway.errors import InvalidRequest, SlipwayError

MAX_FRAME, MAX_KNOWN = 8192, 256
MAX_LEARNT = 1 << 20
"""In larger bodies the numbers are nearly all of the work."""
COPIED = 65536
"""Tensors up to this size are cut out of a binary body as bytes, larger ones as views of it."""

_LISTS = {
    "f": msgspec.json.Decoder(list[float]).decode,
    "i": msgspec.json.Decoder(list[int]).decode,
    "s": msgspec.json.Decoder(list[str]).decode,
}


@lru_cache(maxsize=256)
def _decoder(kind: str, count: int) -> Any:
    """Of a list of so many numbers: a tuple need not be made one for struct, 0.5 us of 5.4 for 30 of them."""
    if count > 64:
        return _LISTS[kind]
    element = float if kind == "f" else int
    return msgspec.json.Decoder(tuple.__class_getitem__((element,) * count)).decode


_IDENTITY = re.compile(rb'\{"id": ?"([A-Za-z0-9_.:/+=-]{1,128})"')
"""No backslash, nothing that is not ASCII: what stands in the JSON text is what it means."""
_UNREADABLE = (msgspec.MsgspecError, struct.error, OverflowError, UnicodeDecodeError)
_PROBE = "another-id"
_ONE_ROW = ((1,), (1, 1))
_SALT = secrets.randbelow(1 << 40)
"""What is put into the gaps of a frame to prove it must not stand in the message already."""


class _Meaning(msgspec.Struct, frozen=True):
    """What follows from a frame."""

    rows: int
    key: Any
    writer: Writer | None
    """For a single row: of the answer that it asks for."""
    outputs: list[RequestedOutput] | None
    parameters: dict[str, Any] | None
    columns: bool
    """Its tensors are columns of one row, whose features have to be read."""


class Quick(msgspec.Struct, frozen=True):
    """A frame of one row in one tensor of numbers, whose answer has a writer."""

    writer: Writer
    key: Any
    shape: tuple[int, ...]

    def written_by(self, writer: Writer) -> Quick:
        return Quick(writer, self.key, self.shape)


class _Gap(msgspec.Struct, frozen=True):
    """One tensor of a frame."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    count: int
    decode: Any
    pack: Any
    """None: strings stay a list."""
    number: int
    """Among the model's inputs."""

    def read(self, text: bytes) -> Tensor:
        values = self.decode(text)
        if self.pack is None:
            if len(values) != self.count:
                raise struct.error("another number of strings")
            return Tensor(self.name, self.datatype, self.shape, values)
        return Tensor(self.name, self.datatype, self.shape, self.pack(*values))


class _JsonFrame(msgspec.Struct, frozen=True):
    before: bytes
    start: int
    between: tuple[bytes, ...]
    after: bytes
    tail: int
    gaps: tuple[_Gap, ...]
    meaning: _Meaning
    numbers: tuple[Any, Any, str, str, tuple[int, ...]] | None
    """Where there is a single gap and it holds numbers: how to read them, and the tensor."""
    quick: Quick | None

    def inputs(self, body: bytes) -> list[Tensor] | None:
        """The tensors, or None: another frame."""
        if not (body.startswith(self.before) and body.endswith(self.after)):
            return None
        if not self.between:
            return [self.gaps[0].read(body[self.start : -self.tail])]
        inputs: list[Any] = [None] * len(self.gaps)
        position = self.start
        for gap, text in zip(self.gaps, self.between, strict=False):
            stop = body.find(text, position)
            if stop < 0:
                return None
            inputs[gap.number] = gap.read(body[position:stop])
            position = stop + len(text)
        last = self.gaps[-1]
        inputs[last.number] = last.read(body[position : -self.tail])
        return inputs


class _BinaryFrame(msgspec.Struct, frozen=True):
    size: int
    """Of what follows the JSON part."""
    tensors: tuple[tuple[str, str, tuple[int, ...], int, int], ...]
    """In the order of the model's inputs; the last two say where its bytes begin and end."""
    meaning: _Meaning
    text: bytes
    """The JSON part, from where its id ends."""
    quick: Quick | None


class _Table:
    """Frames of JSON bodies; `last` is tried first, since most traffic is of one kind."""

    def __init__(self) -> None:
        self.last: _JsonFrame | None = None
        self.known: dict[bytes, list[_JsonFrame]] = {}
        self.size = 0

    def find(self, body: bytes) -> tuple[_JsonFrame, list[Tensor]] | None:
        for frame in self.known.get(_lead(body), ()):
            try:
                inputs = frame.inputs(body)
            except _UNREADABLE:
                continue  # nothing fits, or the general path says what is wrong
            if inputs is not None:
                self.last = frame
                return frame, inputs
        return None

    def add(self, body: bytes, frame: _JsonFrame) -> None:
        if self.size >= MAX_KNOWN:
            self.known.clear()
            self.size = 0
        self.known.setdefault(_lead(body), []).append(frame)
        self.size += 1
        self.last = frame


def _lead(body: bytes) -> bytes:
    """The same for all bodies of a frame."""
    return body[: body.find(b'"data"')]


class FastReader:
    """For one model."""

    def __init__(self, answers: Answers) -> None:
        self.answers = answers
        self._json = {False: _Table(), True: _Table()}
        """With an id cut off (True) apart from without: the rest of the one is no whole JSON."""
        self._plain = self._json[False]
        self._named = self._json[True]
        self._binary: dict[tuple[bool, bytes], _BinaryFrame] = {}
        self._last_binary: _BinaryFrame | None = None

    def row(self, data: bytes, start: int, json_length: int | None) -> tuple[Quick, bytes, bytes] | None:
        """Of a message that begins at `start` and is framed as the last one was: what it asks, the bytes of
        its one row, and its id as a field of the answer. None: `read` may know it.
        """
        identity = b""
        if data.startswith(b'{"id"', start):
            match = _IDENTITY.match(data, start)
            if match is None:
                return None
            identity = b',"id":"' + match[1] + b'"'
            begin = match.end(1)
        else:
            begin = start
        if json_length is not None:
            binary = self._last_binary
            stop = start + json_length
            if (
                binary is None
                or binary.quick is None
                or stop - begin != len(binary.text)
                or len(data) != stop + binary.size
                or not data.startswith(binary.text, begin)
            ):
                return None
            return binary.quick, data[stop:], identity
        frame = self._named.last if identity else self._plain.last
        if frame is None or frame.quick is None or frame.numbers is None:
            return None
        if not (data.startswith(frame.before, begin) and data.endswith(frame.after)):
            return None
        try:
            raw = frame.numbers[1](*frame.numbers[0](data[begin + frame.start : -frame.tail]))
        except _UNREADABLE:
            return None
        return frame.quick, raw, identity

    def read(
        self, model: Model, body: bytes, json_length: int | None, reply: Reply, arrived: float, context: Any
    ) -> InferRequest | None:
        """An admitted request, or None: the general path must read it."""
        identity, table = "", self._plain
        if body[:5] == b'{"id"':
            match = _IDENTITY.match(body)
            if match is None:
                return None
            identity = match[1].decode("ascii")
            if json_length is not None:
                return self._read_binary(
                    model, body, json_length, match.end(1), identity, reply, arrived, context
                )
            body = body[match.end(1) :]
            table = self._json[True]
        elif json_length is not None:
            return self._read_binary(model, body, json_length, 0, identity, reply, arrived, context)
        frame = table.last
        if frame is None:
            return None
        inputs: list[Tensor] | None = None
        try:
            if not frame.numbers:
                inputs = frame.inputs(body)
            elif body.startswith(frame.before) and body.endswith(frame.after):
                # As `inputs` does it, without its calls: 0.4 us less for the request of all requests.
                decode, pack, name, datatype, shape = frame.numbers
                data = pack(*decode(body[frame.start : -frame.tail]))
                inputs = [Tensor(name, datatype, shape, data)]
        except _UNREADABLE:
            pass
        if inputs is None:
            found = table.find(body)
            if found is None:
                return None
            frame, inputs = found
        meaning = frame.meaning
        request = InferRequest(
            model, inputs, reply, arrived, meaning.rows, meaning.key, context, meaning.writer, identity
        )
        if meaning.outputs is not None:
            request.outputs = meaning.outputs
        if meaning.parameters is not None:
            request.parameters = meaning.parameters
        if meaning.columns:
            request.columns = columns_of(request)
        return request

    def _read_binary(
        self,
        model: Model,
        body: bytes,
        json_length: int,
        cut: int,
        identity: str,
        reply: Reply,
        arrived: float,
        context: Any,
    ) -> InferRequest | None:
        frame = self._binary.get((cut > 0, body[cut:json_length]))
        if frame is None or len(body) != json_length + frame.size:
            return None
        self._last_binary = frame
        inputs = []
        view: bytes | memoryview = body if frame.size <= COPIED else memoryview(body)
        for name, datatype, shape, start, stop in frame.tensors:
            inputs.append(Tensor(name, datatype, shape, view[json_length + start : json_length + stop]))
        meaning = frame.meaning
        return InferRequest(
            model,
            inputs,
            reply,
            arrived,
            meaning.rows,
            meaning.key,
            context,
            meaning.writer,
            identity,
            meaning.outputs,
            meaning.parameters,
        )

    # -- learning ----------------------------------------------------------------------------------

    def learn(self, body: bytes, json_length: int | None, request: InferRequest) -> None:
        """Remember the frame of a body that the general path has read and admitted, or reads features for."""
        columns = request.columns is not None
        if columns and any(tensor.shape not in _ONE_ROW for tensor in request.inputs):
            return
        cut = 0
        if request.id:
            match = _IDENTITY.match(body)
            if match is None or match[1] != request.id.encode():
                return
            cut = match.end(1)
        if (len(body) if json_length is None else json_length) > MAX_LEARNT:
            return
        rows = 1 if columns else request.rows
        writer = self.answers.writer(request, rows)
        meaning = _Meaning(rows, request.key, writer, request.outputs, request.parameters, columns)
        try:
            if json_length is None:
                self._learn_json(body, cut, request, meaning)
            elif not columns:
                self._learn_binary(body, json_length, cut, request, meaning)
        except (SlipwayError, ValueError, *_UNREADABLE):
            return  # it reads otherwise than it seemed

    def _learn_binary(
        self, body: bytes, json_length: int, cut: int, request: InferRequest, meaning: _Meaning
    ) -> None:
        head = body[:json_length]
        message = parse_request(_with_probe(head, cut))
        if json_length > MAX_FRAME or (message.id or "") != (_PROBE if cut else ""):
            return
        places: dict[str, tuple[int, int]] = {}
        position = 0
        for item in message.inputs:
            size = (item.parameters or {}).get("binary_data_size")
            kind = DATATYPES[item.datatype]
            if type(size) is not int or not kind.size or kind.kind == "b":
                return  # JSON among it, or bytes that have to be looked at
            places[item.name] = (position, position + size)
            position += size
        tensors = tuple((t.name, t.datatype, t.shape, *places[t.name]) for t in request.inputs)
        if len(self._binary) >= MAX_KNOWN:
            self._binary.clear()
        quick = _quick(meaning, tensors[0][2]) if len(tensors) == 1 and position <= COPIED else None
        self._last_binary = self._binary[(cut > 0, head[cut:])] = _BinaryFrame(
            position, tensors, meaning, head[cut:], quick
        )

    def _learn_json(self, body: bytes, cut: int, request: InferRequest, meaning: _Meaning) -> None:
        numbers = {tensor.name: number for number, tensor in enumerate(request.inputs)}
        message = parse_request(body)
        gaps, texts, position = [], [], cut
        for item in message.inputs:
            number = numbers[item.name]
            tensor = request.inputs[number]
            kind = DATATYPES[tensor.datatype]
            if kind.kind not in _LISTS:
                return
            start, stop = _list_after(body, body.index(b'"data"', position), _LISTS[kind.kind])
            texts.append(body[position:start])
            position = stop
            values: list[Any] = _LISTS[kind.kind](body[start:stop])  # type: ignore[assignment]
            count = len(values)
            pack = packer(kind.code, count).pack if kind.code else None
            decode = _decoder(kind.kind, count) if pack is not None else _LISTS[kind.kind]
            gaps.append(_Gap(tensor.name, kind.name, tensor.shape, count, decode, pack, number))
        if not gaps:
            return  # a model without inputs
        texts.append(body[position:])
        _prove(texts, gaps, cut, len(request.inputs))
        if sum(map(len, texts)) > MAX_FRAME:
            return
        only = gaps[0]
        single = len(gaps) == 1 and only.pack is not None
        frame = _JsonFrame(
            texts[0],
            len(texts[0]),
            tuple(texts[1:-1]),
            texts[-1],
            len(texts[-1]),
            tuple(gaps),
            meaning,
            (only.decode, only.pack, only.name, only.datatype, only.shape) if single else None,
            _quick(meaning, only.shape) if single else None,
        )
        # Read again by what was learnt, it must be what the general path read.
        again = frame.inputs(body[cut:])
        if again is None or any(one.data != two.data for one, two in zip(again, request.inputs, strict=True)):
            return
        self._json[cut > 0].add(body[cut:], frame)


def _quick(meaning: _Meaning, shape: tuple[int, ...]) -> Quick | None:
    if meaning.writer is None or meaning.columns:
        return None
    return Quick(meaning.writer, meaning.key, shape)


class _Misread(InvalidRequest):
    """A frame that does not hold what it seemed to."""


def _list_after(body: bytes, place: int, decode: Any) -> tuple[int, int]:
    """The innermost list that begins there: its brackets, and what is between them."""
    start = body.index(b"[", place)
    while body[start + 1 : start + 2] == b"[":
        start += 1
    stop = start
    while True:
        stop = body.find(b"]", stop) + 1
        if not stop:
            raise _Misread("a list without an end")
        try:
            decode(body[start:stop])
        except _UNREADABLE:
            continue  # the bracket stood in a string
        return start, stop


def _prove(texts: list[bytes], gaps: list[_Gap], cut: int, inputs: int) -> None:
    """Other lists in the gaps must turn up as the data of those tensors, and nothing else may change."""
    marks = [_SALT + number for number in range(len(gaps))]
    fill = [b"[%d]" % mark for mark in marks]
    body = b"".join([piece for pair in zip(texts, [*fill, b""], strict=True) for piece in pair])
    probe = parse_request(_with_probe(b'{"id":"' + body if cut else body, 7 if cut else 0))
    seen = [(item.name, item.datatype, item.shape, _flat(item.data)) for item in probe.inputs]
    wanted = [(gap.name, gap.datatype, gap.shape, [mark]) for gap, mark in zip(gaps, marks, strict=True)]
    if seen != wanted or len(gaps) != inputs or (probe.id or "") != (_PROBE if cut else ""):
        raise _Misread("the frame does not hold what it seemed to")


def _with_probe(text: bytes, cut: int) -> bytes:
    return b'{"id":"' + _PROBE.encode() + text[cut:] if cut else text


def _flat(data: Any) -> Any:
    """Of the nested lists of a single row."""
    while isinstance(data, list) and len(data) == 1 and isinstance(data[0], list):
        data = data[0]
    return data
