"""REST: errors, the model repository, and HTTP itself."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import numpy as np

from tests.conformance.suite import Unmet, check, expect, expect_equal
from tests.conformance.target import PAIR, Example, Target, echo_name, expect_values, json_tensor, output

_FAILED = "OIP REST: a failed inference is an HTTP error (typically 400) with {error: text}"


def _still_answers(target: Target, example: Example | None = None) -> None:
    example = example or target.example
    body = target.infer(example.model, example.payload()).ok()
    for name, value in example.expected.items():
        expect_values(name, value, output(body, name)["data"])


# ---- errors ------------------------------------------------------------------------------------------------


def _body(name: str, text: bytes) -> None:
    def run(target: Target) -> None:
        target.infer(target.example.model, text, {"Content-Type": "application/json"}).refused()
        _still_answers(target)

    check("errors", name, _FAILED)(run)


_body("no JSON at all", b"this is not JSON")
_body("JSON cut off", b'{"inputs": [{"name": "a"')
_body("JSON with something after it", b'{"inputs": []} {}')
_body("an empty body", b"")
_body("a list for the request", b"[1, 2]")
_body("null for the request", b"null")
_body("no inputs", b"{}")
_body("inputs that are no list", b'{"inputs": {"a": 1}}')
_body("inputs that are texts", b'{"inputs": ["a"]}')
_body(
    "bytes that are no UTF-8",
    b'{"inputs": [{"name": "\xff\xfe", "shape": [1], "datatype": "FP32", "data": [1]}]}',
)
_body("brackets ten thousand deep", b'{"inputs": ' + b"[" * 10_000)


def _input(name: str, change: Any, *, says: str | None = None) -> None:
    """One thing is wrong with the first input."""

    def run(target: Target) -> None:
        payload = target.example.payload()
        first = payload["inputs"][0]
        wrong = change(first)
        if wrong is not None:
            payload["inputs"][0] = wrong
        text = target.infer(target.example.model, payload).refused()
        if says == "name":
            # The message must help: an input of this name is what is wrong.
            named = str(target.example.payload()["inputs"][0]["name"])
            expect(
                re.search(rf"\b{re.escape(named)}\b", text), f"a message that names the input {named!r}", text
            )
        elif says:
            expect(says in text, f"a message with {says!r}", text)
        _still_answers(target)

    check("errors", name, _FAILED)(run)


_input("an input without name", lambda i: i.pop("name") and None)
_input("an input without shape", lambda i: i.pop("shape") and None)
_input("an input without datatype", lambda i: i.pop("datatype") and None)
_input("an input without data", lambda i: i.pop("data") and None)
_input("a name that is no text", lambda i: {**i, "name": 7})
_input("an input that the model has not", lambda i: {**i, "name": "no_such_input"}, says="no_such_input")
_input("a datatype that nobody has", lambda i: {**i, "datatype": "FLOAT128"}, says="FLOAT128")
_input("another datatype than the model's", lambda i: {**i, "datatype": "INT64"}, says="name")
_input("fewer elements than the shape says", lambda i: {**i, "data": i["data"][:-1]}, says="name")
_input("more elements than the shape says", lambda i: {**i, "data": [*i["data"], 1.0]}, says="name")
_input("a negative size", lambda i: {**i, "shape": [-1, *i["shape"][1:]]})
_input("a size that is no integer", lambda i: {**i, "shape": [1.5, *i["shape"][1:]]})
_input("a shape that is no list", lambda i: {**i, "shape": 3})
_input("a dimension too many", lambda i: {**i, "shape": [*i["shape"], 1]}, says="name")
_input("texts for numbers", lambda i: {**i, "data": ["x"] * len(i["data"])})
_input("objects for numbers", lambda i: {**i, "data": [{}] * len(i["data"])})
_input("a text for the data", lambda i: {**i, "data": "1, 2"})
_input("ragged data", lambda i: {**i, "data": [[1.0], [1.0, 2.0], [3.0] * max(len(i["data"]) - 3, 0)]})


@check(
    "errors",
    "null is no number",
    "OIP REST: coerce, or return an error; a missing value may not become a value",
)
def _(target: Target) -> None:
    payload = target.pair.payload()
    for tensor in payload["inputs"]:
        tensor["data"] = [None] * len(tensor["data"])
    answer = target.infer(target.pair.model, payload)
    if answer.status != 200:
        answer.refused()
        return
    values = output(answer.ok(), "sum")["data"]
    expect(all(value is None for value in values), "an error, or missing values for missing values", values)


@check("errors", "a column too many", _FAILED)
def _(target: Target) -> None:
    wide = np.ones((3, 5), dtype=np.float32)
    payload = {"inputs": [json_tensor("a", "FP32", wide), json_tensor("b", "FP32", wide)]}
    target.infer(target.need(PAIR), payload).refused()
    _still_answers(target)


@check("errors", "an input is missing", _FAILED)
def _(target: Target) -> None:
    payload = target.pair.payload()
    payload["inputs"].pop()
    text = target.infer(target.pair.model, payload).refused()
    expect(re.search(r"\bb\b", text), "a message that names the missing input 'b'", text)


@check("errors", "an input twice", _FAILED)
def _(target: Target) -> None:
    payload = target.pair.payload()
    payload["inputs"].append(payload["inputs"][0])
    target.infer(target.pair.model, payload).refused()


@check("errors", "a shape of 10^12 elements", _FAILED)
def _(target: Target) -> None:
    payload = target.example.payload()
    payload["inputs"][0]["shape"] = [10**6, 10**6]
    started = time.monotonic()
    target.infer(target.example.model, payload).refused()
    expect(time.monotonic() - started < 2, "an answer within 2 s", f"{time.monotonic() - started:.1f} s")
    _still_answers(target)


@check("errors", "a size beyond 64 bits", _FAILED)
def _(target: Target) -> None:
    payload = target.example.payload()
    payload["inputs"][0]["shape"] = [2**70, 2]
    target.infer(target.example.model, payload).refused()
    _still_answers(target)


@check(
    "errors", "an unknown model", "OIP REST: a failed inference; RFC 9110 15.5.5: 404 for what is not there"
)
def _(target: Target) -> None:
    text = target.infer("no_such_model", target.example.payload()).refused(404)
    expect("no_such_model" in text, "a message that names the model", text)


@check("errors", "an unknown address", "RFC 9110 15.5.5: 404; the error object of the protocol")
def _(target: Target) -> None:
    target.get("/v2/no/such/address").refused(404)


@check("errors", "GET on infer", "RFC 9110 15.5.6: 405 with Allow")
def _(target: Target) -> None:
    answer = target.get(f"/v2/models/{target.example.model}/infer")
    expect_equal("status", 405, answer.status)
    expect("POST" in answer.headers.get("allow", ""), "Allow: POST", dict(answer.headers))


@check("errors", "POST on metadata", "RFC 9110 15.5.6: 405 with Allow")
def _(target: Target) -> None:
    answer = target.request("POST", "/v2", {})
    expect_equal("status", 405, answer.status)
    expect("GET" in answer.headers.get("allow", ""), "Allow: GET", dict(answer.headers))


@check(
    "errors", "errors are typed JSON", "OIP REST: the HTTP body must contain the error object; RFC 9110 8.3"
)
def _(target: Target) -> None:
    answer = target.infer(target.example.model, b"{")
    kind = answer.headers.get("content-type", "")
    expect(kind.startswith("application/json"), "Content-Type application/json", kind)


@check("errors", "an empty batch", "OIP REST: a dimension may be 0; an empty answer or an error, no failure")
def _(target: Target) -> None:
    empty = {"inputs": [{"name": "x", "shape": [0, 3], "datatype": "FP32", "data": []}]}
    answer = target.infer(target.need(echo_name("FP32")), empty)
    if answer.status != 200:
        answer.refused()
        return
    item = output(answer.ok(), "y")
    expect_equal("y", ([0, 3], []), (item["shape"], item["data"]))


# ---- repository --------------------------------------------------------------------------------------------

_REPOSITORY = "Model repository extension: "


def _index(target: Target, body: object = None) -> list[dict[str, Any]]:
    entries = target.request("POST", "/v2/repository/index", {} if body is None else body).ok()
    expect(isinstance(entries, list), "a list of models", entries)
    return list(entries)


@check("repository", "the extension is announced", _REPOSITORY + "model_repository in the server's metadata")
def _(target: Target) -> None:
    extensions = target.get("/v2").ok().get("extensions")
    expect("model_repository" in (extensions or []), "model_repository among extensions", extensions)


@check("repository", "the index", _REPOSITORY + "POST v2/repository/index lists name, version, state, reason")
def _(target: Target) -> None:
    entries = _index(target)
    mine = [item for item in entries if item.get("name") == target.example.model]
    expect(mine, f"an entry for {target.example.model}", entries)
    expect_equal("state", "READY", mine[0].get("state"))
    for item in entries:
        for name in ("name", "state", "reason", "version"):
            expect(isinstance(item.get(name, ""), str), f"{name} is a text", item)


@check("repository", "the index of ready models", _REPOSITORY + "ready: true lists only what can answer")
def _(target: Target) -> None:
    entries = _index(target, {"ready": True})
    states = {item.get("state") for item in entries}
    expect_equal("states", {"READY"}, states)


@check(
    "repository",
    "an index that is asked wrongly",
    _REPOSITORY + "a failed index is an HTTP error with {error}",
)
def _(target: Target) -> None:
    target.request("POST", "/v2/repository/index", {"ready": "perhaps"}).refused()


@check("repository", "unload and load", _REPOSITORY + "unload stops a model, load starts it")
def _(target: Target) -> None:
    model = target.need(echo_name("INT16"))
    payload = {"inputs": [{"name": "x", "shape": [1, 1], "datatype": "INT16", "data": [7]}]}
    base = f"/v2/repository/models/{model}"
    try:
        expect_equal("unload", 200, target.request("POST", f"{base}/unload").status)
        _until_unready(target, model)
        answer = target.infer(model, payload)
        expect(answer.status >= 400, "an error from an unloaded model", answer.status)
        named = [item for item in _index(target) if item["name"] == model]
        expect(named and named[0].get("state") != "READY", "the index keeps it, not READY", named)
        ready = [item["name"] for item in _index(target, {"ready": True})]
        expect(model not in ready, "not among the ready", ready)
    finally:
        loaded = target.request("POST", f"{base}/load")
    expect_equal("load", 200, loaded.status)
    expect_equal("y", [7], target.infer(model, payload).ok()["outputs"][0]["data"])


def _until_unready(target: Target, model: str) -> None:
    """Unloading may take its time: what runs is let finish."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        if target.get(f"/v2/models/{model}/ready").status != 200:
            return
        time.sleep(0.05)
    raise Unmet("an unloaded model is not ready", "200 for five seconds")


@check("repository", "load what is loaded", _REPOSITORY + "load reloads a model that is already loaded")
def _(target: Target) -> None:
    answer = target.request("POST", f"/v2/repository/models/{target.example.model}/load", {"parameters": {}})
    expect_equal("status", 200, answer.status)
    _still_answers(target)


@check("repository", "load what nobody has", _REPOSITORY + "a failed load is an HTTP error with {error}")
def _(target: Target) -> None:
    target.request("POST", "/v2/repository/models/no_such_model/load").refused()


@check("repository", "unload what nobody has", _REPOSITORY + "a failed unload is an HTTP error with {error}")
def _(target: Target) -> None:
    target.request("POST", "/v2/repository/models/no_such_model/unload").refused()


# ---- HTTP --------------------------------------------------------------------------------------------------


def _post(target: Target, number: int, *headers: str) -> bytes:
    body = json.dumps(target.example.payload(id=f"n{number}")).encode()
    lines = [
        f"POST /v2/models/{target.example.model}/infer HTTP/1.1",
        "Host: x",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        *headers,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def _statuses(got: bytes) -> list[int]:
    return [int(code) for code in re.findall(rb"HTTP/1\.[01] (\d{3})", got)]


@check("http", "one connection, many requests", "RFC 9112 9.3: connections persist")
def _(target: Target) -> None:
    got = target.exchange(
        b"".join(_post(target, n) for n in range(2)) + _post(target, 2, "Connection: close")
    )
    expect_equal("statuses", [200, 200, 200], _statuses(got))


@check("http", "pipelined answers come in order", "RFC 9112 9.3.2: responses in the order of the requests")
def _(target: Target) -> None:
    live = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n"
    got = target.exchange(b"".join(_post(target, n) + live for n in range(10)))
    expect_equal("ids in order", [b"n%d" % n for n in range(10)], re.findall(rb"\"id\"\s*:\s*\"(n\d)\"", got))
    expect_equal("statuses", [200] * 20, _statuses(got))


@check("http", "a chunked body", "RFC 9112 7.1: a recipient must decode chunked")
def _(target: Target) -> None:
    body = json.dumps(target.example.payload(id="chunked")).encode()
    head = (
        f"POST /v2/models/{target.example.model}/infer HTTP/1.1\r\nHost: x\r\n"
        "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    middle = len(body) // 2
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:middle], body[middle:]))
    got = target.exchange(head.encode() + chunks + b"0\r\n\r\n")
    expect_equal("statuses", [200], _statuses(got))
    expect(b"chunked" in got, "the answer to that request", got)


@check(
    "http", "Expect: 100-continue", "RFC 9110 10.1.1: 100, or a final status, without waiting for the body"
)
def _(target: Target) -> None:
    request = _post(target, 1, "Expect: 100-continue")
    head, _, body = request.partition(b"\r\n\r\n")
    import socket

    with socket.create_connection(target.address, timeout=3) as connection:
        connection.sendall(head + b"\r\n\r\n")
        try:
            first = connection.recv(4096)
        except TimeoutError:
            raise Unmet("100 Continue before the body is sent", "nothing for 3 s") from None
        expect(first.startswith(b"HTTP/1.1 100"), "100 Continue", first)
        connection.sendall(body)
        got = first[first.index(b"\r\n\r\n") + 4 :]
        while b"n1" not in got:
            chunk = connection.recv(65536)
            if not chunk:
                break
            got += chunk
        expect_equal("statuses", [200], _statuses(got))


@check("http", "HEAD", "RFC 9110 9.1: GET and HEAD must be supported; no body to HEAD")
def _(target: Target) -> None:
    head = b"HEAD /v2/health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    got = target.exchange(head)
    expect_equal("statuses", [200], _statuses(got))
    expect_equal("body", b"", got.partition(b"\r\n\r\n")[2])


@check("http", "Connection: close is honoured", "RFC 9112 9.6: the server closes after the last response")
def _(target: Target) -> None:
    got = target.exchange(_post(target, 1, "Connection: close"), until_closed=True)
    expect_equal("statuses", [200], _statuses(got))


@check("http", "HTTP/1.0 without keep-alive is closed", "RFC 9112 9.3: persistence is for HTTP/1.1")
def _(target: Target) -> None:
    got = target.exchange(b"GET /v2/health/live HTTP/1.0\r\n\r\n", until_closed=True)
    expect_equal("statuses", [200], _statuses(got))


@check("http", "no Host", "RFC 9112 3.2: 400 to an HTTP/1.1 request without Host")
def _(target: Target) -> None:
    got = target.exchange(b"GET /v2/health/live HTTP/1.1\r\nConnection: close\r\n\r\n")
    expect_equal("statuses", [400], _statuses(got))


@check("http", "two different lengths", "RFC 9112 6.3: an invalid Content-Length is an unrecoverable error")
def _(target: Target) -> None:
    got = target.exchange(
        b"POST /v2/repository/index HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{} "
    )
    expect_equal("statuses", [400], _statuses(got)[:1])


@check("http", "length and chunks at once", "RFC 9112 6.1: such a request ought to be handled as an error")
def _(target: Target) -> None:
    got = target.exchange(
        b"POST /v2/repository/index HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
    )
    expect_equal("statuses", [400], _statuses(got)[:1])


@check("http", "what is no HTTP", "RFC 9112 2.2: 400 to what is no request")
def _(target: Target) -> None:
    got = target.exchange(b"\x16\x03\x01\x02\x00\x01\x00 nonsense\r\n\r\n", until_closed=True)
    expect(_statuses(got) in ([400], []), "400, or the connection closed", got)
    _still_answers(target)


@check("http", "a header of a megabyte", "RFC 6585 5: 431; or 400, or the connection closed")
def _(target: Target) -> None:
    import socket

    request = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\nX-Long: " + b"a" * 1_000_000 + b"\r\n\r\n"
    with socket.create_connection(target.address, timeout=5) as connection:
        got = b""
        try:
            connection.sendall(request)
            connection.settimeout(3)
            got = connection.recv(4096)
        except (ConnectionError, TimeoutError):
            pass
    expect(_statuses(got)[:1] in ([431], [400], []), "431, 400 or closed", got[:200])
    _still_answers(target)


@check("http", "header names in any case", "RFC 9110 5.1: field names are case-insensitive")
def _(target: Target) -> None:
    request = _post(target, 1, "cOnNeCtIoN: close").replace(b"Content-Length", b"CONTENT-LENGTH")
    expect_equal("statuses", [200], _statuses(target.exchange(request)))


@check("http", "a query in the address", "RFC 3986 3.4: the query is no part of the path")
def _(target: Target) -> None:
    expect_equal("status", 200, target.get("/v2/health/live?probe=1").status)


@check(
    "http", "a body in drops", "RFC 9112 6.3: the body is as long as Content-Length says, however it comes"
)
def _(target: Target) -> None:
    import socket

    request = _post(target, 1, "Connection: close")
    with socket.create_connection(target.address, timeout=5) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(0, len(request), 40):
            connection.sendall(request[at : at + 40])
            time.sleep(0.002)
        got = b""
        while chunk := connection.recv(65536):
            got += chunk
    expect_equal("statuses", [200], _statuses(got))
