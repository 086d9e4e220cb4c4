"""slipway logs: what the embedded servers wrote."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from slipway.cli.platform import embedded
from slipway.cli.verbs import new_app
from slipway.errors import PlatformDown, SettingsError

app = new_app()


@app.command()
def logs(
    server: Annotated[str | None, typer.Argument(help="s3 or online; both when left out.")] = None,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many of the last lines.")] = 50,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what comes, until Ctrl-C.")
    ] = False,
) -> None:
    """Show the logs of the embedded servers."""
    from slipway.local.logs import Follower
    from slipway.local.logs import follow as follow_logs

    platform = embedded()
    names = [known.name for known in platform.servers]
    if server is not None and server not in names:
        raise SettingsError(f"there is no server {server!r}", fix=f"use one of: {', '.join(names)}")
    files = {name: platform.home.log(name) for name in ([server] if server else names)}
    if not follow and not any(file.exists() for file in files.values()):
        raise PlatformDown("there are no logs yet", where=str(platform.home.path), fix="slipway up")
    # With one server its lines stand as they are, so that they can be piped; with more each says whose it is.
    width = max(map(len, files)) if len(files) > 1 else 0
    followers = {name: Follower(file) for name, file in files.items()}
    for name, follower in followers.items():
        for line in follower.last_lines(lines):
            _write(name, line, width)
    if follow:
        for name, line in follow_logs(followers):
            _write(name, line, width)


def _write(name: str, line: str, width: int) -> None:
    sys.stdout.write(f"{name:<{width}}  {line}\n" if width else f"{line}\n")
    sys.stdout.flush()
