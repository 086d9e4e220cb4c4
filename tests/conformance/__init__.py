"""A conformance suite for the Open Inference Protocol, version 2: any server, REST and gRPC."""

from __future__ import annotations

import onnx

# Importing these fills the table of checks.
from tests.conformance import grpc_checks, rest_basics, rest_edges, rest_infer
from tests.conformance.suite import CHECKS, Report, run_checks
from tests.conformance.target import LOOKUP, PAIR, Target, echo_name
from tests.support.models import DTYPES, echo, zoo

__all__ = ["CHECKS", "Report", "Target", "run_checks", "suite_models"]

_MODULES = (rest_basics, rest_infer, rest_edges, grpc_checks)


def suite_models() -> dict[str, onnx.ModelProto]:
    """What the server under test must serve."""
    return {
        PAIR: zoo()["two_and_two"].build(),
        LOOKUP: zoo()["lookup"].build(),
        **{echo_name(dtype): echo(dtype) for dtype in DTYPES},
    }
