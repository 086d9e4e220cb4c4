"""Requests and answers of ModelInfer whose frame is known: only the numbers in them are new.

A client sends the same bytes around its tensors again and again. The name field and the length of the rest
lead to a template; when the bytes before and after the data are equal to those that the general decoder once
read (the id apart, which it takes where it stands), the message means the same, and the data is cut out:
1 us where the general decoder takes 20. That is exact: equal bytes are read equally up to the data, whose
length stands before it.

A template holds no model, only a weak reference: one that was unloaded or evicted must not stay in memory
for a client that may never come again.
"""

from __future__ import annotations

from typing import Any, NamedTuple
from weakref import ref

from serving.runtime.datatypes import DATATYPES
from serving.runtime.grpc import infer_codec as codec
from serving.runtime.grpc import wire
from serving.runtime.grpc.infer_codec import InferMessage
from serving.runtime.grpc.protobuf import read_text
from serving.runtime.http2 import Fields, Form
from serving.runtime.messages import InferRequest, InferResponse, RequestedOutput
from serving.runtime.model import Array, Model

_KNOWN = 512
_FRAME_BYTES = 2048
_ID, _VERSION, _NAME = 0x1A, 0x12, 0x0A


class Template(NamedTuple):
    model: ref[Model]
    route: tuple[str, str]
    """Name and version as the message has them."""
    opening: bytes
    """All that stands before the data where there is no id, gRPC's prefix included."""
    before: bytes
    """Between the id and the data."""
    after: bytes
    size: int
    """Of the data."""
    whole: int
    """Of the message without id, gRPC's prefix included."""
    name: str
    datatype: str
    shape: tuple[int, ...]
    rows: int
    key: Any
    outputs: list[RequestedOutput] | None
    parameters: dict[str, Any] | None
    plain: bool
    """One row, all outputs."""


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

    def find(self, data: bytes, start: int, stop: int) -> tuple[Template, str, int] | None:
        """The template, the id, and where the data begins; None when the general decoder must read it."""
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
        return template, id, position

    def learn(
        self, message: InferMessage, data: bytes, start: int, stop: int, request: InferRequest
    ) -> Template | None:
        """From a message that the general decoder read and the engine admitted as it stands.

        Columns of entities are none such: their features are being looked up while this is asked, and the
        next message of the same frame names other entities.
        """
        if not message.plain or len(message.inputs) != 1 or request.rows == 0 or request.columns is not None:
            return None
        if "timeout" in message.parameters:
            return None
        item = message.inputs[0]
        kind = DATATYPES[item.datatype]
        spans = message.raw or item.contents.get(6) or item.contents.get(7) or []
        # BOOL may hold bytes that are neither 0 nor 1, BYTES have lengths of their own.
        if len(spans) != 1 or kind.kind in "sb" or len(request.inputs) != 1:
            return None
        head, id_start, position = _split(data, start, stop)
        data_start, data_stop = spans[0]
        if position > data_start or read_text(data[id_start:position]) != message.id:
            return None
        if data_start - position > _FRAME_BYTES or stop - data_stop > _FRAME_BYTES or head == start:
            return None
        if len(self._known) >= _KNOWN:
            self._known.clear()
        before = data[position:data_start]
        message_size = head - start + stop - position
        found = self._known[(data[start:head], stop - position)] = Template(
            ref(request.model),
            (message.model_name, message.model_version),
            codec.prefix(message_size) + data[start:head] + before,
            before,
            data[data_stop:stop],
            data_stop - data_start,
            codec.PREFIX_BYTES + message_size,
            item.name,
            item.datatype,
            item.shape,
            request.rows,
            request.key,
            request.outputs,
            request.parameters,
            request.rows == 1 and request.outputs is None and request.parameters is None,
        )
        return found


class Writer:
    """The answers of one model."""

    def __init__(self, model: Model, receipt: dict[str, str], headers: Fields) -> None:
        # Not the model itself, which holds this: a circle would keep it in memory when it is unloaded.
        self._specs = model.outputs
        self.headers = headers
        """What every answer begins with: status, type, receipt."""
        self._receipt = receipt
        self._head = codec.write_text(1, model.name) + codec.write_text(2, model.version)
        self._parameters = codec.write_parameters(4, receipt)
        self._outputs: dict[Any, bytes] = {}
        self._form: tuple[list[tuple[int, ...]], Form] | None = None

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
        spec = self._specs[number]
        return codec.write_output(spec.name, spec.datatype.name, shape)

    def form(self, arrays: list[Array], rows: int) -> Form | None:
        """What the framed answers to single rows have in common; None when they have no common form."""
        shapes = [array.shape[1:] for array in arrays]
        if any([array.shape[:1] != (rows,) for array in arrays]):  # noqa: C419 - a list is quicker
            return None  # of a single row, an output may have any length
        if self._form is None or self._form[0] != shapes:
            widths = [array.nbytes // rows for array in arrays]
            pieces = self._row_pieces(widths, shapes)
            if pieces is None:
                return None
            self._form = (shapes, Form(pieces, widths))
        return self._form[1]

    def _row_pieces(self, sizes: list[int], shapes: list[tuple[int, ...]]) -> list[bytes] | None:
        """What stands before the raw contents of each output; the first with gRPC's prefix in it."""
        if not all(sizes) or any(spec.datatype.size == 0 for spec in self._specs):
            return None
        head = self._head + self._parameters
        for number, shape in enumerate(shapes):
            head += self._describe(number, (1, *shape))
        tags = [b"\x32" + wire.write_varint(size) for size in sizes]
        whole = len(head) + sum(len(tag) + size for tag, size in zip(tags, sizes, strict=True))
        return [codec.prefix(whole) + head + tags[0], *tags[1:]]
