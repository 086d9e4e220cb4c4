"""slipway serve: the ONNX runtime over a folder or an S3 prefix, on this machine."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from slipway.cli.verbs import new_app

app = new_app()


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def serve(
    context: typer.Context,
    models: Annotated[str, typer.Argument(help="A folder or s3:// prefix: one model, or many.")],
    port: Annotated[int, typer.Option(help="REST port.")] = 8080,
    grpc_port: Annotated[int, typer.Option(help="gRPC port; -1 switches it off.")] = 8081,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
) -> None:
    """Serve ONNX models by the Open Inference Protocol; Ctrl-C ends it.

    All other options of `python -m serving.runtime` may follow, such as --workers 2.
    """
    options = (
        "--model-dir",
        models,
        "--http-host",
        host,
        "--http-port",
        str(port),
        "--grpc-port",
        str(grpc_port),
    )
    # In place of this process: signals, exit code and memory are the server's own.
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "serving.runtime", *options, *context.args])  # noqa: S606
