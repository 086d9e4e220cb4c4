"""The `slipway` command. `verbs.py` says how to add a verb."""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and answer its exit code; `app.py` has the table of codes."""
    try:
        import typer  # noqa: F401
    except ModuleNotFoundError:
        # The serving image leaves typer out: it has no use for the command.
        sys.stderr.write(
            "slipway: the command line is not installed here; pip install 'slipway[cli]' adds it\n"
        )
        return 1
    from slipway.cli.app import run

    return run(sys.argv[1:] if arguments is None else list(arguments))
