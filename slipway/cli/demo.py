"""slipway demo: the whole loop on this machine."""

from __future__ import annotations

import sys
from textwrap import wrap

from slipway.cli.output import JsonOption, answer, progress
from slipway.cli.verbs import new_app

app = new_app()


@app.command()
def demo(json: JsonOption = False) -> None:
    """The whole loop: data, features, training, gates, serving, later months, and a model that is refused.

    It needs no cluster, no Docker and no network, takes minutes the first time, and does nothing twice.
    """
    from pipelines.demo import Demo

    # While kfp runs, its log stands in for stderr: keep the terminal's.
    terminal = sys.stderr
    with progress("Starting") as bar:
        outcome = Demo(
            say=lambda line: print(line, file=terminal, flush=True),
            doing=lambda label: bar.update(label=label),
        ).run()

    def render() -> str:
        lines = ["", "Three flights, asked an hour before they were to leave, by their entities alone:"]
        for one in outcome.asked:
            lines.append(f"  {one.flight:<16} {one.probability:6.1%} late   features {one.freshest}")
        receipt = outcome.asked[0].receipt if outcome.asked else {}
        lines += ["", "The receipt of the first answer:"]
        lines += [f"  {name:<16} {value}" for name, value in receipt.items()]
        lines += [f"  follow it with   {outcome.follow}"]
        lines += ["", "A model whose scaler was left out of the graph was stopped, and this is why:"]
        lines += [*wrap(outcome.refused, 100, initial_indent="  ", subsequent_indent="  "), ""]
        lines += ["Look at:"]
        lines += [f"  {name:<24} {place}" for name, place in outcome.pages.items()]
        lines += ["", f"Done in {outcome.seconds:.0f} s. `slipway down` stops what runs; the data stays."]
        return "\n".join(lines)

    answer(outcome, json=json, show=render)
