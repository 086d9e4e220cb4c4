"""REST: health, metadata, ids, parameters, versions, selection of outputs."""

from __future__ import annotations

from urllib.parse import quote

from tests.conformance.suite import Unmet, check, expect, expect_equal
from tests.conformance.target import LOOKUP, PAIR, Target, expect_values, output
from tests.support.models import DTYPES

# ---- health ------------------------------------------------------------------------------------------------


@check("health", "the server is live", "OIP REST: GET v2/health/live answers 200 from a live server")
def _(target: Target) -> None:
    expect_equal("status", 200, target.get("/v2/health/live").status)


@check("health", "the server is ready", "OIP REST: GET v2/health/ready answers 200 when models can answer")
def _(target: Target) -> None:
    expect_equal("status", 200, target.get("/v2/health/ready").status)


@check("health", "live says so in its body", "OIP REST: $live_server_response = {live: bool}")
def _(target: Target) -> None:
    expect_equal("live", True, target.get("/v2/health/live").ok().get("live"))


@check(
    "health", "ready says so in its body", "OIP REST: $ready_server_response has one boolean (live; ready)"
)
def _(target: Target) -> None:
    body = target.get("/v2/health/ready").ok()
    expect_equal("ready", True, body.get("ready", body.get("live")))


@check("health", "a model is ready", "OIP REST: GET v2/models/M/ready answers 200 for a ready model")
def _(target: Target) -> None:
    expect_equal("status", 200, target.get(f"/v2/models/{target.example.model}/ready").status)


@check("health", "model ready has name and state", "OIP REST: $ready_model_response = {name, ready}")
def _(target: Target) -> None:
    body = target.get(f"/v2/models/{target.example.model}/ready").ok()
    expect_equal("name", target.example.model, body.get("name"))
    expect_equal("ready", True, body.get("ready"))


@check(
    "health",
    "a model nobody has is not ready",
    "OIP REST: readiness of a model; not 200 when it cannot serve",
)
def _(target: Target) -> None:
    target.get("/v2/models/no_such_model/ready").refused()


# ---- metadata ----------------------------------------------------------------------------------------------


@check("metadata", "server metadata", "OIP REST: $metadata_server_response = {name, version, extensions}")
def _(target: Target) -> None:
    body = target.get("/v2").ok()
    for name in ("name", "version"):
        expect(isinstance(body.get(name), str) and body[name], f"{name} is a text", body)
    extensions = body.get("extensions")
    expect(
        isinstance(extensions, list) and all(isinstance(item, str) for item in extensions),
        "extensions is a list of texts",
        body,
    )


@check("metadata", "server metadata is typed JSON", "RFC 9110 8.3: Content-Type says what the body is")
def _(target: Target) -> None:
    kind = target.get("/v2").headers.get("content-type", "")
    expect(kind.startswith("application/json"), "Content-Type application/json", kind)


@check(
    "metadata",
    "model metadata",
    "OIP REST: $metadata_model_response = {name, versions?, platform, inputs, outputs}",
)
def _(target: Target) -> None:
    body = target.get(f"/v2/models/{target.example.model}").ok()
    expect_equal("name", target.example.model, body.get("name"))
    expect(isinstance(body.get("platform"), str) and body["platform"], "platform is a text", body)
    versions = body.get("versions", [])
    expect(isinstance(versions, list) and all(isinstance(v, str) for v in versions), "versions: texts", body)


@check("metadata", "tensors are described", "OIP REST: $metadata_tensor = {name, datatype, shape}")
def _(target: Target) -> None:
    body = target.get(f"/v2/models/{target.example.model}").ok()
    for tensor in [*body.get("inputs", []), *body.get("outputs", [])]:
        expect(isinstance(tensor.get("name"), str), "name is a text", tensor)
        expect(tensor.get("datatype") in DTYPES, "datatype is one of the protocol's", tensor)
        shape = tensor.get("shape")
        expect(
            isinstance(shape, list) and all(type(size) is int and size >= -1 for size in shape),
            "shape is a list of integers, -1 for what varies",
            tensor,
        )
    expect(body.get("inputs") and body.get("outputs"), "at least one input and one output", body)


@check(
    "metadata", "tensors are the model's own", "OIP REST: inputs are those required, outputs those produced"
)
def _(target: Target) -> None:
    body = target.get(f"/v2/models/{target.pair.model}").ok()
    inputs = {t["name"]: (t["datatype"], t["shape"]) for t in body["inputs"]}
    outputs = {t["name"]: (t["datatype"], t["shape"]) for t in body["outputs"]}
    expect_equal("inputs", {"a": ("FP32", [-1, 2]), "b": ("FP32", [-1, 2])}, inputs)
    expect_equal("outputs", {"sum": ("FP32", [-1, 2]), "difference": ("FP32", [-1, 2])}, outputs)


@check("metadata", "every datatype is named right", "OIP: tensor data types, and the names for them")
def _(target: Target) -> None:
    target.need(PAIR)
    wrong = {}
    for dtype in DTYPES:
        body = target.get(f"/v2/models/conformance_echo_{dtype.lower()}").ok()
        names = (body["inputs"][0]["datatype"], body["outputs"][0]["datatype"])
        if names != (dtype, dtype):
            wrong[dtype] = names
    expect_equal("datatypes named otherwise", {}, wrong)


@check("metadata", "an unknown model", "OIP REST: a failed metadata request is an HTTP error with {error}")
def _(target: Target) -> None:
    text = target.get("/v2/models/no_such_model").refused()
    expect("no_such_model" in text, "a message that names the model", text)


# ---- ids ---------------------------------------------------------------------------------------------------


@check("ids", "an id comes back", "OIP REST: id, if specified, must be returned in the response")
def _(target: Target) -> None:
    body = target.infer(target.example.model, target.example.payload(id="request-42")).ok()
    expect_equal("id", "request-42", body.get("id"))


@check("ids", "any text is an id", "OIP REST: id is a $string")
def _(target: Target) -> None:
    for text in ("", 'a "quoted"\\ id\n', "ид-✓-😀", "x" * 500):
        body = target.infer(target.example.model, target.example.payload(id=text)).ok()
        if text:
            expect_equal("id", text, body.get("id"))


@check("ids", "an id that is no text", "OIP REST: id is a $string")
def _(target: Target) -> None:
    target.infer(target.example.model, target.example.payload(id={"a": 1})).refused()


@check("ids", "each request has its own", "OIP REST: the id given in the request")
def _(target: Target) -> None:
    for number in range(5):
        body = target.infer(target.example.model, target.example.payload(id=f"n{number}")).ok()
        expect_equal("id", f"n{number}", body.get("id"))


# ---- parameters --------------------------------------------------------------------------------------------

_PARAMETERS = {"text": "a", "number": 3, "fraction": 0.5, "flag": True}


@check(
    "parameters", "of the request", "OIP REST: parameters are key/value pairs; none is required to be known"
)
def _(target: Target) -> None:
    body = target.infer(target.example.model, target.example.payload(parameters=_PARAMETERS)).ok()
    expect(isinstance(body.get("parameters", {}), dict), "response parameters are an object", body)


@check("parameters", "of an input", "OIP REST: $request_input may carry parameters")
def _(target: Target) -> None:
    payload = target.example.payload()
    payload["inputs"][0]["parameters"] = _PARAMETERS
    target.infer(target.example.model, payload).ok()


@check("parameters", "of an output", "OIP REST: $request_output may carry parameters")
def _(target: Target) -> None:
    name = next(iter(target.example.expected))
    wanted = [{"name": name, "parameters": _PARAMETERS}]
    target.infer(target.example.model, target.example.payload(outputs=wanted)).ok()


@check("parameters", "empty ones", "OIP REST: zero or more parameters")
def _(target: Target) -> None:
    payload = target.example.payload(parameters={})
    payload["inputs"][0]["parameters"] = {}
    target.infer(target.example.model, payload).ok()


# ---- versions ----------------------------------------------------------------------------------------------


@check("versions", "metadata of a version", "OIP REST: GET v2/models/M/versions/V")
def _(target: Target) -> None:
    path = f"/v2/models/{target.example.model}/versions/{quote(target.version)}"
    expect_equal("name", target.example.model, target.get(path).ok().get("name"))


@check("versions", "readiness of a version", "OIP REST: GET v2/models/M/versions/V/ready")
def _(target: Target) -> None:
    path = f"/v2/models/{target.example.model}/versions/{quote(target.version)}/ready"
    expect_equal("status", 200, target.get(path).status)


@check("versions", "inference by a version", "OIP REST: POST v2/models/M/versions/V/infer")
def _(target: Target) -> None:
    example = target.example
    path = f"/v2/models/{example.model}/versions/{quote(target.version)}/infer"
    body = target.request("POST", path, example.payload()).ok()
    for name, value in example.expected.items():
        expect_values(name, value, output(body, name)["data"])
    expect_equal("model_version", target.version, body.get("model_version"))


@check("versions", "a version nobody has", "OIP REST: the version in the address is the one that answers")
def _(target: Target) -> None:
    base = f"/v2/models/{target.example.model}/versions/987654321"
    target.get(base).refused()
    target.get(f"{base}/ready").refused()
    target.request("POST", f"{base}/infer", target.example.payload()).refused()


@check("versions", "the answer names a version that exists", "OIP REST: model_version is the version used")
def _(target: Target) -> None:
    used = target.infer(target.example.model, target.example.payload()).ok().get("model_version")
    known = target.get(f"/v2/models/{target.example.model}").ok().get("versions") or []
    expect(used in known or (used is None and not known), f"one of {known}", used)


# ---- outputs -----------------------------------------------------------------------------------------------


def _names(body: dict[str, list[dict[str, str]]]) -> list[str]:
    return [item["name"] for item in body["outputs"]]


@check("outputs", "all, when none is named", "OIP REST: outputs not specified: all that the model produces")
def _(target: Target) -> None:
    body = target.infer(target.pair.model, target.pair.payload()).ok()
    expect_equal("names", ["difference", "sum"], sorted(_names(body)))


@check("outputs", "only those named", "OIP REST: outputs are the tensors requested")
def _(target: Target) -> None:
    for name, value in target.pair.expected.items():
        body = target.infer(target.pair.model, target.pair.payload(outputs=[{"name": name}])).ok()
        expect_equal("names", [name], _names(body))
        expect_values(name, value, body["outputs"][0]["data"])


@check("outputs", "in either order", "OIP REST: outputs; each answer stands under its own name")
def _(target: Target) -> None:
    for wanted in (["sum", "difference"], ["difference", "sum"]):
        outputs = [{"name": name} for name in wanted]
        body = target.infer(target.pair.model, target.pair.payload(outputs=outputs)).ok()
        expect_equal("names", sorted(wanted), sorted(_names(body)))
        for name in wanted:
            expect_values(name, target.pair.expected[name], output(body, name)["data"])


@check("outputs", "one that the model has not", "OIP REST: a failed request is an HTTP error with {error}")
def _(target: Target) -> None:
    payload = target.example.payload(outputs=[{"name": "no_such_output"}])
    text = target.infer(target.example.model, payload).refused()
    expect("no_such_output" in text, "a message that names the output", text)


# ---- the model's own failure -------------------------------------------------------------------------------


@check("errors", "a failure inside the model", "OIP REST: a failed inference is an HTTP error with {error}")
def _(target: Target) -> None:
    model = target.need(LOOKUP)
    bad = {"inputs": [{"name": "key", "shape": [1], "datatype": "INT64", "data": [5000]}]}
    answer = target.infer(model, bad)
    expect(answer.status >= 400, "an error status", f"{answer.status} {answer.body[:200]!r}")
    body = answer.json()
    if not isinstance(body, dict) or not isinstance(body.get("error"), str):
        raise Unmet('the error object {"error": text}', body)
    good = {"inputs": [{"name": "key", "shape": [1], "datatype": "INT64", "data": [2]}]}
    expect_equal("the next value", [3.0], target.infer(model, good).ok()["outputs"][0]["data"])
