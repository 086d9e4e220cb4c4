"""Server reflection, v1 and v1alpha: grpcurl and other tools need no .proto file."""

from __future__ import annotations

from typing import Any

from serving.runtime.grpc.call import Call
from serving.runtime.grpc.methods import Streaming, decode
from serving.runtime.grpc.protobuf import Descriptors, Method
from serving.runtime.grpc.status import CallFailed, Status

_STREAM_ANSWERS = 64


def reflection_methods(descriptors: Descriptors) -> dict[str, Any]:
    return {
        method.path: Reflection(descriptors, method)
        for method in descriptors.methods.values()
        if method.path.endswith("/ServerReflectionInfo")
    }


class Reflection(Streaming):
    def __init__(self, descriptors: Descriptors, method: Method) -> None:
        self._descriptors = descriptors
        self._method = method

    def message(self, call: Call, message: bytes) -> None:
        request = decode(self._method.request, message)
        answer = {"valid_host": request.get("host", ""), "original_request": request, **self._answer(request)}
        call.send_message(self._method.response.encode(answer))
        if call.backlog > _STREAM_ANSWERS:
            call.fail(CallFailed(Status.RESOURCE_EXHAUSTED, "the answers are not read"))

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        known = self._descriptors
        if "list_services" in request:
            return {"list_services_response": {"service": [{"name": name} for name in known.services]}}
        if "file_by_filename" in request:
            file = known.files.get(request["file_by_filename"])
            return _file(file.raw) if file else _missing(f"no file {request['file_by_filename']!r}")
        if "file_containing_symbol" in request:
            symbol = request["file_containing_symbol"]
            raw = next((file.raw for file in known.files.values() if symbol in file.symbols), None)
            return _file(raw) if raw else _missing(f"no symbol {symbol!r}")
        if "file_containing_extension" in request or "all_extension_numbers_of_type" in request:
            return _missing("proto3 messages have no extensions")
        return {
            "error_response": {
                "error_code": int(Status.INVALID_ARGUMENT),
                "error_message": "the request asks for nothing",
            }
        }


def _file(raw: bytes) -> dict[str, Any]:
    return {"file_descriptor_response": {"file_descriptor_proto": [raw]}}


def _missing(message: str) -> dict[str, Any]:
    return {"error_response": {"error_code": int(Status.NOT_FOUND), "error_message": message}}
