"""slipway up: start the embedded platform."""

from __future__ import annotations

from typing import Annotated

import typer

from slipway.cli.output import JsonOption, answer, note, progress
from slipway.cli.platform import embedded, summary
from slipway.cli.verbs import new_app

app = new_app()


@app.command()
def up(
    replay: Annotated[
        str | None,
        typer.Option(
            help="A moment of a recorded year, which is then the now of all TTLs; `wall` for the real time."
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Start the embedded platform: S3, the online store and tracking.

    What runs and is healthy is left alone; what died, lost its port or was half-written is mended. Data
    survives. The state lies in .slipway/ here, or where SLIPWAY_HOME says.
    """
    platform = embedded()
    with progress("Starting S3 and the online store"):
        status = platform.up(tell=note, clock=replay)
    answer(status, json=json, show=lambda: summary(status))
    if not status.up:
        raise typer.Exit(3)
