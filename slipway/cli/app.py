"""The front of the command line: finds the verb, runs it, and turns what it raises into an exit code.

Exit codes, for scripts:
    0    done
    1    failed
    2    wrong input: an option, a setting, a file
    3    something that must run does not; `slipway up` is most often the remedy
    4    a gate stopped the line
    70   a defect in slipway itself; the traceback is on stderr
    130  interrupted
    141  the reader of our output went away
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from difflib import get_close_matches
from typing import Annotated, Any

import typer
from typer._click.exceptions import NoArgsIsHelpError
from typer._click.shell_completion import CompletionItem
from typer._completion_classes import completion_init
from typer.core import TyperGroup

from slipway import __version__
from slipway.cli import is_interrupt, output
from slipway.cli.verbs import VERBS, Verb, find, new_app
from slipway.errors import ObjectStoreUnavailable, SlipwayError

COMPLETE = "_SLIPWAY_COMPLETE"
"""Set by the completion script when it asks for words."""

DEFECT = 70
INTERRUPTED = 130
READER_GONE = 141

# When one of these is missing, the installation is not short of an extra: it is broken.
_HOUSE = {"slipway", "components", "serving", "feature_repo", "pipelines"}


class LazyGroup(TyperGroup):
    """Knows its verbs by the table, and imports one only when it is called."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        return [verb.name for verb in VERBS]

    def get_command(self, ctx: typer.Context, cmd_name: str) -> Any:  # type: ignore[override]
        verb = find(cmd_name)
        return None if verb is None else _load(verb)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if find(args[0]) is None and not args[0].startswith("-") and not ctx.resilient_parsing:
            near = get_close_matches(args[0], self.list_commands(ctx))
            hint = f"did you mean {' or '.join(near)}?" if near else "`slipway --help` lists them"
            ctx.fail(f"there is no verb {args[0]!r}; {hint}")
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        # The inherited one imports every verb for its help text: seconds, at each press of the tab key.
        verbs = [
            CompletionItem(verb.name, help=verb.help) for verb in VERBS if verb.name.startswith(incomplete)
        ]
        return verbs or super().shell_complete(ctx, incomplete)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        for group in dict.fromkeys(verb.group for verb in VERBS):
            with formatter.section(typer.style(group, bold=True)):
                formatter.write_dl([(verb.name, verb.help) for verb in VERBS if verb.group == group])


def _load(verb: Verb) -> Any:
    command = typer.main.get_command(importlib.import_module(verb.module).app)
    command.name = verb.name
    return command


app = new_app()


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"slipway {__version__}")
        raise typer.Exit


@app.callback(
    cls=LazyGroup,
    epilog="First steps: `slipway up`, then `slipway status`. Every verb explains itself with --help; those "
    "that answer something take --json.",
)
def front(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Slipway: raw events to an autoscaled ONNX endpoint, with every step proved on the way."""


def run(arguments: list[str]) -> int:
    """Run one command line; nothing it raises gets past this function."""
    if os.environ.get(COMPLETE):
        return _complete()
    json = output.wants_json(arguments)
    try:
        code = typer.main.get_command(app).main(
            arguments or ["--help"], prog_name="slipway", standalone_mode=False
        )
        sys.stdout.flush()
    except SlipwayError as error:
        return _show(error, json)
    except NoArgsIsHelpError as error:
        typer.echo(error.format_message(), err=True)
        return error.exit_code
    except typer.TyperException as error:
        return _show(_usage(error), json)
    except ModuleNotFoundError as error:
        found = _missing(error, arguments)
        return _defect(error, json) if found is None else _show(found, json)
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted(json)
    except BrokenPipeError:
        return _reader_gone()
    except SystemExit as end:
        # Typer turns a broken pipe into its own exit.
        if isinstance(end.__context__, BrokenPipeError):
            return _reader_gone()
        raise
    except Exception as error:  # the last line of defence: a defect of ours
        # While a class is made, Python turns what is raised into an error of its own.
        return _interrupted(json) if is_interrupt(error) else _defect(error, json)
    if code == INTERRUPTED:
        return _interrupted(json)
    return code if isinstance(code, int) else 0


def _complete() -> int:
    """Answer the shell; whatever fails, a press of the tab key must not fill the screen."""
    completion_init()
    try:
        typer.main.get_command(app).main(prog_name="slipway", complete_var=COMPLETE, standalone_mode=False)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    except Exception:
        return 1
    return 0


def _show(error: SlipwayError, json: bool) -> int:
    if isinstance(error, ObjectStoreUnavailable):
        error.fix = _about_the_disk() or error.fix
    output.show_error(error, json=json)
    return error.exit_code


def _about_the_disk() -> str | None:
    """The embedded S3 answers 500 to whatever it finds no room for, and does not say so."""
    from slipway.local import Platform
    from slipway.settings import load_settings

    try:
        settings = load_settings()
        short = Platform.of(settings).short_of_space() if settings.profile == "local" else None
    except (SlipwayError, OSError):
        return None
    return f"{short}: free some space, then the same command again" if short else None


class UsageError(SlipwayError):
    """The words on the command line do not fit the verb."""

    exit_code = 2


def _usage(error: typer.TyperException) -> UsageError:
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "slipway"
    message = " ".join(error.format_message().split())
    return UsageError(message, where=path, fix=f"`{path} --help` shows what is allowed")


def _missing(error: ModuleNotFoundError, arguments: list[str]) -> SlipwayError | None:
    """What a verb imports is not installed: name the extra that brings it. None: the house is broken."""
    package = (error.name or "").partition(".")[0]
    verb = next(filter(None, map(find, arguments)), None)
    if verb is None or package in _HOUSE:
        return None
    return SlipwayError(
        f"the package {package} is not installed",
        where=sys.prefix,
        fix=f"install it with: pip install 'slipway[{verb.extra}]'",
    )


def _reader_gone() -> int:
    """`slipway logs | head`: what is left to flush at exit must not raise again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno() if sys.__stdout__ else 1)
    return READER_GONE


def _interrupted(json: bool) -> int:
    fix = "the same command again goes on where this one ended"
    output.show_error(SlipwayError("interrupted", fix=fix), json=json, exit_code=INTERRUPTED)
    return INTERRUPTED


def _defect(error: Exception, json: bool) -> int:
    traceback.print_exception(error)
    found = SlipwayError(
        f"{type(error).__name__}: {error}",
        where="slipway itself",
        fix="this is a defect: please report it with the traceback above",
    )
    output.show_error(found, json=json, exit_code=DEFECT)
    return DEFECT
