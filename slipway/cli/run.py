"""slipway run: pipelines and single components, here or on a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from slipway.cli.output import Bar, JsonOption, answer, progress
from slipway.cli.verbs import new_app
from slipway.errors import SettingsError

if TYPE_CHECKING:
    from components.stepping import Event

app = new_app()

PRESETS = {"tidymodels": "LATE_30"}
"""Name of a published definition → the project of the feature repository that holds it."""

StartOption = Annotated[str, typer.Option(help="First day of the window (UTC).")]
EndOption = Annotated[str, typer.Option(help="Day after the last one.")]
ProjectOption = Annotated[
    str, typer.Option(help="Project of the feature repository; its only one by default.")
]
OnOption = Annotated[
    str, typer.Option("--on", help="Address of a KFP API: run there, with the same parameters.")
]
WhyOption = Annotated[str, typer.Option(help="The reason; it stands in the registry's record.")]
ConfigOption = Annotated[str, typer.Option(help='Model and split as JSON: {"model": {"kind": "logistic"}}.')]
OnlineOption = Annotated[bool, typer.Option(help="Whether the online store must hold what was trained on.")]


@app.command()
def train(
    start: StartOption = "2013-01-02",
    end: EndOption = "2013-09-15",
    project: ProjectOption = "",
    config: ConfigOption = "{}",
    online: OnlineOption = True,
    why: WhyOption = "slipway run train",
    on: OnOption = "",
    json: JsonOption = False,
) -> None:
    """Snapshot, train, evaluate, verify, register, deploy."""
    if config != "{}":
        from components.train.step import read_config

        read_config(config)  # so that a slip of the pen is told now, and not after the snapshot
    arguments = {
        "start": start,
        "end": end,
        "project": project,
        "config": config,
        "online": online,
        "why": why,
    }
    _run("train", arguments, on, json)


@app.command()
def evaluate(
    start: Annotated[str, typer.Option(help="First day of the window (UTC); 2013-09-15 if not said.")] = "",
    end: Annotated[str, typer.Option(help="Day after the last one; 2013-11-01 if not said.")] = "",
    version: Annotated[str, typer.Option(help="A number, an alias or a digest.")] = "champion",
    project: ProjectOption = "",
    preset: Annotated[
        str,
        typer.Option(
            help="tidymodels: train that tutorial's definition afresh, and judge it by time and at random "
            "against its published figure. Nothing is registered."
        ),
    ] = "",
    on: OnOption = "",
    json: JsonOption = False,
) -> None:
    """Judge any registered version on any window, beside the champion."""
    window = {name: value for name, value in (("start", start), ("end", end)) if value}
    if not preset:
        _run("evaluate", {**window, "version": version, "project": project}, on, json)
    elif preset in PRESETS:
        _run("judge", {**window, "project": project or PRESETS[preset]}, on, json)
    else:
        raise SettingsError(f"there is no preset {preset!r}", fix=f"use one of: {', '.join(PRESETS)}")


@app.command()
def sweep(
    choices: Annotated[
        str, typer.Option(help='Fields of the model and what to try: {"leaves": [31, 63], "rounds": [160]}.')
    ],
    start: StartOption = "2013-01-02",
    end: EndOption = "2013-09-15",
    project: ProjectOption = "",
    config: ConfigOption = "{}",
    online: OnlineOption = True,
    why: WhyOption = "slipway run sweep",
    on: OnOption = "",
    json: JsonOption = False,
) -> None:
    """Try configurations in parallel, then train, prove and ship the best."""
    import msgspec

    from components.sweep import grid
    from components.train.step import read_config

    try:
        asked = msgspec.json.decode(choices, type=dict[str, list[Any]])
    except msgspec.MsgspecError as error:
        raise SettingsError(f"--choices: {error}", fix='write JSON such as {"leaves": [31, 63]}') from error
    configs = [msgspec.json.encode(item).decode() for item in grid(read_config(config), asked)]
    arguments = {
        "configs": configs,
        "start": start,
        "end": end,
        "project": project,
        "online": online,
        "why": why,
    }
    _run("sweep", arguments, on, json)


@app.command()
def component(
    name: Annotated[str, typer.Argument(help="A step, such as snapshot; a wrong name lists all.")],
    argument: Annotated[
        list[str] | None, typer.Option(help="key=value, as the pipeline hands it to the step; repeat it.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder for its artifacts; a temporary one by default.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Run one component by itself, in this process; what it answers is what the next one takes."""
    from slipway.cli.component import run_component

    made = run_component(name, argument or [], output)
    answer(made, json=json, show=lambda: f"artifacts in {made.folder}\n{made.result}")


def _run(name: str, arguments: dict[str, Any], on: str, json: bool) -> None:
    from slipway.settings import load_settings

    settings = load_settings()
    address = on or settings.pipelines.url
    if address:
        from pipelines.remote import submit

        with progress(f"Submitting {name} to {address}"):
            submitted = submit(name, arguments, settings, address)
        answer(submitted, json=json, show=lambda: f"run {submitted.run_id}\n  {submitted.url}")
        return

    from pipelines.local import run_local
    from slipway.local import Platform

    Platform.of(settings).require()
    with progress(f"Running {name}") as bar:
        result = run_local(name, arguments, settings, tell=Teller(bar, quiet=json))
    answer(result, json=json, show=lambda: f"done; artifacts and log in {result.folder}")


class Teller:
    """One line for each step as it ends; the running one in the progress bar."""

    def __init__(self, bar: Bar, *, quiet: bool) -> None:
        self._bar, self._quiet = bar, quiet

    def __call__(self, event: Event) -> None:
        if event.state == "started":
            self._bar.update(label=f"{event.step} …")
        elif not self._quiet and event.state == "done" and event.step != "finish":
            self._bar.say(f"  {event.step:<10} {event.told}  ({event.seconds:.1f} s)")
