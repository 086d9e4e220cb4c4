"""The register step, as pipelines call it."""

from __future__ import annotations

import tempfile
from pathlib import Path

from components.register.register import FILES, register
from components.stepping import step
from slipway.contract import CONTRACT_FILE, ModelContract, parse_contract
from slipway.objects import ObjectStore
from slipway.registry import ModelVersion, Registry


def run(verified: str, why: str) -> str:
    """Publish and register the files of a folder on S3; the version as `<name>:<number>`."""
    with step("register") as this, tempfile.TemporaryDirectory() as directory:
        objects = ObjectStore.from_settings(this.settings)
        where = verified + CONTRACT_FILE
        known = _known(Registry(this.settings), parse_contract(objects.get(where), where=where))
        if known is not None:
            return this.answer(
                f"{known.name}:{known.version}", f"{known.name} version {known.version}, known already"
            )
        for name in FILES:
            objects.download(verified + name, Path(directory) / name)
        made = register(this.settings, Path(directory), why=why)
        return this.answer(
            f"{made.name}:{made.version}", f"{made.name} version {made.version}, digest {made.digest[:12]}"
        )


def _known(registry: Registry, contract: ModelContract) -> ModelVersion | None:
    """The version that this very training made before.

    Once it is the champion, the gates compare it with itself: what they say, and with it the digest of the
    files, is another, and the model is not.
    """
    if contract.origin is None or contract.name not in registry.names():
        return None
    same = [item for item in registry.versions(contract.name) if item.run_id == contract.origin.run_id]
    return min(same, key=lambda item: item.version, default=None)
