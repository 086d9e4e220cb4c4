"""Compiling the pipelines: plain KFP YAML for the upload form, and Kubernetes objects for kubectl."""

from __future__ import annotations

import hashlib
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

from slipway.errors import SlipwayError

FOLDER = Path(__file__).parent / "compiled"


def compile_all(image: str) -> dict[str, bytes]:
    """File name → content; the same sources and image give the same bytes."""
    from pipelines import steps, training

    if image != steps.IMAGE:
        raise SlipwayError(
            f"the steps were loaded for the image {steps.IMAGE}, not {image}",
            fix="set SLIPWAY_PIPELINES_IMAGE before pipelines are imported",
        )
    files: dict[str, bytes] = {}
    for name, pipeline in training.PIPELINES.items():
        files |= dict(_compile(name, pipeline))
    return files


def _compile(name: str, pipeline: object) -> Iterator[tuple[str, bytes]]:
    from kfp.compiler import Compiler
    from kfp.compiler.compiler_utils import KubernetesManifestOptions

    with tempfile.TemporaryDirectory() as directory, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain, objects = Path(directory) / "plain.yaml", Path(directory) / "objects.yaml"
        Compiler().compile(pipeline, str(plain))
        yield f"{name}.yaml", plain.read_bytes()
        # A PipelineVersion cannot change: its name says which content it is.
        digest = hashlib.sha256(plain.read_bytes()).hexdigest()[:12]
        options = KubernetesManifestOptions(
            pipeline_name=f"slipway-{name}",
            pipeline_version_name=f"slipway-{name}-{digest}",
            include_pipeline_manifest=True,
        )
        Compiler().compile(
            pipeline, str(objects), kubernetes_manifest_format=True, kubernetes_manifest_options=options
        )
        yield f"{name}.kubernetes.yaml", objects.read_bytes()


def write(files: dict[str, bytes], folder: Path) -> list[str]:
    """Write what differs; the names of what was written. Files of pipelines that are gone go too."""
    folder.mkdir(parents=True, exist_ok=True)
    changed = stale(files, folder)
    for name in changed:
        if name in files:
            (folder / name).write_bytes(files[name])
        else:
            (folder / name).unlink()
    return changed


def stale(files: dict[str, bytes], folder: Path) -> list[str]:
    """Names of files that are missing, differ, or should not be there."""
    there = {path.name: path.read_bytes() for path in folder.glob("*.yaml")} if folder.is_dir() else {}
    return sorted(name for name in files.keys() | there.keys() if files.get(name) != there.get(name))
