"""Answers to single rows, written for a whole run at once.

One encoder call an output, split into lines (JSON text holds no raw line feed), or one copy of its bytes, cut
into pieces; both put into a template. 2 us a request, where piecewise encoding takes 7 for JSON and 15 for
binary tensors. What a request asks for (which outputs, and which of them binary) has a writer of its own.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import msgspec

from serving.runtime.bound import rows_of
from serving.runtime.codec_json import JsonTemplate, output_forms
from serving.runtime.http1 import JSON_TYPE
from serving.runtime.messages import Batch, InferRequest
from serving.runtime.model import Array, Model

if TYPE_CHECKING:
    from serving.runtime.http1 import Connection, Exchange

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

    def __init__(self, answers: Answers, forms: Forms, *, told: bool = False) -> None:
        """`told`: the answers have parameters of their own, beside the receipt."""
        self._answers = answers
        self._forms = forms
        self._told = told
        self._shapes: list[tuple[int, ...]] = []
        self._body = b""
        self._blobs = 0
        """Bytes of binary data in every answer."""
        binary = any(binary for _, binary in forms)
        headers = answers.headers.replace(JSON_TYPE, BINARY_TYPE) if binary else answers.headers
        length = b"inference-header-content-length: %d\r\n" if binary else b""
        self._binary = binary
        self._headers = headers
        self._head = (
            (headers + b"x-request-id: " + answers.prefix).replace(b"%", b"%%")
            + b"%x\r\n"
            + length
            + b"content-length: %d\r\n\r\n%b"
        )

    def __call__(self, requests: list[InferRequest], batch: Batch) -> None:
        answers = self._answers
        try:
            identities = [b',"id":' + _encode(request.id) if request.id else b"" for request in requests]
            if self._told:
                receipt = answers.template.parameters
                identities = [
                    identity + b',"parameters":' + _encode({**receipt, **(request.features or {})})
                    for identity, request in zip(identities, requests, strict=True)
                ]
            views = rows_of(batch.arrays, batch.rows)
            bodies = self._bodies(identities, batch.arrays, views)
        except Exception as error:
            for request in requests:
                answers.refuse(request.context, error)
            return
        for request, body in zip(requests, bodies, strict=True):
            if request.cancelled:
                continue
            exchange: Exchange = request.context
            exchange.request = None
            if request.request_id or request.trace is not None:
                data = self._named(request, body)
            else:
                data = self._whole(body, next(answers.serial))
            connection = exchange.connection
            pending = connection.pending
            if len(pending) == 1 and connection.fresh:
                pending.popleft()
                connection.transport.write(data)
            else:
                exchange.send(data)

    def send(self, connection: Connection, body: bytes) -> int:
        """One answer to a connection that is owed no other; the number in its request id."""
        serial = next(self._answers.serial)
        connection.transport.write(self._whole(body, serial))
        return serial

    def send_all(
        self,
        connections: Sequence[Connection],
        identities: Sequence[bytes],
        arrays: list[Array],
        views: list[Array],
    ) -> int:
        """A row each, to connections that are owed no other; the number in the first one's request id."""
        bodies = self._bodies(identities, arrays, views)
        serial = self._answers.serial
        first = number = next(serial)
        for connection, body in zip(connections, bodies, strict=True):
            if not connection.closing:
                connection.transport.write(self._whole(body, number))
            number = next(serial)
        return first

    def _whole(self, body: bytes, serial: int) -> bytes:
        size = len(body)
        if self._binary:
            return self._head % (serial, size - self._blobs, size, body)
        return self._head % (serial, size, body)

    def _named(self, request: InferRequest, body: bytes) -> bytes:
        """To a caller who named the request or its trace."""
        if not request.request_id:
            request.request_id = f"{self._answers.prefix.decode()}{next(self._answers.serial):x}"
        size = len(body)
        return b"%bx-request-id: %b\r\n%b%bcontent-length: %d\r\n\r\n%b" % (
            self._headers,
            request.request_id.encode("latin-1", "replace"),
            b"" if request.trace is None else b"traceparent: %b\r\n" % request.trace.header.encode(),
            b"inference-header-content-length: %d\r\n" % (size - self._blobs) if self._binary else b"",
            size,
            body,
        )

    def body(self, identity: bytes, arrays: list[Array], views: list[Array]) -> bytes:
        """Of a single row. `views` are the arrays with two axes, `identity` is the text of the id's field."""
        shapes = [array.shape for array in arrays]
        if shapes != self._shapes:
            self._compile(shapes)
        row: list[Any] = [identity]
        for number, binary in self._forms:
            view = views[number]
            row.append(view.tobytes() if binary else _encode(view.tolist()[0]))
        return self._body % tuple(row)

    def _bodies(self, identities: Sequence[bytes], arrays: list[Array], views: list[Array]) -> list[bytes]:
        """Of every row."""
        if len(identities) == 1:
            return [self.body(identities[0], arrays, views)]
        shapes = [(1, *array.shape[1:]) for array in arrays]
        if shapes != self._shapes:
            self._compile(shapes)
        columns: list[Sequence[bytes]] = [identities]
        for number, binary in self._forms:
            view = views[number]
            if binary:
                raw = view.tobytes()
                width = len(raw) // len(identities)
                columns.append([raw[place : place + width] for place in range(0, len(raw), width)])
            else:
                columns.append(_encode_lines(view.tolist()).split(b"\n")[:-1])
        text = self._body
        return [text % row for row in zip(*columns, strict=True)]

    def _compile(self, shapes: list[tuple[int, ...]]) -> None:
        """`shapes` are those of one row."""
        template, outputs = self._answers.template, self._answers.outputs
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
            + (b',"outputs":[' if self._told else template.after_id.replace(b"%", b"%%"))
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
        # Not the model itself, which holds this: a circle would keep it in memory when it is unloaded.
        self.outputs = model.outputs
        self.template = template
        self.headers = headers
        self.prefix = prefix
        self.serial = serial
        self.refuse = refuse
        self._writers: WeakValueDictionary[tuple[Forms, bool], Writer] = WeakValueDictionary()
        """Held by the frames that lead to them."""

    def writer(self, request: InferRequest, rows: int) -> Writer | None:
        """Of what this request asks for; None: its answer is encoded by itself."""
        if rows != 1 or not request.model.has_batch_axis:
            return None
        forms = tuple(output_forms(request, request.model))
        # Texts have no fixed length; the names of columns are a matter of the general path.
        for number, binary in forms:
            spec = self.outputs[number]
            if binary and (not spec.datatype.size or spec.keys is not None):
                return None
        told = request.columns is not None
        writer = self._writers.get((forms, told))
        if writer is None:
            if len(self._writers) >= MAX_WRITERS:
                return None
            writer = self._writers[forms, told] = Writer(self, forms, told=told)
        return writer
