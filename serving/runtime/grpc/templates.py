"""Requests and answers of ModelInfer whose frame is known: only the numbers in them are new.

A client sends the same bytes around its tensors again and again. The name field and the length of the rest
lead to a template; when the bytes before and after the data are equal to those that the general decoder once
read (the id apart, which it takes where it stands), the message means the same, and the data is cut out:
1 us where the general decoder takes 20. That is exact: equal bytes are read equally up to the data, whose
length stands before it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from serving.runtime.datatypes import DATATYPES
from serving.runtime.grpc import infer_codec as codec
from serving.runtime.grpc import wire
from serving.runtime.grpc.infer_codec import InferMessage, frame
from serving.runtime.grpc.protobuf import read_text
from serving.runtime.http2 import Headers
from serving.runtime.messages import Batch, InferRequest, InferResponse, RequestedOutput, Tensor
from serving.runtime.model import Model

_KNOWN = 512
_FRAME_BYTES = 2048
_COPY_LIMIT = 4096
_ID, _VERSION, _NAME = 0x1A, 0x12, 0x0A


class Template(NamedTuple):
    model: Model
    before: bytes
    """Between the id and the data."""
    after: bytes
    size: int
    name: str
    datatype: str
    shape: tuple[int, ...]
    rows: int
    key: Any
    outputs: list[RequestedOutput] | None
    parameters: dict[str, Any] | None


def _split(data: bytes, start: int, stop: int) -> tuple[int, int, int]:
    """End of name and version; start and end of the id's text (equal when there is none)."""
    position = start
    if position + 2 > stop or data[position] != _NAME:
        return start, start, start
    position += 2 + data[position + 1]
    if position + 2 <= stop and data[position] == _VERSION:
        position += 2 + data[position + 1]
    if position + 2 <= stop and data[position] == _ID and data[position + 1] < 0x80:
        return position, position + 2, position + 2 + data[position + 1]
    return position, position, position


class Templates:
    def __init__(self) -> None:
        self._known: dict[tuple[bytes, int], Template] = {}

    def find(self, data: bytes, start: int, stop: int) -> tuple[Template, str, bytes | memoryview] | None:
        """The template, the id, the data; None when the general decoder must read it."""
        head, id_start, position = _split(data, start, stop)
        template = self._known.get((data[start:head], stop - position))
        if template is None or position > stop:
            return None
        before, after, size = template.before, template.after, template.size
        if not data.startswith(before, position):
            return None
        position += len(before)
        if after and data[position + size : stop] != after:
            return None
        id = ""
        if id_start != head:
            try:
                id = data[id_start : position - len(before)].decode()
            except UnicodeDecodeError:
                return None
        if size <= _COPY_LIMIT:
            return template, id, data[position : position + size]
        return template, id, memoryview(data)[position : position + size]

    def learn(self, message: InferMessage, data: bytes, start: int, stop: int, request: InferRequest) -> None:
        """From a message that the general decoder read and the engine admitted."""
        if not message.plain or len(message.inputs) != 1:
            return
        item = message.inputs[0]
        kind = DATATYPES[item.datatype]
        spans = message.raw or item.contents.get(6) or item.contents.get(7) or []
        # BOOL may hold bytes that are neither 0 nor 1, BYTES have lengths of their own.
        if len(spans) != 1 or kind.kind in "sb" or len(request.inputs) != 1:
            return
        head, id_start, position = _split(data, start, stop)
        data_start, data_stop = spans[0]
        if position > data_start or read_text(data[id_start:position]) != message.id:
            return
        if data_start - position > _FRAME_BYTES or stop - data_stop > _FRAME_BYTES or head == start:
            return
        if len(self._known) >= _KNOWN:
            self._known.clear()
        self._known[(data[start:head], stop - position)] = Template(
            request.model,
            data[position:data_start],
            data[data_stop:stop],
            data_stop - data_start,
            item.name,
            item.datatype,
            item.shape,
            request.rows,
            request.key,
            request.outputs,
            request.parameters,
        )

    def forget(self, model: Model) -> None:
        """Another model has its name now."""
        for key in [key for key, template in self._known.items() if template.model.name == model.name]:
            del self._known[key]


def request_from(
    template: Template, id: str, data: bytes | memoryview, reply: Any, arrived: float
) -> InferRequest:
    request = InferRequest(
        template.model,
        [Tensor(template.name, template.datatype, template.shape, data)],
        reply,
        arrived,
        template.rows,
        template.key,
    )
    if id:
        request.id = id
    if template.outputs is not None:
        request.outputs = template.outputs
    if template.parameters is not None:
        request.parameters = template.parameters
    return request


class Writer:
    """The answers of one model."""

    def __init__(self, model: Model, receipt: dict[str, str], headers: Headers) -> None:
        self.model = model
        self.headers = headers
        """What every answer begins with: status, type, receipt."""
        self._receipt = receipt
        self._head = codec.write_text(1, model.name) + codec.write_text(2, model.version)
        self._parameters = codec.write_parameters(4, receipt)
        self._outputs: dict[Any, bytes] = {}
        self._rows: tuple[tuple[tuple[int, ...], ...], list[bytes]] | None = None

    def message(self, response: InferResponse) -> bytes:
        """A ModelInferResponse with raw contents."""
        selected = response.selected()
        shapes = tuple([(number, response.shape(number)) for number, _ in selected])
        outputs = self._outputs.get(shapes)
        if outputs is None:
            if len(self._outputs) >= _KNOWN:
                self._outputs.clear()
            outputs = b"".join(self._describe(number, shape) for number, shape in shapes)
            self._outputs[shapes] = outputs
        parts = [self._head, codec.write_text(3, response.request.id)]
        if response.parameters:
            parts.append(codec.write_parameters(4, {**self._receipt, **response.parameters}))
        else:
            parts.append(self._parameters)
        parts.append(outputs)
        for number, _ in selected:
            raw = response.raw(number)
            parts += (b"\x32", wire.write_varint(len(raw)), raw)
        return b"".join(parts)

    def _describe(self, number: int, shape: tuple[int, ...]) -> bytes:
        spec = self.model.outputs[number]
        return codec.write_output(spec.name, spec.datatype.name, shape)

    def rows(self, batch: Batch) -> list[bytes] | None:
        """Framed answers for every single row of a batch; None when they have no common form."""
        arrays = batch.arrays
        shapes = tuple([array.shape[1:] for array in arrays])
        if self._rows is None or self._rows[0] != shapes:
            pieces = self._row_pieces(batch, shapes)
            if pieces is None:
                return None
            self._rows = (shapes, pieces)
        pieces = self._rows[1]
        count = batch.rows
        if len(arrays) == 1:
            blob = arrays[0].tobytes()
            width = len(blob) // count
            first = pieces[0]
            return [first + blob[at : at + width] for at in range(0, len(blob), width)]
        columns: list[list[bytes]] = []
        for piece, array in zip(pieces, arrays, strict=True):
            blob = array.tobytes()
            width = len(blob) // count
            columns.append([piece + blob[at : at + width] for at in range(0, len(blob), width)])
        return [b"".join(row) for row in zip(*columns, strict=True)]

    def _row_pieces(self, batch: Batch, shapes: tuple[tuple[int, ...], ...]) -> list[bytes] | None:
        """What stands before the raw contents of each output; the first with gRPC's prefix in it."""
        sizes = [array.nbytes // batch.rows for array in batch.arrays]
        if not all(sizes) or any(spec.datatype.size == 0 for spec in self.model.outputs):
            return None
        head = self._head + self._parameters
        for number, shape in enumerate(shapes):
            head += self._describe(number, (1, *shape))
        tags = [b"\x32" + wire.write_varint(size) for size in sizes]
        whole = len(head) + sum(len(tag) + size for tag, size in zip(tags, sizes, strict=True))
        return [frame(b"\x00" * whole)[:5] + head + tags[0], *tags[1:]]
