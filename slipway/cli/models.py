"""`slipway models`: what is registered, what serves, and who decided it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from slipway.cli.output import JsonOption, answer, progress, table
from slipway.cli.verbs import new_app

if TYPE_CHECKING:
    from slipway.registry import ModelVersion, Registry
    from slipway.settings import Settings

app = new_app()

NameArgument = Annotated[str, typer.Argument(help="The model's name.")]
WhichArgument = Annotated[
    str, typer.Argument(help="A version: its number, an alias (champion, challenger), or its digest.")
]
WhyOption = Annotated[str, typer.Option("--why", help="The reason; it stands in the record.")]
WhoOption = Annotated[str | None, typer.Option("--who", help="Your name; by default the account's.")]


def _open() -> tuple[Settings, Registry]:
    from slipway.registry import Registry
    from slipway.settings import load_settings

    settings = load_settings()
    return settings, Registry(settings)


@app.command("list")
def list_models(json: JsonOption = False) -> None:
    """All models, with their champion and challenger."""
    _, registry = _open()
    found = []
    for name in registry.names():
        versions = registry.versions(name)
        standing = {alias: item.version for item in versions for alias in item.aliases}
        found.append({"name": name, "versions": len(versions), **standing})
    answer(
        found,
        json=json,
        show=lambda: table(
            ("model", "versions", "champion", "challenger"),
            [
                (item["name"], item["versions"], item.get("champion"), item.get("challenger"))
                for item in found
            ],
        ),
    )


@app.command()
def show(name: NameArgument, which: WhichArgument = "", json: JsonOption = False) -> None:
    """The versions of a model; or one version, with its metrics, its gates and where it came from."""
    settings, registry = _open()
    if which:
        _show_version(settings, registry.find(name, which), json)
        return
    versions = registry.versions(name)
    answer(
        versions,
        json=json,
        show=lambda: table(
            ("version", "aliases", "digest", "registered", "approved by"),
            [
                (
                    item.version,
                    ", ".join(item.aliases) or None,
                    item.digest[:12],
                    item.created[:19].replace("T", " "),
                    item.approval.who if item.approval else None,
                )
                for item in versions
            ],
        ),
    )


def _show_version(settings: Settings, version: ModelVersion, json: bool) -> None:
    from slipway.contract import CONTRACT_FILE, parse_contract
    from slipway.objects import ObjectStore

    uri = version.uri + CONTRACT_FILE
    contract = parse_contract(ObjectStore.from_settings(settings).get(uri), where=uri)

    def render() -> str:
        lines = [
            f"{version.name} version {version.version}  {', '.join(version.aliases)}".rstrip(),
            f"  {version.uri}",
            f"  registered {version.created[:19].replace('T', ' ')}, run {version.run_id or '-'}",
        ]
        if version.approval:
            lines.append(f"  approved by {version.approval.who}: {version.approval.why}")
        lines.append("metrics")
        lines += [f"  {key:<28} {value:.4f}" for key, value in sorted(contract.metrics.items())]
        lines.append("gates")
        lines += [f"  {gate.verdict:<13} {gate.gate}: {gate.reason}" for gate in contract.gates]
        return "\n".join(lines)

    answer({"version": version, "contract": contract}, json=json, show=render)


@app.command()
def history(name: NameArgument, json: JsonOption = False) -> None:
    """Every move of an alias: who, when, why."""
    _, registry = _open()
    moves = registry.history(name)
    answer(
        moves,
        json=json,
        show=lambda: table(
            ("when", "alias", "from", "to", "who", "why"),
            [
                (move.when[:19].replace("T", " "), move.alias, move.source, move.target, move.who, move.why)
                for move in moves
            ],
        ),
    )


@app.command()
def approve(
    name: NameArgument, which: WhichArgument, why: WhyOption, who: WhoOption = None, json: JsonOption = False
) -> None:
    """Allow a version to serve in production, by name."""
    _, registry = _open()
    approved = registry.approve(registry.find(name, which), who=who, why=why)
    answer(
        approved,
        json=json,
        show=lambda: (
            f"{name} version {approved.version} is approved by {approved.approval.who}"
            if approved.approval
            else ""
        ),
    )


@app.command()
def promote(
    name: NameArgument, which: WhichArgument, why: WhyOption, who: WhoOption = None, json: JsonOption = False
) -> None:
    """Serve a version and make it the champion, once its known answers are right."""
    settings, registry = _open()
    _deploy(settings, registry.find(name, which), why, who, json)


@app.command()
def rollback(name: NameArgument, why: WhyOption, who: WhoOption = None, json: JsonOption = False) -> None:
    """Serve the champion before this one again."""
    settings, registry = _open()
    _deploy(settings, registry.former_champion(name), why, who, json)


def _deploy(settings: Settings, version: ModelVersion, why: str, who: str | None, json: bool) -> None:
    from components.deploy import deploy

    with progress(f"Deploying {version.name} version {version.version}"):
        deployed = deploy(settings, version, who=who, why=why)

    def render() -> str:
        before = f" in place of version {deployed.replaced}" if deployed.replaced is not None else ""
        return f"{deployed.name} version {deployed.version} serves at {deployed.url}{before}"

    answer(deployed, json=json, show=render)
