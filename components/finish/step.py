"""The exit handler: one line that says how the run ended, for logs and for whoever watches them."""

from __future__ import annotations

from components.stepping import step


def run(state: str, resource: str, error: str | None) -> None:
    with step("finish") as this:
        this.answer(state, f"{resource or 'run'} {state}" + (f": {error}" if error else ""))
