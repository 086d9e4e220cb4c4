"""The deploy step, as pipelines call it."""

from __future__ import annotations

from components.deploy.deploy import deploy
from components.stepping import step
from slipway.registry import Registry


def run(version: str, why: str) -> str:
    """Serve `<name>:<number>` and make it the champion; the address where it answers."""
    with step("deploy") as this:
        name, _, number = version.rpartition(":")
        deployed = deploy(this.settings, Registry(this.settings).find(name, number), why=why)
        place = f" in place of version {deployed.replaced}" if deployed.replaced is not None else ""
        return this.answer(deployed.url, f"version {deployed.version} serves{place}")
