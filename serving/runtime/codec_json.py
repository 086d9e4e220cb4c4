"""Open Inference Protocol v2 in JSON, with the binary tensor extension.

The usual request has float tensors only, and msgspec reads those in one typed pass. All else (integers,
strings, nested lists, nulls, NaN literals, binary tensors) takes the general path below it.
"""

from __future__ import annotations

import json
import math
import re
import struct
from typing import TYPE_CHECKING, Any

import msgspec

from serving.runtime.datatypes import DATATYPES, DataType, element_count, packer
from serving.runtime.messages import (
    InferRequest,
    InferResponse,
    Reply,
    RequestedOutput,
    Tensor,
    refuse_elsewhere,
)
from slipway.errors import InvalidRequest

if TYPE_CHECKING:
    from serving.runtime.model import Model


class _Output(msgspec.Struct, gc=False):
    name: str
    parameters: dict[str, Any] | None = None


class _Tensor(msgspec.Struct, gc=False):
    name: str
    shape: tuple[int, ...]
    datatype: str
    data: Any = msgspec.UNSET
    parameters: dict[str, Any] | None = None


class _FloatTensor(msgspec.Struct, gc=False):
    name: str
    shape: tuple[int, ...]
    datatype: str
    data: list[float]
    parameters: None = None


class _Request(msgspec.Struct, gc=False):
    inputs: list[_Tensor]
    id: str | None = None
    parameters: dict[str, Any] | None = None
    outputs: list[_Output] | None = None


class _FloatRequest(msgspec.Struct, gc=False):
    inputs: list[_FloatTensor]
    id: str | None = None
    parameters: dict[str, Any] | None = None
    outputs: list[_Output] | None = None


_decode_floats = msgspec.json.Decoder(_FloatRequest).decode
_decode_any = msgspec.json.Decoder(_Request).decode
_encode = msgspec.json.encode

_ALLOWED: dict[str, frozenset[type]] = {
    "f": frozenset((float, int, type(None))),
    "i": frozenset((int,)),
    "b": frozenset((bool, int)),
    "s": frozenset((str,)),
}
_MEANING = {"f": "numbers", "i": "whole numbers", "b": "true, false, 1 or 0", "s": "strings"}


def decode_request(body: bytes, model: Model, reply: Reply, json_length: int | None = None) -> InferRequest:
    """Read an infer request; `json_length` is Inference-Header-Content-Length, what follows is binary."""
    binary: memoryview | None = None
    if json_length is not None:
        if json_length > len(body):
            raise InvalidRequest(
                f"it says {json_length}, the body has {len(body)} bytes",
                where="Inference-Header-Content-Length",
            )
        binary = memoryview(body)[json_length:]
        body = body[:json_length]
    elif model.only_floats:
        try:
            fast = _decode_floats(body)
            tensors = [_pack_floats(tensor) for tensor in fast.inputs]
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, KeyError):
            pass  # the general path reads it, or says what is wrong
        else:
            return _request(model, tensors, reply, fast)
    message = parse_request(body)
    position = 0
    tensors = []
    for item in message.inputs:
        size = item.parameters.get("binary_data_size") if item.parameters else None
        if size is None:
            if item.data is msgspec.UNSET:
                refuse_elsewhere(item.parameters, f"input {item.name!r}")
            tensors.append(tensor_from_json(item.name, item.datatype, item.shape, item.data))
            continue
        where = f"input {item.name!r}"
        if binary is None:
            raise InvalidRequest(
                "binary_data_size without the header Inference-Header-Content-Length",
                where=where,
                fix="say in that header how long the JSON part is",
            )
        if type(size) is not int or size < 0 or position + size > len(binary):
            raise InvalidRequest(
                f"binary_data_size is {size!r}, {len(binary) - position} bytes of binary data are left",
                where=where,
            )
        if item.data is not msgspec.UNSET:
            raise InvalidRequest("it has both data and binary_data_size", where=where)
        raw = binary[position : position + size]
        tensors.append(Tensor.from_raw(item.name, item.datatype, item.shape, raw))
        position += size
    if binary is not None and position != len(binary):
        raise InvalidRequest(
            f"{len(binary) - position} bytes of binary data belong to no input",
            fix="let the binary_data_size of all inputs add up to what follows the JSON part",
        )
    return _request(model, tensors, reply, message)


def _request(
    model: Model, tensors: list[Tensor], reply: Reply, message: _Request | _FloatRequest
) -> InferRequest:
    outputs = None
    if message.outputs:
        for output in message.outputs:
            if output.name not in model.output_numbers:
                raise InvalidRequest(
                    f"the model has no output {output.name!r}",
                    where=f"model {model.name}",
                    fix=f"its outputs are {', '.join(map(repr, model.output_numbers))}",
                )
        outputs = [
            RequestedOutput(output.name, _flag(output.parameters, "binary_data"), output.parameters)
            for output in message.outputs
        ]
    # Before it is queued, since an answer could only be refused.
    _flag(message.parameters, "binary_data_output")
    request = InferRequest(model, tensors, reply)
    request.id = message.id or ""
    request.outputs = outputs
    request.parameters = message.parameters or None
    return request


def _flag(parameters: dict[str, Any] | None, name: str) -> bool | None:
    if not parameters or name not in parameters:
        return None
    value = parameters[name]
    if not isinstance(value, bool):
        raise InvalidRequest(f"parameter {name} must be true or false, not {value!r}")
    return value


_HALF_OF_A_PAIR = re.compile(rb"\\u[dD][89a-fA-F]")


def parse_request(body: bytes) -> _Request:
    try:
        return _decode_any(body)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"not an infer request: {error}") from None
    except RecursionError:
        raise InvalidRequest("the body nests deeper than any tensor does") from None
    except msgspec.DecodeError as error:
        if b"NaN" in body or b"Infinity" in body:
            # Not JSON, but what Python's json and rapidjson write for these floats.
            try:
                message = json.loads(body)
                if _HALF_OF_A_PAIR.search(body):
                    # Python takes one for a character, which no answer could repeat.
                    json.dumps(message, ensure_ascii=False).encode()
                return msgspec.convert(message, _Request)
            except (ValueError, RecursionError, msgspec.ValidationError):
                pass
        raise InvalidRequest(f"the body is not JSON: {error}") from None
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"the body is not UTF-8: {error.reason} at byte {error.start}") from None


_FLOAT_CODES = {"FP32": "f", "FP64": "d", "FP16": "e"}


def _pack_floats(item: _FloatTensor) -> Tensor:
    code = _FLOAT_CODES[item.datatype]
    data = item.data
    count = 1
    for axis in item.shape:
        count *= axis
    if count != len(data) or count < 0:
        _check_count(item.name, item.shape, len(data))
    try:
        raw = packer(code, count).pack(*data)
    except (OverflowError, struct.error) as error:
        raise _does_not_fit(item.datatype, error, f"input {item.name!r}") from None
    return Tensor(item.name, item.datatype, item.shape, raw)


def _does_not_fit(datatype: str, error: Exception, where: str) -> InvalidRequest:
    return InvalidRequest(f"a value does not fit {datatype}: {error}", where=where)


def _check_count(name: str, shape: tuple[int, ...], have: int) -> None:
    count = element_count(shape, name)
    if count != have:
        raise InvalidRequest(
            f"shape {list(shape)} means {count} elements, the data has {have}", where=f"input {name!r}"
        )


def tensor_from_json(name: str, datatype: str, shape: tuple[int, ...], data: Any) -> Tensor:
    """Flat or nested lists into a tensor; every value must be what the datatype says."""
    where = f"input {name!r}"
    kind = DATATYPES.get(datatype)
    if kind is None:
        raise InvalidRequest(f"datatype {datatype!r} is not one of {', '.join(DATATYPES)}", where=where)
    if not isinstance(data, list):
        missing = data is msgspec.UNSET
        raise InvalidRequest("it has no data" if missing else "data must be a list", where=where)
    flat = data if not data or not isinstance(data[0], list) else _flatten(data, shape, where)
    _check_count(name, shape, len(flat))
    return Tensor(name, datatype, shape, pack_values(kind, flat, where))


def pack_values(kind: DataType, flat: list[Any], where: str) -> bytes | list[str]:
    """The bytes of these values, or the strings themselves."""
    kinds = set(map(type, flat))
    if not kinds <= _ALLOWED[kind.kind]:
        odd = next(value for value in flat if type(value) not in _ALLOWED[kind.kind])
        raise InvalidRequest(f"{kind.name} takes {_MEANING[kind.kind]}, not {odd!r:.60}", where=where)
    if kind.kind == "s":
        return flat
    if kind.kind == "b" and int in kinds and not all(value in (0, 1) for value in flat):
        raise InvalidRequest(f"BOOL takes {_MEANING['b']}", where=where)
    if kind.kind == "f" and type(None) in kinds:
        flat = [math.nan if value is None else value for value in flat]
    try:
        return packer(kind.code, len(flat)).pack(*flat)
    except (OverflowError, struct.error) as error:
        raise _does_not_fit(kind.name, error, where) from None


def _flatten(data: list[Any], shape: tuple[int, ...], where: str) -> list[Any]:
    """Nested lists must nest as the shape says: [[1,2],[3]] for [2,2] is an error, not three values."""
    level = data
    for depth, axis in enumerate(shape):
        if depth == 0:
            if len(level) != axis:
                raise InvalidRequest(f"{len(level)} items at the top, shape {list(shape)}", where=where)
            continue
        below: list[Any] = []
        for item in level:
            if not isinstance(item, list) or len(item) != axis:
                raise InvalidRequest(
                    f"the lists at depth {depth} do not have the {axis} items of shape {list(shape)}",
                    where=where,
                )
            below.extend(item)
        level = below
    if level and any(isinstance(item, list) for item in level):
        raise InvalidRequest(f"the lists nest deeper than shape {list(shape)}", where=where)
    return level


# -- answers -------------------------------------------------------------------------------------------


class JsonTemplate:
    """The parts of an answer that are the same for every request to a model."""

    __slots__ = ("_specs", "after_id", "before_id", "outputs", "parameters", "shapes")

    def __init__(self, model: Model, receipt: dict[str, Any]) -> None:
        head = _encode({"model_name": model.name, "model_version": model.version})
        self.before_id = head[:-1]
        self.parameters = receipt
        self.after_id = (b',"parameters":' + _encode(receipt) if receipt else b"") + b',"outputs":['
        self.outputs = []
        self._specs = model.outputs
        for spec in model.outputs:
            text = _encode({"name": spec.name, "datatype": spec.datatype.name})[:-1]
            if spec.keys is not None:
                text += b',"parameters":' + _encode({"keys": _encode(spec.keys).decode()})
            self.outputs.append(text + b',"shape":')
        self.shapes: dict[tuple[int, ...], bytes] = {}

    def shape(self, shape: tuple[int, ...]) -> bytes:
        text = self.shapes.get(shape)
        if text is None:
            if len(self.shapes) > 1024:
                self.shapes.clear()
            text = self.shapes[shape] = _encode(shape)
        return text

    def binary(self, number: int, shape: tuple[int, ...], size: int) -> bytes:
        """An output whose data follow the JSON part."""
        spec = self._specs[number]
        described: dict[str, Any] = {"binary_data_size": size}
        if spec.keys is not None:
            described["keys"] = _encode(spec.keys).decode()
        return _encode(
            {"name": spec.name, "datatype": spec.datatype.name, "shape": shape, "parameters": described}
        )


def encode_response(response: InferResponse, template: JsonTemplate) -> tuple[bytes, int | None]:
    """The body, and the length of its JSON part where binary tensors follow."""
    request = response.request
    parts = [template.before_id]
    if request.id:
        parts.append(b',"id":' + _encode(request.id))
    if response.parameters is None:
        parts.append(template.after_id)
    else:
        parts.append(
            b',"parameters":' + _encode({**template.parameters, **response.parameters}) + b',"outputs":['
        )
    outputs = template.outputs
    if request.outputs is None and not request.parameters:
        comma = b""
        for number, head in enumerate(outputs):
            parts += (
                comma + head,
                template.shape(response.shape(number)),
                b',"data":',
                _encode(response.values(number)),
                b"}",
            )
            comma = b","
        parts.append(b"]}")
        return b"".join(parts), None
    return _encode_selected(response, template, parts)


def _encode_selected(
    response: InferResponse, template: JsonTemplate, parts: list[bytes]
) -> tuple[bytes, int | None]:
    blobs: list[bytes] = []
    comma = b""
    for number, binary in output_forms(response.request, response.model):
        parts.append(comma)
        comma = b","
        if binary:
            blob = response.raw(number)
            blobs.append(blob)
            parts.append(template.binary(number, response.shape(number), len(blob)))
        else:
            shape = template.shape(response.shape(number))
            parts += (template.outputs[number], shape, b',"data":', _encode(response.values(number)), b"}")
    parts.append(b"]}")
    body = b"".join(parts)
    if not blobs:
        return body, None
    return b"".join((body, *blobs)), len(body)


def output_forms(request: InferRequest, model: Model) -> list[tuple[int, bool]]:
    """The outputs that the answer is to have, by number, and whether each is binary."""
    all_binary = bool(_flag(request.parameters, "binary_data_output"))
    if not request.outputs:
        return [(number, all_binary) for number in range(len(model.outputs))]
    return [
        (model.output_numbers[wanted.name], all_binary if wanted.binary is None else wanted.binary)
        for wanted in request.outputs
    ]
