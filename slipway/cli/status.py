"""slipway status: what runs, and how well."""

from __future__ import annotations

import typer

from slipway.cli.output import JsonOption, answer
from slipway.cli.platform import embedded, summary
from slipway.cli.verbs import new_app

app = new_app()


@app.command(epilog="Exit code: 0 when every server is healthy, 3 when one is not.")
def status(json: JsonOption = False) -> None:
    """Show health, addresses, sizes, versions and uptime of the embedded platform.

    Health is a real request with the platform's credentials: a signed one to S3, a PING to the online store.
    """
    found = embedded().status()
    answer(found, json=json, show=lambda: summary(found))
    if not found.up:
        raise typer.Exit(3)
