"""slipway trace: from an answer back to the raw files."""

from __future__ import annotations

from typing import Annotated

import typer

from slipway.cli.output import JsonOption, answer, progress, table
from slipway.cli.verbs import new_app

app = new_app()


@app.command()
def trace(
    asked: Annotated[
        str,
        typer.Argument(
            metavar="MODEL|RUN|RECEIPT",
            help="A model (name, name:version or digest), a run's id, or a receipt: its text, or a file with "
            "an answer in it.",
        ),
    ],
    json: JsonOption = False,
) -> None:
    """Walk from an answer to model, run, commit, snapshot and raw files, and check every link.

    Exit code 1 where a link is missing or does not hold.
    """
    from pipelines.trace import trace as walk
    from slipway.settings import load_settings

    with progress("Following the links"):
        found = walk(load_settings(), asked)
    rows = [(link.what, link.state, link.name, link.detail) for link in found.links]
    answer(found, json=json, show=lambda: table(("what", "state", "name", "detail"), rows))
    if not found.whole:
        raise typer.Exit(1)
