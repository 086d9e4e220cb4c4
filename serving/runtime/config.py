"""How one server runs. Flags, or SLIPWAY_RUNTIME_<NAME> in the environment; flags win.

KServe's own flags (--model_name, --model_dir, --http_port) are read too, with underscores or dashes.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args, get_type_hints

import msgspec

from slipway.errors import SettingsError

PREFIX = "SLIPWAY_RUNTIME_"


class Config(msgspec.Struct, frozen=True, kw_only=True):
    model_dir: str = "/mnt/models"
    model_name: str = ""
    http_host: str = "0.0.0.0"  # noqa: S104 - a server in a pod; `slipway serve` says 127.0.0.1
    http_port: int = 8080
    grpc_host: str = ""
    grpc_port: int = 8081
    workers: int = 1
    load: Literal["all", "none"] = "all"
    memory_budget: int = 0
    poll_seconds: float = 0.0
    batching: Literal["exact", "tolerant", "off"] = "exact"
    max_batch_rows: int = 256
    max_queue: int = 1024
    concurrency: int = 0
    intra_op_threads: int = 1
    max_body: int = 64 << 20
    max_header: int = 32 << 10
    header_timeout: float = 10.0
    body_timeout: float = 60.0
    idle_timeout: float = 75.0
    request_timeout: float = 60.0
    drain_seconds: float = 25.0
    max_connections: int = 10_000
    token_file: str = ""
    access_policy: str = ""
    cors_origin: str = ""
    tls_certificate: str = ""
    tls_key: str = ""
    tls_client_ca: str = ""
    capture_uri: str = ""
    capture_rate: float = 0.01
    capture_seconds: float = 60.0
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    access_log: bool = False


HELP: Mapping[str, str] = {
    "model_dir": "folder or s3:// prefix: one model, a model's versions, or a repository of models",
    "model_name": "name of the one model; else the contract's, else the folder's",
    "http_host": "address of the REST port",
    "http_port": "REST port; 0 picks a free one",
    "grpc_host": "address of the gRPC port; empty: as the REST port",
    "grpc_port": "gRPC port; 0 picks a free one, -1 switches it off",
    "workers": "processes that share the ports",
    "load": "load all models at start, or each when it is first asked for",
    "memory_budget": "bytes that loaded models may take (units K, M, G); the least recently used go first",
    "poll_seconds": "look for new or changed models this often; 0: only when told",
    "batching": "exact: share a run only where bits stay the same; tolerant: within 1e-5; off",
    "max_batch_rows": "rows in one run at most",
    "max_queue": "requests that may wait for one model; more are answered 503",
    "concurrency": "runs of one slow model side by side; 0: as many as there are CPUs",
    "intra_op_threads": "threads inside one run",
    "max_body": "bytes of a request body at most (units K, M, G)",
    "max_header": "bytes of a request head at most",
    "header_timeout": "seconds for a request head to arrive",
    "body_timeout": "seconds for a request body to arrive",
    "idle_timeout": "seconds that a connection may idle",
    "request_timeout": "seconds for an answer, where the request names no deadline",
    "drain_seconds": "seconds for requests in flight after SIGTERM",
    "max_connections": "open connections at most",
    "token_file": "file with bearer tokens, one a line; without it no token is asked for",
    "access_policy": "package.module:callable that decides who may ask",
    "cors_origin": "origins of web pages that may call the REST port, with commas between them; * for any",
    "tls_certificate": "PEM certificate chain; both ports then speak TLS",
    "tls_key": "its key, where it is not in the same file",
    "tls_client_ca": "PEM of the CA whose client certificates get in (mTLS)",
    "capture_uri": "folder or s3:// prefix for sampled predictions as Parquet; empty: none are kept",
    "capture_rate": "share of requests that are kept",
    "capture_seconds": "seconds of predictions in one file",
    "log_level": "debug, info, warning or error",
    "access_log": "true: a JSON line for every request, on standard error (errors are always logged)",
}

_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_SIZES = {"memory_budget", "max_body", "max_header"}


def parse_config(arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> Config:
    environ = os.environ if environment is None else environment
    parser = argparse.ArgumentParser(
        prog="python -m serving.runtime", description="Serve ONNX models by the Open Inference Protocol."
    )
    hints = get_type_hints(Config)
    for name in hints:
        choices = get_args(hints[name]) or None
        parser.add_argument(
            f"--{name.replace('_', '-')}", f"--{name}", dest=name, help=HELP[name], choices=choices
        )
    # KServe passes flags of its own to every runtime; those that mean nothing here are not an error.
    given, unknown = parser.parse_known_args(list(arguments))
    values: dict[str, Any] = {}
    for name, kind in hints.items():
        text = getattr(given, name)
        source = f"--{name.replace('_', '-')}"
        if text is None:
            source = PREFIX + name.upper()
            text = environ.get(source)
        if text is not None:
            values[name] = _read(text, kind, name, source)
    if unknown:
        raise SettingsError(
            f"there is no option {unknown[0]}", where="the command line", fix="see --help for all options"
        )
    return msgspec.convert(values, Config)


def _read(text: str, kind: Any, name: str, source: str) -> Any:
    try:
        if name in _SIZES and text[-1:].upper() in _UNITS:
            return int(float(text[:-1]) * _UNITS[text[-1].upper()])
        return msgspec.convert(text, kind, strict=False)
    except (ValueError, msgspec.ValidationError) as error:
        raise SettingsError(f"{text!r} is no value for it: {error}", where=source, fix=HELP[name]) from error
