"""The register step, as pipelines call it."""

from __future__ import annotations

import tempfile
from pathlib import Path

from components.register.register import FILES, register
from components.stepping import step
from slipway.objects import ObjectStore


def run(verified: str, why: str) -> str:
    """Publish and register the files of a folder on S3; the version as `<name>:<number>`."""
    with step("register") as this, tempfile.TemporaryDirectory() as directory:
        objects = ObjectStore.from_settings(this.settings)
        for name in FILES:
            objects.download(verified + name, Path(directory) / name)
        made = register(this.settings, Path(directory), why=why)
        told = f"{made.name} version {made.version}, digest {made.digest[:12]}"
        return this.answer(f"{made.name}:{made.version}", told if made.created else f"{told}, known already")
