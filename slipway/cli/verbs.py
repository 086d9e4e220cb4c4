"""The verbs of the command line, in the order the help lists them.

To add a verb:

1. Write `slipway/cli/<verb>.py` with a Typer called `app`. One command makes a plain verb, several make a
   verb with sub-commands (`slipway features apply`):

       from slipway.cli.output import JsonOption, answer, progress
       from slipway.cli.verbs import new_app

       app = new_app()

       @app.command()
       def ingest(path: Path, json: JsonOption = False) -> None:
           \"""Read raw events into the offline store.\"""      # the help text
           from slipway.settings import load_settings            # heavy imports inside the function
           with progress("Reading", total=count) as advance:     # for anything over two seconds
               ...
           answer(result, json=json, show=lambda: f"{result.rows} rows")

2. Add one line to `VERBS` below.

A module is imported only when its verb runs (or asks for its own help), so `slipway --help` stays under
0.3 s. Even there, import feast, pandas, mlflow, kfp, boto3, polars and numpy inside the functions, or
`slipway <verb> --help` pays for them. Raise the errors of `slipway.errors` and print nothing about them:
`app.py` shows what, where and how to mend it, and ends with the exit code of the class.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import typer

PLATFORM = "The embedded platform"
DATA = "Data and features"
MODELS = "Training and models"
SERVING = "Serving"
SHELL = "Shell"


@dataclass(frozen=True, slots=True)
class Verb:
    name: str
    group: str
    help: str
    """One line, in the imperative, without a full stop; under 60 characters."""
    extra: str = "local"
    """The extra of pyproject.toml that brings what the verb imports."""

    @property
    def module(self) -> str:
        return f"slipway.cli.{self.name.replace('-', '_')}"


VERBS: tuple[Verb, ...] = (
    Verb("up", PLATFORM, "Start S3, the online store and tracking"),
    Verb("down", PLATFORM, "Stop them; data stays"),
    Verb("status", PLATFORM, "Show health, addresses, sizes and versions"),
    Verb("logs", PLATFORM, "Show what the servers wrote"),
    Verb("ingest", DATA, "Take raw tables to S3, checked and cleaned", "components"),
    Verb("features", DATA, "Build, apply, materialize, show and compare features"),
    Verb("demo", MODELS, "The whole loop, from data to a refused model"),
    Verb("run", MODELS, "Run a pipeline here or on a cluster"),
    Verb("models", MODELS, "What is registered, what serves, who decided it"),
    Verb("trace", MODELS, "From an answer back to the raw files"),
    Verb("compile", MODELS, "Write the pipelines as files for a cluster"),
    Verb("serve", SERVING, "Serve ONNX models on this machine", "serving"),
    Verb("completion", SHELL, "Print the completion script of your shell", "cli"),
)


def find(name: str) -> Verb | None:
    return next((verb for verb in VERBS if verb.name == name), None)


def new_app() -> typer.Typer:
    """A Typer as all verbs use it.

    Rich's help panels are off, because Rich's markdown alone costs 0.1 s of every help; tracebacks too,
    because `app.py` decides how errors look.
    """
    import typer

    return typer.Typer(
        add_completion=False,
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
