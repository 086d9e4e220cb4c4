"""The `slipway` command. `verbs.py` says how to add a verb."""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]


def is_interrupt(error: BaseException | None) -> bool:
    """Whether it is a Ctrl-C, or what Python made of one that came while a class was made."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and answer its exit code; `app.py` has the table of codes."""
    try:
        import typer  # noqa: F401

        from slipway.cli.app import run
    except BaseException as error:
        if is_interrupt(error):
            sys.stderr.write("error: interrupted\n  to mend it: the same command again\n")
            return 130
        if not isinstance(error, ModuleNotFoundError) or error.name != "typer":
            raise
        # The serving image leaves typer out: it has no use for the command.
        sys.stderr.write(
            "slipway: the command line is not installed here; pip install 'slipway[cli]' adds it\n"
        )
        return 1
    return run(sys.argv[1:] if arguments is None else list(arguments))
