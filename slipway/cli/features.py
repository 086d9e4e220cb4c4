"""slipway features: definitions into the registry, values online, and proof that both sides agree."""

from __future__ import annotations

import importlib
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from slipway.cli.output import JsonOption, answer, duration, note, progress, table
from slipway.cli.verbs import new_app
from slipway.errors import FeatureError, GateNotPassed, SettingsError

if TYPE_CHECKING:
    from slipway.contract import ModelContract
    from slipway.settings import Settings

app = new_app()


@app.command()
def build(json: JsonOption = False) -> None:
    """Compute the feature tables from the ingested data; does nothing where that was done already."""
    from slipway.settings import load_settings

    settings = load_settings()
    package = _repository(settings, "build_features", "build_features(settings, report=...)")
    with progress("Building features") as bar:
        dataset = package.build_features(
            settings,
            report=lambda step, done, total: bar.update(label=f"Building {step}", done=done, total=total),
        )
    tables = dataset.manifest.tables
    found = {
        "uri": dataset.uri,
        "digest": dataset.digest,
        "created": dataset.created,
        "rows": {name: item.rows for name, item in tables.items()},
    }
    rows = [(name, f"{item.rows:,}", item.start, item.end) for name, item in tables.items()]
    title = f"features {dataset.digest[:16]}{'' if dataset.created else ', made before'}"
    answer(found, json=json, show=lambda: table(("table", "rows", "from", "to"), rows, title=title))
    if dataset.created and not json:
        note("next: `slipway features apply` lets the store read these")


@app.command()
def apply(json: JsonOption = False) -> None:
    """Make the registry and the online store hold what the feature repository defines.

    Views and services that are no longer defined are removed, with their online values.
    """
    from slipway.features.manage import apply_definitions
    from slipway.settings import load_settings

    settings = load_settings()
    with progress("Applying"):
        applied = apply_definitions(settings, _definitions(settings))
    answer(
        applied,
        json=json,
        show=lambda: table(
            ("what", "names"),
            [
                ("entities", ", ".join(applied.entities)),
                ("views", ", ".join(applied.views)),
                *(
                    (f"service {name}", f"definition {digest[:16]}")
                    for name, digest in applied.services.items()
                ),
                *(("removed", name) for name in applied.removed),
            ],
            title=f"Project {applied.project}",
        ),
    )


@app.command()
def materialize(
    views: Annotated[list[str] | None, typer.Argument(help="Views; all, if none is named.")] = None,
    start: Annotated[str | None, typer.Option(help="RFC 3339; else what can still be valid.")] = None,
    end: Annotated[str | None, typer.Option(help="RFC 3339; else now, by features.clock.")] = None,
    incremental: Annotated[bool, typer.Option("--incremental", help="Go on where it ended.")] = False,
    json: JsonOption = False,
) -> None:
    """Write the latest values into the online store; later ones there are kept."""
    from slipway.features import manage
    from slipway.settings import load_settings

    settings = load_settings()
    with progress("Materializing") as bar:
        done = manage.materialize(
            settings,
            views=views or (),
            start=_moment("--start", start),
            end=_moment("--end", end),
            incremental=incremental,
            report=lambda view, at, total: bar.update(label=f"Materializing {view}", total=total, done=at),
        )
    answer(
        done,
        json=json,
        show=lambda: table(
            ("view", "rows", "from", "to", "seconds"),
            [(item.view, item.rows, _brief(item.start), _brief(item.end), item.seconds) for item in done],
        ),
    )
    if not json and not incremental and done and not all(item.rows for item in done):
        note("a view without rows has none between these times; for recorded data set features.clock")


@app.command()
def show(
    name: Annotated[str | None, typer.Argument(help="A view or a service; all, if none is named.")] = None,
    entity: Annotated[
        list[str] | None, typer.Option("--entity", "-e", help="key=value: show the online values of it.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Show what is applied, and with --entity the values that a model would be fed."""
    from slipway.features.inspect import list_features, read_entity
    from slipway.settings import load_settings

    settings = load_settings()
    if entity:
        pairs = dict(_pair(item) for item in entity)
        values = read_entity(settings, _named(name), pairs)
        rows = [(item.feature, item.value, item.status, item.age) for item in values]
        answer(values, json=json, show=lambda: table(("feature", "value", "status", "age in s"), rows))
        return
    found = list_features(settings, name)
    if not found and not json:
        note("nothing is applied yet; run `slipway features apply`")
    answer(
        found,
        json=json,
        show=lambda: table(
            ("view", "of", "feature", "type", "ttl", "materialized to", "in services"),
            [
                (
                    item.view,
                    ", ".join(item.keys) or "-",
                    feature,
                    dtype,
                    duration(item.ttl_seconds or None),
                    _brief(item.materialized_to) if item.materialized_to else None,
                    ", ".join(item.services),
                )
                for item in found
                for feature, dtype in item.features.items()
            ],
        ),
    )


@app.command(epilog="Exit code: 0 when the gate passes, 4 when it fails or is inconclusive.")
def parity(
    service: Annotated[
        str | None, typer.Argument(help="A feature service; the only one, if there is one.")
    ] = None,
    sample: Annotated[int, typer.Option(min=1, help="Entities of each view.")] = 200,
    seed: Annotated[int, typer.Option(help="Draws the same entities again.")] = 0,
    tolerance: Annotated[float, typer.Option(min=0, max=1, help="Share that may be unequal.")] = 0.0,
    model: Annotated[
        str | None, typer.Option(help="Ask the running server too what it feeds this model's champion.")
    ] = None,
    url: Annotated[str | None, typer.Option(help="Of that server; else serving.url of the settings.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write an HTML report here.")] = None,
    json: JsonOption = False,
) -> None:
    """Compare what models are trained on with what they are fed, entity by entity."""
    from slipway.features.inspect import only_service
    from slipway.features.parity import check_parity
    from slipway.features.parity_report import render_report
    from slipway.features.served import ServedModel
    from slipway.settings import load_settings

    settings = load_settings()
    contract = _champion(settings, model) if model else None
    with progress("Comparing offline and online"):
        found = check_parity(
            settings,
            service or only_service(settings),
            sample=sample,
            seed=seed,
            tolerance=tolerance,
            others=ServedModel(url or settings.serving.url, contract).paths() if contract else {},
        )
    if report is not None:
        report.parent.mkdir(parents=True, exist_ok=True)
        report.write_text(render_report(found))
        note(f"report: {report}")
    answer(
        found,
        json=json,
        show=lambda: table(
            ("feature", "by", "equal", "stale", "missing", "different"),
            [
                (name, path, tally["equal"], tally["stale"], tally["missing"], tally["different"])
                for name, paths in sorted(found.counts.items())
                for path, tally in paths.items()
            ],
            title=f"{found.gate.verdict}: {found.gate.reason}",
        ),
    )
    if found.gate.verdict != "pass":
        raise GateNotPassed(
            f"parity: {found.gate.verdict}: {found.gate.reason}",
            where=f"feature service {found.service}",
            fix="run `slipway features materialize`; then see the examples with --report parity.html",
        )


@app.command()
def env(json: JsonOption = False) -> None:
    """Print the settings as shell variables, for Feast's own command line: eval "$(slipway features env)".

    They hold the credentials, so that what is started with them needs no other file.
    """
    import shlex

    from slipway.settings import as_environment, load_settings

    variables = as_environment(load_settings())
    lines = [f"export {name}={shlex.quote(value)}" for name, value in sorted(variables.items())]
    answer(variables, json=json, show=lambda: "\n".join(lines))


@app.command()
def ui(
    port: Annotated[int, typer.Option(help="0: a free one.")] = 0,
) -> None:
    """Start Feast's web interface on this machine; ends with Ctrl-C."""
    import socket

    from slipway.features.store import open_store
    from slipway.settings import load_settings

    store = open_store(load_settings())
    if port == 0:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
    note(f"Feast's interface: http://127.0.0.1:{port}/p/{store.project}")
    store.serve_ui("127.0.0.1", port)


def _champion(settings: Settings, name: str) -> ModelContract:
    """The contract of what is deployed under this name."""
    from slipway.contract import CONTRACT_FILE, parse_contract
    from slipway.objects import ObjectStore
    from slipway.registry import CHAMPION, Registry

    uri = Registry(settings).find(name, CHAMPION).uri + CONTRACT_FILE
    return parse_contract(ObjectStore.from_settings(settings).get(uri), where=uri)


def _definitions(settings: Settings) -> list[Any]:
    """From the project's package: `definitions(settings)`, since sources depend on the settings."""
    package = _repository(
        settings, "definitions", "definitions(settings) that returns all of Feast's objects"
    )
    found: list[Any] = package.definitions(settings)
    return found


def _repository(settings: Settings, function: str, needed: str) -> Any:
    """The project's package, which must have this function."""
    name = settings.features.repository
    # The script's own folder stands first on the path, not the project's.
    sys.path.insert(0, str(Path.cwd()))
    try:
        package = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name.partition(".")[0]:
            raise
        raise SettingsError(
            f"features.repository names the package {name!r}, which cannot be imported",
            fix="run slipway in the project's folder, or set features.repository to your package",
        ) from error
    if not hasattr(package, function):
        raise FeatureError(
            f"it has no function {function}", where=f"package {name}", fix=f"give it a function {needed}"
        )
    return package


def _moment(option: str, text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise SettingsError(f"{option} {text!r} is no time", fix="write 2013-07-01T12:00:00Z") from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise SettingsError(f"--entity {text!r} is no key=value", fix="write --entity carrier=UA")
    return key, value


def _named(name: str | None) -> str:
    if name is None:
        raise SettingsError("--entity needs a view or service", fix="name one before it")
    return name


def _brief(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M:%S")
