"""REST: inference in JSON, every datatype, the binary tensor extension."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.conformance.suite import check, expect, expect_equal
from tests.conformance.target import (
    PAIR,
    Answer,
    Example,
    Target,
    binary_tensor,
    echo_name,
    expect_values,
    from_raw,
    json_tensor,
    output,
    raw,
)
from tests.support.models import DTYPES


def _holds(answer: Answer, example: Example) -> Any:
    body = answer.ok()
    for name, value in example.expected.items():
        expect_values(name, value, output(body, name)["data"])
    return body


# ---- JSON --------------------------------------------------------------------------------------------------


@check("infer", "flat data", "OIP REST: tensor data may be a flattened one-dimensional array, row-major")
def _(target: Target) -> None:
    _holds(target.infer(target.example.model, target.example.payload()), target.example)


@check("infer", "nested data", "OIP REST: tensor data may be in its natural multi-dimensional form")
def _(target: Target) -> None:
    payload = target.example.payload()
    for tensor, value in zip(payload["inputs"], target.example.inputs.values(), strict=True):
        tensor["data"] = value.tolist()
    _holds(target.infer(target.example.model, payload), target.example)


@check("infer", "the answer's form", "OIP REST: $inference_response and $response_output")
def _(target: Target) -> None:
    answer = target.infer(target.example.model, target.example.payload())
    body = answer.ok()
    expect_equal("model_name", target.example.model, body.get("model_name"))
    for item in body["outputs"]:
        expect(item.get("datatype") in DTYPES, "a datatype of the protocol", item)
        count = np.array(item["data"], dtype=object).size
        expect_equal(f"elements of {item['name']}", int(np.prod(item["shape"])), count)
    kind = answer.headers.get("content-type", "")
    expect(kind.startswith("application/json"), "Content-Type application/json", kind)


@check("infer", "shapes of the whole batch", "OIP REST: shape and data are those of the entire batch")
def _(target: Target) -> None:
    for rows in (1, 2, 7):
        a = np.arange(rows * 2, dtype=np.float32).reshape(rows, 2)
        payload = {"inputs": [json_tensor("a", "FP32", a), json_tensor("b", "FP32", a * 2)]}
        body = target.infer(target.pair.model, payload).ok()
        expect_equal("shape", [rows, 2], output(body, "sum")["shape"])
        expect_values("sum", a * 3, output(body, "sum")["data"])


@check("infer", "inputs in any order", "OIP REST: inputs are known by name")
def _(target: Target) -> None:
    payload = target.pair.payload()
    payload["inputs"].reverse()
    _holds(target.infer(target.pair.model, payload), target.pair)


@check(
    "infer", "fields in any order, white space anywhere", "RFC 8259: an object is unordered; space is free"
)
def _(target: Target) -> None:
    text = (
        b'\n{ "inputs" :\t[ {"data": [1, 2], "datatype":"FP32", "shape" : [1,2], "name":"b"},\r\n'
        b'{"data":[ 1e0,2.5E+0 ],"shape":[1,2],"name":"\\u0061","datatype":"FP32"} ] , "id":"i" } '
    )
    body = target.infer(target.need(PAIR), text, {"Content-Type": "application/json"}).ok()
    expect_values("sum", np.array([2.0, 4.5], dtype=np.float32), output(body, "sum")["data"])


@check("infer", "integers for floats", "OIP REST: the server may coerce; JSON has one kind of number")
def _(target: Target) -> None:
    payload = {
        "inputs": [
            {"name": name, "shape": [1, 2], "datatype": "FP32", "data": [1, 2]} for name in target.pair.inputs
        ]
    }
    body = target.infer(target.pair.model, payload).ok()
    expect_values("sum", np.array([2.0, 4.0], dtype=np.float32), output(body, "sum")["data"])


@check(
    "infer", "without a content type", "tritonclient sends JSON without Content-Type; RFC 9110 8.3 allows it"
)
def _(target: Target) -> None:
    import json

    text = json.dumps(target.example.payload()).encode()
    _holds(target.infer(target.example.model, text), target.example)


@check("infer", "names that need escaping in the address", "RFC 3986 2.1: percent-encoding")
def _(target: Target) -> None:
    encoded = "".join(f"%{byte:02X}" for byte in target.example.model.encode())
    _holds(target.request("POST", f"/v2/models/{encoded}/infer", target.example.payload()), target.example)


@check("infer", "ten thousand rows", "OIP REST: no limit on the batch is part of the protocol")
def _(target: Target) -> None:
    a = np.random.default_rng(0).normal(size=(10_000, 2)).astype(np.float32)
    payload = {"inputs": [json_tensor("a", "FP32", a), json_tensor("b", "FP32", a)]}
    body = target.infer(target.pair.model, payload).ok()
    expect_values("sum", a * 2, output(body, "sum")["data"])


# ---- datatypes ---------------------------------------------------------------------------------------------

_TEXTS = np.array(["", "plain", 'quo"te\\', "naïve ✈ 😀", "line\nend\ttab", "\u0001"], dtype=object)


def _extremes(dtype: str) -> np.ndarray:
    kind = DTYPES[dtype][1]
    if dtype == "BYTES":
        return _TEXTS.reshape(3, 2)
    if dtype == "BOOL":
        return np.array([[True, False], [False, True]])
    if dtype.startswith("FP"):
        limits = np.finfo(kind)
        return np.array([[0, -1.5], [limits.max, limits.tiny], [1 / 3, -limits.max]], dtype=kind)
    return np.array([[np.iinfo(kind).min, np.iinfo(kind).max], [0, 1]], dtype=kind)


def _json_echo(dtype: str) -> Any:
    def run(target: Target) -> None:
        value = _extremes(dtype)
        body = target.infer(target.need(echo_name(dtype)), {"inputs": [json_tensor("x", dtype, value)]}).ok()
        item = output(body, "y")
        expect_equal("datatype", dtype, item["datatype"])
        expect_equal("shape", list(value.shape), item["shape"])
        if dtype.startswith("FP"):
            # JSON's numbers must carry enough digits: read back as the type, they are the same bits.
            got = np.array(item["data"], dtype=np.float64).astype(value.dtype).ravel()
            expect(np.array_equal(got, value.ravel()), f"y = {value.ravel().tolist()}", item["data"])
        else:
            expect_values("y", value, item["data"])

    return run


def _binary_echo(dtype: str) -> Any:
    def run(target: Target) -> None:
        value = _extremes(dtype)
        tensor, block = binary_tensor("x", dtype, value)
        head = {"inputs": [tensor], "parameters": {"binary_data_output": True}}
        body, rest = target.infer_binary(target.need(echo_name(dtype)), head, block).parts()
        expect_equal("binary_data_size", len(block), output(body, "y")["parameters"]["binary_data_size"])
        expect_equal("the very bytes", block, rest)

    return run


for _dtype in DTYPES:
    check(
        "datatypes",
        f"{_dtype} in JSON, extremes too",
        "OIP: tensor data types; JSON numbers, texts, booleans",
    )(_json_echo(_dtype))
    check(
        "datatypes", f"{_dtype} in binary", "Binary extension: little-endian, native size; BYTES with lengths"
    )(_binary_echo(_dtype))


@check("datatypes", "NaN and infinities leave valid JSON", "RFC 8259 6: NaN and Infinity are not JSON")
def _(target: Target) -> None:
    value = np.array([[np.nan, np.inf, -np.inf, 1.0]], dtype=np.float32)
    tensor, block = binary_tensor("x", "FP32", value)
    answer = target.infer_binary(target.need(echo_name("FP32")), {"inputs": [tensor]}, block)
    answer.json()


@check("datatypes", "NaN and infinities in binary", "Binary extension: the native representation, unchanged")
def _(target: Target) -> None:
    value = np.array([[np.nan, np.inf, -np.inf, -0.0]], dtype=np.float32)
    tensor, block = binary_tensor("x", "FP32", value)
    head = {"inputs": [tensor], "parameters": {"binary_data_output": True}}
    _, rest = target.infer_binary(target.need(echo_name("FP32")), head, block).parts()
    expect_equal("the very bytes", block, rest)


@check("datatypes", "an integer out of range is refused", "OIP REST: coerce to the type, or return an error")
def _(target: Target) -> None:
    bad = {"inputs": [{"name": "x", "shape": [1, 1], "datatype": "INT8", "data": [300]}]}
    target.infer(target.need(echo_name("INT8")), bad).refused()


@check(
    "datatypes",
    "a fraction is no integer",
    "OIP REST: coerce to the type, or return an error; not silently 1",
)
def _(target: Target) -> None:
    bad = {"inputs": [{"name": "x", "shape": [1, 1], "datatype": "INT64", "data": [1.75]}]}
    target.infer(target.need(echo_name("INT64")), bad).refused()


# ---- binary ------------------------------------------------------------------------------------------------


def _pair_head(target: Target, **fields: Any) -> tuple[dict[str, Any], list[bytes]]:
    tensors, blocks = zip(*(binary_tensor(n, "FP32", v) for n, v in target.pair.inputs.items()), strict=True)
    return {"inputs": list(tensors), **fields}, list(blocks)


@check(
    "binary", "the extension is announced", "Binary extension: binary_tensor_data in the server's metadata"
)
def _(target: Target) -> None:
    extensions = target.get("/v2").ok().get("extensions")
    expect("binary_tensor_data" in (extensions or []), "binary_tensor_data among extensions", extensions)


@check("binary", "binary in, JSON out", "Binary extension: binary_data_size on an input")
def _(target: Target) -> None:
    head, blocks = _pair_head(target)
    _holds(target.infer_binary(target.pair.model, head, *blocks), target.pair)


@check("binary", "JSON in, one output binary", "Binary extension: binary_data on a requested output")
def _(target: Target) -> None:
    outputs = [{"name": "sum", "parameters": {"binary_data": True}}, {"name": "difference"}]
    body, rest = target.infer(target.pair.model, target.pair.payload(outputs=outputs)).parts()
    expect_values("sum", target.pair.expected["sum"], from_raw("FP32", rest))
    expect("data" not in output(body, "sum"), "no data for a binary output", output(body, "sum"))
    expect_values("difference", target.pair.expected["difference"], output(body, "difference")["data"])


@check("binary", "all outputs binary", "Binary extension: binary_data_output on the request")
def _(target: Target) -> None:
    head, blocks = _pair_head(target, parameters={"binary_data_output": True})
    body, rest = target.infer_binary(target.pair.model, head, *blocks).parts()
    at = 0
    for item in body["outputs"]:
        size = item["parameters"]["binary_data_size"]
        expect_values(
            item["name"], target.pair.expected[item["name"]], from_raw("FP32", rest[at : at + size])
        )
        at += size
    expect_equal("bytes after the JSON", at, len(rest))


@check("binary", "an output may stay JSON", "Binary extension: binary_data overrides binary_data_output")
def _(target: Target) -> None:
    outputs = [{"name": "sum", "parameters": {"binary_data": False}}, {"name": "difference"}]
    head, blocks = _pair_head(target, outputs=outputs, parameters={"binary_data_output": True})
    body, rest = target.infer_binary(target.pair.model, head, *blocks).parts()
    expect_values("sum", target.pair.expected["sum"], output(body, "sum")["data"])
    expect_values("difference", target.pair.expected["difference"], from_raw("FP32", rest))


@check("binary", "binary and JSON inputs together", "Binary extension: each tensor is binary or not")
def _(target: Target) -> None:
    first, block = binary_tensor("a", "FP32", target.pair.inputs["a"])
    head = {"inputs": [first, json_tensor("b", "FP32", target.pair.inputs["b"])]}
    _holds(target.infer_binary(target.pair.model, head, block), target.pair)


@check("binary", "blocks follow the order of the inputs", "Binary extension: data in the order of the JSON")
def _(target: Target) -> None:
    head, blocks = _pair_head(target)
    head["inputs"].reverse()
    _holds(target.infer_binary(target.pair.model, head, *reversed(blocks)), target.pair)


@check(
    "binary", "the answer is octets", "Binary extension: Content-Type application/octet-stream, lengths right"
)
def _(target: Target) -> None:
    head, blocks = _pair_head(target, parameters={"binary_data_output": True})
    answer = target.infer_binary(target.pair.model, head, *blocks)
    answer.parts()
    expect_equal("Content-Type", "application/octet-stream", answer.headers.get("content-type"))
    expect_equal("Content-Length", str(len(answer.body)), answer.headers.get("content-length"))


@check("binary", "BYTES may hold anything", "Binary extension: 4-byte length, then the actual bytes")
def _(target: Target) -> None:
    block = b"\x00\x00\x00\x00" + b"\x03\x00\x00\x00a\x00b"
    tensor = {
        "name": "x",
        "shape": [1, 2],
        "datatype": "BYTES",
        "parameters": {"binary_data_size": len(block)},
    }
    head = {"inputs": [tensor], "parameters": {"binary_data_output": True}}
    _, rest = target.infer_binary(target.need(echo_name("BYTES")), head, block).parts()
    expect_equal("the very bytes", block, rest)


def _spoil(name: str, clause: str, spoiler: Any) -> None:
    def run(target: Target) -> None:
        head, blocks = _pair_head(target)
        headers = spoiler(head, blocks)
        target.infer_binary(
            target.pair.model, head, *blocks, **(headers if isinstance(headers, dict) else {})
        ).refused()
        _holds(target.infer(target.pair.model, target.pair.payload()), target.pair)

    check("binary", name, clause)(run)


_SIZE = "Binary extension: binary_data_size is the size of the tensor's data"
_LENGTH = "Binary extension: Inference-Header-Content-Length is the length of the JSON"


def _first(head: dict[str, Any]) -> dict[str, Any]:
    parameters: dict[str, Any] = head["inputs"][0]["parameters"]
    return parameters


_spoil(
    "a size that does not fit the shape is refused", _SIZE, lambda h, b: _first(h).update(binary_data_size=20)
)
_spoil("a size that is no number is refused", _SIZE, lambda h, b: _first(h).update(binary_data_size="many"))
_spoil("a negative size is refused", _SIZE, lambda h, b: _first(h).update(binary_data_size=-24))
_spoil("missing bytes are refused", _SIZE, lambda h, b: b.pop())
_spoil("bytes left over are refused", _SIZE, lambda h, b: b.append(b"more"))
_spoil(
    "a header longer than the body is refused",
    _LENGTH,
    lambda h, b: {"Inference_Header_Content_Length": "100000"},
)
_spoil(
    "a header that is no number is refused", _LENGTH, lambda h, b: {"Inference_Header_Content_Length": "x"}
)
_spoil("a negative header is refused", _LENGTH, lambda h, b: {"Inference_Header_Content_Length": "-1"})


@check(
    "binary", "BYTES with wrong lengths is refused", "Binary extension: 4-byte length, then the actual bytes"
)
def _(target: Target) -> None:
    for block in (
        b"\xff\xff\xff\xffab",
        b"\x01\x00\x00\x00",
        b"\x01\x00",
        raw("BYTES", np.array(["a", "b"])),
    ):
        tensor = {
            "name": "x",
            "shape": [1, 1],
            "datatype": "BYTES",
            "parameters": {"binary_data_size": len(block)},
        }
        target.infer_binary(target.need(echo_name("BYTES")), {"inputs": [tensor]}, block).refused()
