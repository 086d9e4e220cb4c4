"""`python -m tests.conformance`: hold any Open Inference Protocol server to the protocol.

First give the server the suite's models (`--write-models FOLDER` writes them, one folder each), then:

    python -m tests.conformance --http http://127.0.0.1:8080 --grpc 127.0.0.1:9000

With `--model NAME` a server is tested on a model that it has already; what needs the suite's models is then
left out, and the numbers are only checked against each other.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import onnx

from tests.conformance import CHECKS, Target, run_checks, suite_models
from tests.conformance.suite import SECTIONS


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description=__doc__.splitlines()[0])
    parser.add_argument("--http", metavar="URL", help="the REST address, such as http://127.0.0.1:8080")
    parser.add_argument("--grpc", metavar="HOST:PORT", help="the gRPC address")
    parser.add_argument(
        "--model", metavar="NAME", help="a model that the server has, in place of the suite's"
    )
    parser.add_argument("--version", metavar="V", help="a version to ask for; else the first in the metadata")
    parser.add_argument("--section", action="append", choices=SECTIONS, help="only this section (repeatable)")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write every result here too")
    parser.add_argument(
        "--write-models", metavar="FOLDER", type=Path, help="write the suite's models and stop"
    )
    options = parser.parse_args(arguments)
    if options.write_models:
        write_models(options.write_models)
        return 0
    if options.http is None and options.grpc is None:
        parser.error("give --http, --grpc or both")
    target = Target(options.http, options.grpc, options.model, options.version)
    try:
        report = run_checks(
            target, [c for c in CHECKS if not options.section or c.section in options.section]
        )
    finally:
        target.close()
    print(report.text())
    if options.json:
        options.json.write_text(json.dumps(report.as_json(), indent=1))
    return 1 if report.failures else 0


def write_models(folder: Path) -> None:
    for name, model in suite_models().items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        onnx.save(model, str(folder / name / "model.onnx"))


if __name__ == "__main__":
    raise SystemExit(main())
