"""slipway down: stop the embedded platform."""

from __future__ import annotations

from slipway.cli.output import JsonOption, answer, progress
from slipway.cli.platform import embedded
from slipway.cli.verbs import new_app

app = new_app()


@app.command()
def down(json: JsonOption = False) -> None:
    """Stop what `slipway up` started, and nothing else. Data stays."""
    platform = embedded()
    with progress("Stopping the servers"):
        stopped = platform.down()
    home = platform.home.path
    answer(
        {"home": home, "stopped": stopped},
        json=json,
        show=lambda: (
            f"stopped {', '.join(stopped)}; data stays in {home}" if stopped else f"nothing ran in {home}"
        ),
    )
