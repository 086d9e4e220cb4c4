"""slipway logs: what the embedded servers wrote."""

from __future__ import annotations

import sys
from itertools import chain
from typing import Annotated

import typer

from slipway.cli.output import JsonOption, print_json
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
    json: JsonOption = False,
) -> None:
    """Show the logs of the embedded servers.

    With --json they are a list of {server, line}; with --follow as well, one such object a line.
    """
    from slipway.local.logs import Follower
    from slipway.local.logs import follow as follow_logs

    platform = embedded()
    names = [known.name for known in platform.servers]
    if server is not None and server not in names:
        raise SettingsError(f"there is no server {server!r}", fix=f"use one of: {', '.join(names)}")
    files = {name: platform.home.log(name) for name in ([server] if server else names)}
    if not follow and not any(file.exists() for file in files.values()):
        raise PlatformDown("there are no logs yet", where=str(platform.home.path), fix="slipway up")
    followers = {name: Follower(file) for name, file in files.items()}
    found = [(name, line) for name, follower in followers.items() for line in follower.last_lines(lines)]
    if json and not follow:
        print_json([{"server": name, "line": line} for name, line in found])
        return
    # With one server its lines stand as they are, so that they can be piped; with more each says whose it is.
    width = max(map(len, files)) if len(files) > 1 else 0
    for name, line in chain(found, follow_logs(followers) if follow else ()):
        sys.stdout.write(
            _event(name, line) if json else f"{name:<{width}}  {line}\n" if width else f"{line}\n"
        )
        sys.stdout.flush()


def _event(name: str, line: str) -> str:
    import msgspec

    return msgspec.json.encode({"server": name, "line": line}).decode() + "\n"
