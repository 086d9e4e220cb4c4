"""slipway compile: the pipelines as files for a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from slipway.cli.output import JsonOption, answer, note, progress
from slipway.cli.verbs import new_app

app = new_app()


@app.command("compile")
def compile_pipelines(
    output: Annotated[
        Path | None, typer.Option(help="Folder to write to; pipelines/compiled by default.")
    ] = None,
    image: Annotated[str, typer.Option(help="Image of the steps, by digest: name@sha256:…")] = "",
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit 1 where files are stale.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Write the pipelines as KFP YAML for upload, and as Kubernetes objects for kubectl.

    The same sources and the same image give the same bytes.
    """
    import os

    from slipway.settings import load_settings

    # The steps take their image when they are imported.
    chosen = image or load_settings().pipelines.image
    os.environ["SLIPWAY_PIPELINES_IMAGE"] = chosen
    with progress("Compiling"):
        from pipelines.compiled import FOLDER, compile_all, stale, write

        files = compile_all(chosen)
        folder = output or FOLDER
        changed = stale(files, folder) if check else write(files, folder)
    found = {"folder": str(folder), "files": sorted(files), "stale" if check else "written": changed}
    told = f"{len(changed)} of {len(files)} files {'are stale' if check else 'written'} in {folder}"
    if image and "@sha256:" not in image:
        note(
            f"warning: {image} is named by a tag; KFP's cache goes by this name and would answer with "
            "what older code made. Push the image and give its digest: name@sha256:…"
        )
    answer(found, json=json, show=lambda: "\n".join([told, *(f"  {name}" for name in changed)]))
    if check and changed:
        raise typer.Exit(1)
