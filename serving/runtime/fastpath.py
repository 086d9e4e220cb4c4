"""The usual JSON request, read and answered without looking at what was looked at before.

A client sends the same JSON again and again, with other numbers in it. What stands before and after the
numbers is looked up by its bytes, and only the numbers are parsed. That is exact, not a guess: a pair of
prefix and suffix is learnt from a body that the general path read, after making sure that the text between
them is the data of its one tensor; JSON is read from left to right, so the same prefix leads to the same
place in any body, and what stands there must parse as a list of numbers.

Answers for single rows are written for a whole run at once: one encoder call an output, split into lines
(JSON text holds no raw line feed), put into a template. 2 us a request, where piecewise encoding takes 7.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

import msgspec

from serving.runtime.codec_json import JsonTemplate, parse_request
from serving.runtime.datatypes import DATATYPES, packer
from serving.runtime.messages import Batch, BulkReply, InferRequest, Reply, RequestedOutput, Tensor
from serving.runtime.model import Model
from slipway.errors import SlipwayError

MAX_PREFIX, MAX_SUFFIX, MAX_KNOWN = 2048, 512, 256

_LISTS = {
    "f": msgspec.json.Decoder(list[float]).decode,
    "i": msgspec.json.Decoder(list[int]).decode,
    "s": msgspec.json.Decoder(list[str]).decode,
}
_encode_lines = msgspec.json.Encoder().encode_lines


class _Known(NamedTuple):
    """What follows from prefix and suffix."""

    decode: Any
    pack: Any
    length: int
    name: str
    datatype: str
    shape: tuple[int, ...]
    rows: int
    key: Any
    plain: bool
    """One row, all outputs, as JSON."""
    outputs: list[RequestedOutput] | None
    parameters: dict[str, Any] | None


class FastReader:
    """For one model."""

    __slots__ = ("known", "model")

    def __init__(self, model: Model) -> None:
        self.model = model
        self.known: dict[tuple[bytes, bytes], _Known] = {}

    def read(
        self, body: bytes, reply: Reply, arrived: float, context: Any, bulk: BulkReply | None
    ) -> InferRequest | None:
        """An admitted request, or None: the general path must read it. `bulk` is for single plain rows."""
        start = body.find(b"[", body.find(b'"data"'))
        end = body.find(b"]", start)
        known = self.known.get((body[:start], body[end:]))
        if known is None:
            return None
        decode, pack, count, name, datatype, shape, rows, key, plain, outputs, parameters = known
        try:
            values = decode(body[start : end + 1])
            if len(values) != count:
                return None
            data = values if pack is None else pack(*values)
        except (msgspec.MsgspecError, struct.error, OverflowError, UnicodeDecodeError):
            return None  # the general path says what is wrong
        request = InferRequest(
            self.model,
            [Tensor(name, datatype, shape, data)],
            reply,
            arrived,
            rows,
            key,
            context,
            bulk if plain else None,
        )
        if outputs is not None:
            request.outputs = outputs
        if parameters is not None:
            request.parameters = parameters
        return request

    def learn(self, body: bytes, request: InferRequest) -> None:
        """Remember the frame of a body that was read and admitted by the general path."""
        if len(request.inputs) != 1 or request.id or len(self.model.inputs) != 1:
            return
        tensor = request.inputs[0]
        kind = DATATYPES[tensor.datatype]
        start = body.find(b"[", body.find(b'"data"'))
        end = body.find(b"]", start)
        prefix, suffix = body[:start], body[end:]
        if start < 0 or end < 0 or len(prefix) > MAX_PREFIX or len(suffix) > MAX_SUFFIX:
            return
        if kind.kind not in _LISTS:
            return
        try:
            emptied = parse_request(prefix + b"[" + suffix)
            values: list[Any] = _LISTS[kind.kind](body[start : end + 1])  # type: ignore[assignment]
        except (SlipwayError, msgspec.MsgspecError, UnicodeDecodeError):
            return
        # Emptied between prefix and suffix, its one tensor must be empty, and whole again be what it was.
        if len(emptied.inputs) != 1 or emptied.inputs[0].data != [] or values == []:
            return
        if len(self.known) >= MAX_KNOWN:
            self.known.clear()
        count = len(values)
        self.known[(prefix, suffix)] = _Known(
            _LISTS[kind.kind],
            packer(kind.code, count).pack if kind.code else None,
            count,
            tensor.name,
            tensor.datatype,
            tensor.shape,
            request.rows,
            request.key,
            request.rows == 1 and request.outputs is None and request.parameters is None,
            request.outputs,
            request.parameters,
        )


class FastWriter:
    """Answers to plain requests of one row each, for a model with a batch axis."""

    __slots__ = ("head", "shapes", "template", "text")

    def __init__(self, template: JsonTemplate, headers: bytes) -> None:
        self.template = template
        self.shapes: tuple[tuple[int, ...], ...] | None = None
        self.head = headers.replace(b"%", b"%%") + b"x-request-id: %b%x\r\ncontent-length: %d\r\n\r\n%b"
        """Takes the two parts of the request's id, the length of the body, the body."""
        self.text = b""

    def bodies(self, batch: Batch) -> list[bytes]:
        """The body of every row."""
        shapes = tuple([array.shape[1:] for array in batch.arrays])
        if shapes != self.shapes:
            self._compile(shapes)
        lines = []
        for array in batch.arrays:
            rows = array if array.ndim == 2 else array.reshape(batch.rows, -1)
            lines.append(_encode_lines(rows.tolist()).split(b"\n"))
        return [self.text % row for row in zip(*lines, strict=True) if row[0]]

    def _compile(self, shapes: tuple[tuple[int, ...], ...]) -> None:
        template = self.template
        text = (template.before_id + template.after_id).replace(b"%", b"%%")
        for number, tail in enumerate(shapes):
            piece = (b"," if number else b"") + template.outputs[number] + template.shape((1, *tail))
            text += (piece + b',"data":').replace(b"%", b"%%") + b"%b}"
        self.text = text + b"]}"
        self.shapes = shapes
