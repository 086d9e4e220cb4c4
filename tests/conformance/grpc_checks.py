"""gRPC: health, metadata, inference, datatypes, statuses, extensions."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np

from tests.conformance.suite import Unmet, check, expect, expect_equal
from tests.conformance.target import (
    LOOKUP,
    TIMEOUT,
    Example,
    Target,
    echo_name,
    expect_values,
    from_raw,
    raw,
)
from tests.support.messages import SERVICE, message
from tests.support.models import DTYPES

CONTENTS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
NOT_FOUND, INVALID = grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT
_MISSING = (NOT_FOUND, INVALID, grpc.StatusCode.INTERNAL)
_TYPED = "OIP gRPC: InferTensorContents, the repeated type that matches the tensor's"
_RAW = "OIP gRPC: raw_input_contents, one for each input in the same order"
_STATUS = "OIP gRPC: OK indicates success, other codes failure; gRPC status codes say whose fault"


def request(example: Example, *, as_raw: bool = True, **fields: Any) -> Any:
    built = message("ModelInferRequest")(model_name=example.model, **fields)
    for name, value in example.inputs.items():
        add_input(built, name, example.datatypes[name], value, as_raw=as_raw)
    return built


def add_input(built: Any, name: str, dtype: str, value: np.ndarray, *, as_raw: bool) -> None:
    tensor = built.inputs.add(name=name, datatype=dtype, shape=list(value.shape))
    if as_raw:
        built.raw_input_contents.append(raw(dtype, value))
    else:
        flat = value.ravel().tolist()
        content = [text.encode() for text in flat] if dtype == "BYTES" else flat
        getattr(tensor.contents, CONTENTS[dtype]).extend(content)


def values(answer: Any) -> dict[str, list[Any]]:
    """Outputs by name, from raw or typed contents."""
    found = {}
    for number, tensor in enumerate(answer.outputs):
        if answer.raw_output_contents:
            found[tensor.name] = from_raw(tensor.datatype, answer.raw_output_contents[number])
        else:
            items = list(getattr(tensor.contents, CONTENTS[tensor.datatype]))
            found[tensor.name] = [text.decode() for text in items] if tensor.datatype == "BYTES" else items
    return found


def _holds(target: Target, built: Any, example: Example | None = None) -> Any:
    answer = target.call("ModelInfer", built)
    got = values(answer)
    for name, value in (example or target.example).expected.items():
        expect(name in got, f"an output {name}", list(got))
        expect_values(name, value, got[name])
    return answer


# ---- the service -------------------------------------------------------------------------------------------


@check("grpc", "ServerLive", "OIP gRPC: ServerLive, live is true")
def _(target: Target) -> None:
    expect_equal("live", True, target.call("ServerLive").live)


@check("grpc", "ServerReady", "OIP gRPC: ServerReady, ready is true")
def _(target: Target) -> None:
    expect_equal("ready", True, target.call("ServerReady").ready)


@check("grpc", "ModelReady", "OIP gRPC: ModelReady, ready is true")
def _(target: Target) -> None:
    built = message("ModelReadyRequest")(name=target.example.model)
    expect_equal("ready", True, target.call("ModelReady", built).ready)


@check("grpc", "ModelReady of what nobody has", "OIP gRPC: not ready, or an error")
def _(target: Target) -> None:
    try:
        answer = target.call("ModelReady", message("ModelReadyRequest")(name="no_such_model"))
    except grpc.RpcError as error:
        expect(error.code() in _MISSING, "NOT_FOUND", error.code())
    else:
        expect_equal("ready", False, answer.ready)


@check("grpc", "ServerMetadata", "OIP gRPC: ServerMetadata has name, version, extensions")
def _(target: Target) -> None:
    answer = target.call("ServerMetadata")
    expect(answer.name and answer.version, "a name and a version", answer)


@check("grpc", "ModelMetadata", "OIP gRPC: ModelMetadata has name, versions, platform, inputs, outputs")
def _(target: Target) -> None:
    answer = target.call("ModelMetadata", message("ModelMetadataRequest")(name=target.example.model))
    expect_equal("name", target.example.model, answer.name)
    expect(answer.platform, "a platform", answer)
    expect(answer.inputs and answer.outputs, "inputs and outputs", answer)
    for tensor in [*answer.inputs, *answer.outputs]:
        expect(tensor.datatype in DTYPES, "a datatype of the protocol", tensor)


@check("grpc", "tensors are the model's own", "OIP gRPC: TensorMetadata, -1 for what varies")
def _(target: Target) -> None:
    answer = target.call("ModelMetadata", message("ModelMetadataRequest")(name=target.pair.model))
    inputs = {t.name: (t.datatype, list(t.shape)) for t in answer.inputs}
    outputs = {t.name: (t.datatype, list(t.shape)) for t in answer.outputs}
    expect_equal("inputs", {"a": ("FP32", [-1, 2]), "b": ("FP32", [-1, 2])}, inputs)
    expect_equal("outputs", {"sum": ("FP32", [-1, 2]), "difference": ("FP32", [-1, 2])}, outputs)


@check("grpc", "ModelInfer with raw contents", _RAW)
def _(target: Target) -> None:
    answer = _holds(target, request(target.example))
    expect_equal("model_name", target.example.model, answer.model_name)


@check("grpc", "ModelInfer with typed contents", _TYPED)
def _(target: Target) -> None:
    _holds(target, request(target.example, as_raw=False))


@check("grpc", "raw outputs stand for all", "OIP gRPC: with raw_output_contents no output has contents")
def _(target: Target) -> None:
    answer = _holds(target, request(target.example))
    if answer.raw_output_contents:
        expect_equal("raw parts", len(answer.outputs), len(answer.raw_output_contents))
        expect(not any(o.HasField("contents") for o in answer.outputs), "no typed contents", answer)


@check("grpc", "the id comes back", "OIP gRPC: id, if specified, will be returned")
def _(target: Target) -> None:
    expect_equal("id", "ид-42", _holds(target, request(target.example, id="ид-42")).id)


@check("grpc", "no id, no id", "OIP gRPC: the id of the request, if one was specified")
def _(target: Target) -> None:
    expect_equal("id", "", _holds(target, request(target.example)).id)


@check("grpc", "parameters are taken", "OIP gRPC: parameters of request, input and output")
def _(target: Target) -> None:
    built = request(target.example)
    name = next(iter(target.example.expected))
    built.outputs.add(name=name)
    for owner in (built, built.inputs[0], built.outputs[0]):
        owner.parameters["text"].string_param = "a"
        owner.parameters["number"].int64_param = -3
        owner.parameters["flag"].bool_param = True
    expect_values(name, target.example.expected[name], values(target.call("ModelInfer", built))[name])


@check("grpc", "only the outputs named", "OIP gRPC: outputs requested; all if not specified")
def _(target: Target) -> None:
    for name, value in target.pair.expected.items():
        built = request(target.pair)
        built.outputs.add(name=name)
        got = values(target.call("ModelInfer", built))
        expect_equal("outputs", [name], list(got))
        expect_values(name, value, got[name])


@check("grpc", "by version", "OIP gRPC: model_version chooses the version")
def _(target: Target) -> None:
    answer = _holds(target, request(target.example, model_version=target.version))
    expect_equal("model_version", target.version, answer.model_version)


@check("grpc", "many at once on one connection", "HTTP/2: streams are independent")
def _(target: Target) -> None:
    target.call("ServerLive")

    def one(number: int) -> str:
        return str(_holds(target, request(target.example, id=f"n{number}")).id)

    with ThreadPoolExecutor(16) as pool:
        got = list(pool.map(one, range(64)))
    expect_equal("ids", [f"n{number}" for number in range(64)], got)


@check("grpc", "a message of two megabytes", "HTTP/2 6.9: flow control; gRPC's default limit is 4 MiB")
def _(target: Target) -> None:
    value = np.random.default_rng(0).normal(size=(1000, 500)).astype(np.float32)
    built = message("ModelInferRequest")(model_name=target.need(echo_name("FP32")))
    add_input(built, "x", "FP32", value, as_raw=True)
    expect_values("y", value, values(target.call("ModelInfer", built))["y"])


@check(
    "grpc", "metadata that nobody knows", "gRPC: custom metadata is for the application, and may be ignored"
)
def _(target: Target) -> None:
    built = request(target.example)
    target.call("ModelInfer", built, metadata=(("x-request-id", "7"), ("blob-bin", b"\x00\xff")))


@check(
    "grpc", "a compressed request", "gRPC compression: accept it, or UNIMPLEMENTED with grpc-accept-encoding"
)
def _(target: Target) -> None:
    try:
        answer = target.call("ModelInfer", request(target.example), compression=grpc.Compression.Gzip)
    except grpc.RpcError as error:
        expect(error.code() is grpc.StatusCode.UNIMPLEMENTED, "UNIMPLEMENTED", error.code())
    else:
        for name, value in target.example.expected.items():
            expect_values(name, value, values(answer)[name])


# ---- datatypes ---------------------------------------------------------------------------------------------


def _sample(dtype: str) -> np.ndarray:
    kind = DTYPES[dtype][1]
    if dtype == "BYTES":
        return np.array([["", "naïve ✈"], ["a\x00b", "x" * 300]], dtype=object)
    if dtype == "BOOL":
        return np.array([[True, False], [False, True]])
    limits = np.finfo(kind) if dtype.startswith("FP") else np.iinfo(kind)
    return np.array([[limits.min, limits.max], [0, 1]], dtype=kind)


def _echo(dtype: str, as_raw: bool) -> Any:
    def run(target: Target) -> None:
        value = _sample(dtype)
        built = message("ModelInferRequest")(model_name=target.need(echo_name(dtype)))
        add_input(built, "x", dtype, value, as_raw=as_raw)
        answer = target.call("ModelInfer", built)
        expect_equal("datatype", dtype, answer.outputs[0].datatype)
        expect_equal("shape", list(value.shape), list(answer.outputs[0].shape))
        expect_values("y", value, values(answer)["y"])

    return run


for _dtype in DTYPES:
    check("grpc-datatypes", f"{_dtype}, raw", _RAW)(_echo(_dtype, True))
    if _dtype in CONTENTS:
        check("grpc-datatypes", f"{_dtype}, typed", _TYPED)(_echo(_dtype, False))


# ---- statuses ----------------------------------------------------------------------------------------------


@check("grpc-errors", "an unknown model", _STATUS + ": NOT_FOUND")
def _(target: Target) -> None:
    built = request(target.example)
    built.model_name = "no_such_model"
    text = target.call_fails("ModelInfer", built, NOT_FOUND)
    expect("no_such_model" in text, "details that name the model", text)


@check("grpc-errors", "metadata of an unknown model", _STATUS + ": NOT_FOUND")
def _(target: Target) -> None:
    target.call_fails("ModelMetadata", message("ModelMetadataRequest")(name="no_such_model"), NOT_FOUND)


@check("grpc-errors", "an unknown version", _STATUS + ": NOT_FOUND")
def _(target: Target) -> None:
    target.call_fails("ModelInfer", request(target.example, model_version="987654321"), NOT_FOUND, INVALID)


def _wrong(name: str, clause: str, spoil: Any, *, as_raw: bool = True) -> None:
    def run(target: Target) -> None:
        built = request(target.example, as_raw=as_raw)
        spoil(built)
        target.call_fails("ModelInfer", built, INVALID)
        _holds(target, request(target.example))

    check("grpc-errors", name, f"{clause}; {_STATUS}: INVALID_ARGUMENT")(run)


_wrong("raw and typed together", "OIP gRPC: with raw contents no input has contents",
       lambda r: r.inputs[0].contents.fp32_contents.append(1.0))  # fmt: skip
_wrong("too few raw parts", _RAW, lambda r: r.raw_input_contents.pop())
_wrong("too many raw parts", _RAW, lambda r: r.raw_input_contents.append(b"1234"))
_wrong("a raw part of the wrong size", _RAW, lambda r: r.raw_input_contents.__setitem__(0, b"123"))
_wrong(
    "no inputs", "OIP gRPC: inputs", lambda r: (r.ClearField("inputs"), r.ClearField("raw_input_contents"))
)
_wrong("an unknown input", "OIP gRPC: inputs", lambda r: setattr(r.inputs[0], "name", "no_such_input"))
_wrong("an unknown datatype", "OIP gRPC: datatype", lambda r: setattr(r.inputs[0], "datatype", "FLOAT128"))
_wrong("another datatype", "OIP gRPC: datatype", lambda r: setattr(r.inputs[0], "datatype", "INT16"))
_wrong("a negative size", "OIP gRPC: shape", lambda r: r.inputs[0].shape.__setitem__(0, -3))
_wrong("a shape of 10^12", "OIP gRPC: shape", lambda r: r.inputs[0].shape.__setitem__(0, 10**12))
_wrong("an unknown output", "OIP gRPC: outputs", lambda r: r.outputs.add(name="no_such_output"))
_wrong("too few elements", _TYPED, lambda r: r.inputs[0].contents.fp32_contents.pop(), as_raw=False)
_wrong("contents of another type", _TYPED,
       lambda r: (r.inputs[0].ClearField("contents"), r.inputs[0].contents.bool_contents.append(True)),
       as_raw=False)  # fmt: skip


@check(
    "grpc-errors", "bytes that are no message", "gRPC: INTERNAL or INVALID_ARGUMENT to what cannot be read"
)
def _(target: Target) -> None:
    call = target.channel.unary_unary(f"/{SERVICE}/ModelInfer")
    try:
        answer = call(b"\xff\xff\xff\xff", timeout=TIMEOUT)
    except grpc.RpcError as error:
        allowed = (INVALID, grpc.StatusCode.INTERNAL)
        expect(error.code() in allowed, "INVALID_ARGUMENT or INTERNAL", f"{error.code()}: {error.details()}")
    else:
        raise Unmet("an error", answer)
    _holds(target, request(target.example))


@check("grpc-errors", "a method that nobody has", "gRPC: UNIMPLEMENTED for an unknown method")
def _(target: Target) -> None:
    for path in (f"/{SERVICE}/NoSuchMethod", "/no.such.Service/Method"):
        try:
            answer = target.channel.unary_unary(path)(b"", timeout=TIMEOUT)
        except grpc.RpcError as error:
            expect(error.code() is grpc.StatusCode.UNIMPLEMENTED, "UNIMPLEMENTED", error.code())
        else:
            raise Unmet("UNIMPLEMENTED", answer)


@check("grpc-errors", "a failure inside the model", _STATUS)
def _(target: Target) -> None:
    built = message("ModelInferRequest")(model_name=target.need(LOOKUP))
    add_input(built, "key", "INT64", np.array([5000]), as_raw=True)
    codes = (INVALID, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)
    target.call_fails("ModelInfer", built, *codes)


# ---- extensions --------------------------------------------------------------------------------------------


@check("grpc-extensions", "RepositoryIndex", "Model repository extension, gRPC: an entry for each model")
def _(target: Target) -> None:
    answer = target.call("RepositoryIndex")
    states = {item.name: item.state for item in answer.models}
    expect_equal(f"state of {target.example.model}", "READY", states.get(target.example.model))


@check("grpc-extensions", "unload and load", "Model repository extension, gRPC")
def _(target: Target) -> None:
    model = target.need(echo_name("UINT16"))
    built = message("ModelInferRequest")(model_name=model)
    add_input(built, "x", "UINT16", np.array([[7]], dtype=np.uint16), as_raw=True)
    try:
        target.call("RepositoryModelUnload", message("RepositoryModelUnloadRequest")(model_name=model))
        target.call_fails("ModelInfer", built, *_MISSING, grpc.StatusCode.UNAVAILABLE)
    finally:
        target.call("RepositoryModelLoad", message("RepositoryModelLoadRequest")(model_name=model))
    expect_equal("y", [7], values(target.call("ModelInfer", built))["y"])


@check(
    "grpc-extensions", "load what nobody has", "Model repository extension, gRPC: other codes mean failure"
)
def _(target: Target) -> None:
    built = message("RepositoryModelLoadRequest")(model_name="no_such_model")
    target.call_fails("RepositoryModelLoad", built, *_MISSING)


def _reflected(target: Target, **question: str) -> Any:
    from grpc_reflection.v1alpha import reflection_pb2 as messages

    method = target.channel.stream_stream(
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        request_serializer=messages.ServerReflectionRequest.SerializeToString,
        response_deserializer=messages.ServerReflectionResponse.FromString,
    )
    return next(iter(method(iter([messages.ServerReflectionRequest(**question)]), timeout=TIMEOUT)))


@check("grpc-extensions", "reflection lists the service", "gRPC server reflection: list_services")
def _(target: Target) -> None:
    answer = _reflected(target, list_services="")
    names = [item.name for item in answer.list_services_response.service]
    expect(SERVICE in names, f"{SERVICE} among the services", names)


@check("grpc-extensions", "reflection describes it", "gRPC server reflection: file_containing_symbol")
def _(target: Target) -> None:
    from google.protobuf import descriptor_pb2

    answer = _reflected(target, file_containing_symbol=SERVICE)
    files = [
        descriptor_pb2.FileDescriptorProto.FromString(content)
        for content in answer.file_descriptor_response.file_descriptor_proto
    ]
    methods = {m.name for file in files for service in file.service for m in service.method}
    core = {"ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer"}
    expect(core <= methods, f"at least {sorted(core)}", sorted(methods))


@check("grpc-extensions", "the health service", "grpc.health.v1: Check answers SERVING")
def _(target: Target) -> None:
    # A HealthCheckResponse with status SERVING is field 1, varint, 1.
    got = target.channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=TIMEOUT)
    expect_equal("HealthCheckResponse", b"\x08\x01", got)
