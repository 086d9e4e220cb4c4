"""slipway completion: the script that teaches a shell our verbs and options."""

from __future__ import annotations

from typing import Annotated, Literal

import typer
from typer._completion_shared import get_completion_script

from slipway.cli.app import COMPLETE
from slipway.cli.verbs import new_app

app = new_app()


@app.command(
    epilog="For bash: `source <(slipway completion bash)`, in ~/.bashrc to keep it. For fish: `slipway "
    "completion fish > ~/.config/fish/completions/slipway.fish`."
)
def completion(
    shell: Annotated[Literal["bash", "zsh", "fish"], typer.Argument(help="The shell you use.")],
) -> None:
    """Print the completion script of your shell.

    It asks `slipway` itself for the words, so it never gets out of date.
    """
    typer.echo(get_completion_script(prog_name="slipway", complete_var=COMPLETE, shell=shell))
