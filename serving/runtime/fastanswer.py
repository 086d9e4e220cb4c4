"""Answers to single rows, written for a whole run at once.

One encoder call an output, split into lines (JSON text holds no raw line feed), or one copy of its bytes, cut
into pieces; both put into a template. 2 us a request, where piecewise encoding takes 7 for JSON and 15 for
binary tensors. What a request asks for (which outputs, and which of them binary) has a writer of its own.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from serving.runtime.codec_json import JsonTemplate, output_forms
from serving.runtime.http1 import JSON_TYPE
from serving.runtime.messages import Batch, BulkReply, InferRequest
from serving.runtime.model import Model

if TYPE_CHECKING:
    from serving.runtime.http1 import Exchange

BINARY_TYPE = b"content-type: application/octet-stream\r\n"
MAX_WRITERS = 64

_encode = msgspec.json.Encoder().encode
_encode_lines = msgspec.json.Encoder().encode_lines
_text = msgspec.json.encode

Forms = tuple[tuple[int, bool], ...]
"""Outputs by number, and whether each is binary."""
Refuse = Callable[["Exchange", Exception], None]


class Writer:
    """Answers of one form, for a model with a batch axis."""

    def __init__(self, answers: Answers, forms: Forms) -> None:
        self._answers = answers
        self._forms = forms
        self._shapes: list[tuple[int, ...]] = []
        self._body = b""
        self._blobs = 0
        """Bytes of binary data in every answer."""
        binary = any(binary for _, binary in forms)
        headers = answers.headers.replace(JSON_TYPE, BINARY_TYPE) if binary else answers.headers
        length = b"inference-header-content-length: %d\r\n" if binary else b""
        self._binary = binary
        self._head = (
            headers.replace(b"%", b"%%")
            + b"x-request-id: %b%x\r\n"
            + length
            + b"content-length: %d\r\n\r\n%b"
        )
        # One object, so that requests of one run can be told to share it by identity.
        self.bulk: BulkReply = self._reply

    def _reply(self, requests: list[InferRequest], batch: Batch) -> None:
        answers = self._answers
        try:
            bodies = self._bodies(requests, batch)
        except Exception as error:
            for request in requests:
                answers.refuse(request.context, error)
            return
        head, prefix, serial, blobs, binary = (
            self._head,
            answers.prefix,
            answers.serial,
            self._blobs,
            self._binary,
        )
        for request, body in zip(requests, bodies, strict=True):
            if request.cancelled:
                continue
            exchange: Exchange = request.context
            exchange.request = None
            size = len(body)
            if binary:
                data = head % (prefix, next(serial), size - blobs, size, body)
            else:
                data = head % (prefix, next(serial), size, body)
            connection = exchange.connection
            pending = connection.pending
            if len(pending) == 1 and connection.fresh:
                pending.popleft()
                connection.transport.write(data)
            else:
                exchange.send(data)

    def _bodies(self, requests: list[InferRequest], batch: Batch) -> list[bytes]:
        """The body of every row."""
        arrays, rows = batch.arrays, batch.rows
        shapes = [array.shape for array in arrays]
        if rows == 1:
            if shapes != self._shapes:
                self._compile(shapes)
            identity = requests[0].id
            row: list[Any] = [b',"id":' + _encode(identity) if identity else b""]
            for number, binary in self._forms:
                array = arrays[number]
                if binary:
                    row.append(array.tobytes())
                elif array.ndim == 2:
                    row.append(_encode(array.tolist()[0]))
                else:
                    row.append(_encode(array.ravel().tolist()))
            return [self._body % tuple(row)]
        single = [(1, *shape[1:]) for shape in shapes]
        if single != self._shapes:
            self._compile(single)
        columns: list[list[bytes]] = [
            [b',"id":' + _encode(request.id) if request.id else b"" for request in requests]
        ]
        for number, binary in self._forms:
            array = arrays[number]
            if binary:
                raw = array.tobytes()
                width = len(raw) // rows
                columns.append([raw[place : place + width] for place in range(0, len(raw), width)])
            else:
                lists = (array if array.ndim == 2 else array.reshape(rows, -1)).tolist()
                columns.append(_encode_lines(lists).split(b"\n")[:-1])
        text = self._body
        return [text % row for row in zip(*columns, strict=True)]

    def _compile(self, shapes: list[tuple[int, ...]]) -> None:
        """`shapes` are those of one row."""
        template, outputs = self._answers.template, self._answers.model.outputs
        pieces = []
        blobs = 0
        for number, binary in self._forms:
            if binary:
                size = outputs[number].datatype.size
                for axis in shapes[number]:
                    size *= axis
                blobs += size
                pieces.append(template.binary(number, shapes[number], size).replace(b"%", b"%%"))
            else:
                start = template.outputs[number] + template.shape(shapes[number]) + b',"data":'
                pieces.append(start.replace(b"%", b"%%") + b"%b}")
        self._body = (
            template.before_id.replace(b"%", b"%%")
            + b"%b"
            + template.after_id.replace(b"%", b"%%")
            + b",".join(pieces)
            + b"]}"
            + b"%b" * sum(binary for _, binary in self._forms)
        )
        self._blobs = blobs
        self._shapes = shapes


class Answers:
    """The writers of one model."""

    def __init__(
        self,
        model: Model,
        template: JsonTemplate,
        headers: bytes,
        prefix: bytes,
        serial: itertools.count[int],
        refuse: Refuse,
    ) -> None:
        self.model = model
        self.template = template
        self.headers = headers
        self.prefix = prefix
        self.serial = serial
        self.refuse = refuse
        self._writers: dict[Forms, Writer] = {}

    def bulk(self, request: InferRequest) -> BulkReply | None:
        """The writer of what this admitted request asks for; None: its answer is encoded by itself."""
        if request.rows != 1 or not self.model.has_batch_axis:
            return None
        forms = tuple(output_forms(request, self.model))
        # Texts have no fixed length; the names of columns are a matter of the general path.
        for number, binary in forms:
            spec = self.model.outputs[number]
            if binary and (not spec.datatype.size or spec.keys is not None):
                return None
        writer = self._writers.get(forms)
        if writer is None:
            if len(self._writers) >= MAX_WRITERS:
                return None
            writer = self._writers[forms] = Writer(self, forms)
        return writer.bulk
