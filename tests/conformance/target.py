"""The server under test: its addresses, its models, and plain ways to talk to it.

No client library stands between: what these send and read is what is on the wire.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

import grpc
import numpy as np

from tests.conformance.suite import NotApplicable, Unmet, expect
from tests.support.messages import SERVICE, message
from tests.support.models import DTYPES

PAIR = "conformance_pair"
LOOKUP = "conformance_lookup"
TIMEOUT = 10.0


def echo_name(dtype: str) -> str:
    return f"conformance_echo_{dtype.lower()}"


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes

    def json(self) -> Any:
        """The body, if it is JSON by RFC 8259 (so no NaN)."""
        try:
            return json.loads(self.body, parse_constant=_refuse)
        except ValueError as error:
            raise Unmet("a JSON body (RFC 8259)", f"{error}: {self.body[:200]!r}") from None

    def ok(self) -> Any:
        expect(self.status == 200, "status 200", f"{self.status} {self.body[:300]!r}")
        return self.json()

    def refused(self, *statuses: int) -> str:
        """An error that blames the caller, with the protocol's error object; its text."""
        allowed = statuses or tuple(range(400, 500))
        expected = " or ".join(map(str, statuses)) if statuses else "4xx"
        expect(self.status in allowed, f"status {expected}", f"{self.status} {self.body[:300]!r}")
        content = self.json()
        expect(
            isinstance(content, dict) and isinstance(content.get("error"), str) and content["error"],
            'the error object {"error": text}',
            content,
        )
        return str(content["error"])

    def parts(self) -> tuple[Any, bytes]:
        """The JSON and the binary part of an answer with the binary extension."""
        expect(self.status == 200, "status 200", f"{self.status} {self.body[:300]!r}")
        length = self.headers.get("inference-header-content-length")
        expect(length is not None, "the header Inference-Header-Content-Length", dict(self.headers))
        size = int(length or 0)
        return Answer(200, {}, self.body[:size]).json(), self.body[size:]


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


@dataclass(frozen=True)
class Example:
    """A request whose answer is known (or, for a model that is not ours, asked for once)."""

    model: str
    inputs: Mapping[str, np.ndarray]
    datatypes: Mapping[str, str]
    expected: Mapping[str, np.ndarray]

    def payload(self, **fields: Any) -> dict[str, Any]:
        return {"inputs": [json_tensor(n, self.datatypes[n], v) for n, v in self.inputs.items()], **fields}


def json_tensor(name: str, datatype: str, value: np.ndarray, **fields: Any) -> dict[str, Any]:
    return {
        "name": name,
        "shape": list(value.shape),
        "datatype": datatype,
        "data": value.ravel().tolist(),
        **fields,
    }


def binary_tensor(name: str, datatype: str, value: np.ndarray) -> tuple[dict[str, Any], bytes]:
    content = raw(datatype, value)
    return {
        "name": name,
        "shape": list(value.shape),
        "datatype": datatype,
        "parameters": {"binary_data_size": len(content)},
    }, content


def raw(datatype: str, value: np.ndarray) -> bytes:
    if datatype == "BYTES":
        texts = [text.encode() for text in value.ravel()]
        return b"".join(len(text).to_bytes(4, "little") + text for text in texts)
    return np.ascontiguousarray(value).astype(value.dtype.newbyteorder("<")).tobytes()


def from_raw(datatype: str, content: bytes) -> list[Any]:
    if datatype != "BYTES":
        return np.frombuffer(content, np.dtype(DTYPES[datatype][1]).newbyteorder("<")).tolist()
    texts, at = [], 0
    while at < len(content):
        size = int.from_bytes(content[at : at + 4], "little")
        texts.append(content[at + 4 : at + 4 + size].decode())
        at += 4 + size
    return texts


def output(answer: Any, name: str) -> Any:
    found = [item for item in answer["outputs"] if item["name"] == name]
    expect(len(found) == 1, f"one output named {name}", [item.get("name") for item in answer["outputs"]])
    return found[0]


def expect_values(what: str, expected: np.ndarray, got: Any) -> None:
    """Flat or nested, as a server likes; floats to seven digits, all else exactly."""
    flat = np.array(got, dtype=object).ravel().tolist()
    wanted = expected.ravel().tolist()
    if expected.dtype.kind == "f":
        tolerance = 1e-3 if expected.dtype == np.float16 else 1e-6
        same = len(flat) == len(wanted) and np.allclose(
            np.array(flat, dtype=float), np.array(wanted, dtype=float), rtol=tolerance, atol=tolerance
        )
    else:
        same = flat == wanted and [type(item) for item in flat] == [type(item) for item in wanted]
    if not same:
        raise Unmet(f"{what} = {wanted}", flat)


class Target:
    def __init__(
        self,
        http_url: str | None,
        grpc_address: str | None,
        model: str | None = None,
        version: str | None = None,
    ) -> None:
        self.http_url = http_url
        self.grpc_address = grpc_address
        self._model = model
        self._version = version
        self._connection: http.client.HTTPConnection | None = None
        self._channel: grpc.Channel | None = None
        self._example: Example | None = None

    def close(self) -> None:
        if self._connection:
            self._connection.close()
        if self._channel:
            self._channel.close()

    # ---- REST ----

    @property
    def address(self) -> tuple[str, int]:
        if self.http_url is None:
            raise NotApplicable("no REST address was given")
        parts = urlsplit(self.http_url)
        return parts.hostname or "127.0.0.1", parts.port or 80

    def request(
        self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """One request on a kept connection; a body that is not bytes goes as JSON."""
        sent = dict(headers or {})
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
            sent.setdefault("Content-Type", "application/json")
        if self._connection is not None:
            # A server may close an idle connection, and some do after an error: then ask once more, anew.
            with contextlib.suppress(ConnectionError, http.client.BadStatusLine):
                return self._exchange(method, path, body, sent)
        self._connection = http.client.HTTPConnection(*self.address, timeout=TIMEOUT)
        return self._exchange(method, path, body, sent)

    def _exchange(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> Answer:
        connection = self._connection
        assert connection is not None
        try:
            connection.request(method, path, body=body, headers=headers)
            response = connection.getresponse()
            return Answer(response.status, {n.lower(): v for n, v in response.getheaders()}, response.read())
        except Exception:
            connection.close()
            self._connection = None
            raise

    def get(self, path: str) -> Answer:
        return self.request("GET", path)

    def infer(self, model: str, body: object, headers: Mapping[str, str] | None = None) -> Answer:
        return self.request("POST", f"/v2/models/{quote(model)}/infer", body, headers)

    def infer_binary(self, model: str, head: dict[str, Any], *blocks: bytes, **headers: str) -> Answer:
        text = json.dumps(head).encode()
        sent = {
            "Content-Type": "application/octet-stream",
            "Inference-Header-Content-Length": str(len(text)),
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        return self.infer(model, text + b"".join(blocks), sent)

    def exchange(self, sent: bytes, *, until_closed: bool = False, seconds: float = 3.0) -> bytes:
        """Raw bytes on a connection of its own; reads until it is closed or nothing comes for a while."""
        with socket.create_connection(self.address, timeout=TIMEOUT) as connection:
            connection.sendall(sent)
            connection.settimeout(seconds if until_closed else 1.0)
            got = b""
            try:
                while chunk := connection.recv(65536):
                    got += chunk
            except (TimeoutError, ConnectionResetError):
                if until_closed:
                    raise Unmet("the server closes the connection", got) from None
            return got

    # ---- models ----

    @property
    def example(self) -> Example:
        """The pair model, or whatever model was named."""
        if self._example is None:
            self._example = self._pair() if self._model in (None, PAIR) else self._probe(str(self._model))
        return self._example

    @property
    def pair(self) -> Example:
        if self.example.model != PAIR:
            raise NotApplicable("the suite's own models are not on this server")
        return self.example

    @property
    def version(self) -> str:
        """A version of the example's model that can be asked for."""
        if self._version:
            return self._version
        versions = self.get(f"/v2/models/{quote(self.example.model)}").ok().get("versions")
        if not versions:
            raise NotApplicable("the model's metadata names no versions")
        return str(versions[0])

    def need(self, model: str) -> str:
        if self.example.model != PAIR:
            raise NotApplicable("the suite's own models are not on this server")
        return model

    @staticmethod
    def _pair() -> Example:
        a = np.array([[1.5, -2.0], [3.0, 0.25], [0.0, 1e6]], dtype=np.float32)
        b = np.array([[0.5, 4.0], [-3.0, 0.75], [1.0, -1.0]], dtype=np.float32)
        return Example(
            PAIR, {"a": a, "b": b}, {"a": "FP32", "b": "FP32"}, {"sum": a + b, "difference": a - b}
        )

    def _probe(self, model: str) -> Example:
        metadata = self.get(f"/v2/models/{quote(model)}").ok()
        rng = np.random.default_rng(0)
        inputs, datatypes = {}, {}
        for tensor in metadata["inputs"]:
            shape = tuple(1 if size < 0 else size for size in tensor["shape"])
            kind = DTYPES[tensor["datatype"]][1]
            inputs[tensor["name"]] = (
                np.full(shape, "a", dtype=object)
                if tensor["datatype"] == "BYTES"
                else rng.integers(0, 2, shape).astype(kind)
            )
            datatypes[tensor["name"]] = tensor["datatype"]
        example = Example(model, inputs, datatypes, {})
        answer = self.infer(model, example.payload()).ok()
        expected = {
            item["name"]: np.array(item["data"], dtype=DTYPES[item["datatype"]][1])
            for item in answer["outputs"]
        }
        return Example(model, inputs, datatypes, expected)

    # ---- gRPC ----

    @property
    def channel(self) -> grpc.Channel:
        if self.grpc_address is None:
            raise NotApplicable("no gRPC address was given")
        if self._channel is None:
            self._channel = grpc.insecure_channel(self.grpc_address)
        return self._channel

    def call(self, method: str, request: Any = None, **options: Any) -> Any:
        call = self.channel.unary_unary(
            f"/{SERVICE}/{method}",
            request_serializer=lambda sent: sent.SerializeToString(),
            response_deserializer=message(f"{method}Response").FromString,
        )
        if request is None:
            request = message(f"{method}Request")()
        return call(request, timeout=TIMEOUT, **options)

    def call_fails(self, method: str, request: Any, *codes: grpc.StatusCode, **options: Any) -> str:
        """The status of a refused call must be one of `codes`; answers the details."""
        try:
            answer = self.call(method, request, **options)
        except grpc.RpcError as error:
            code: grpc.StatusCode = error.code()
            expected = " or ".join(c.name for c in codes)
            expect(code in codes, f"status {expected}", f"{code.name}: {error.details()}")
            return str(error.details())
        raise Unmet(f"status {' or '.join(c.name for c in codes)}", f"OK: {answer}")
