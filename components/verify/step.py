"""The verify step, as pipelines call it."""

from __future__ import annotations

from pathlib import Path

from components.evaluate.evaluation import read_evaluation
from components.stepping import step
from components.train.candidate import read_candidate
from components.verify.component import verify
from slipway.objects import ObjectStore
from slipway.project import load_project


def run(project: str, candidate: str, evaluation: str, *, online: bool, report: str) -> str:
    """Ask every gate; the folder of the files that passed. `report` is written whatever they answer."""
    with step("verify") as this:
        objects = ObjectStore.from_settings(this.settings)

        def keep(name: str, content: bytes) -> None:
            Path(report).parent.mkdir(parents=True, exist_ok=True)
            Path(report).write_bytes(content)

        verified = verify(
            this.settings,
            load_project(this.settings, project),
            read_candidate(objects, candidate),
            read_evaluation(objects, evaluation),
            objects=objects,
            online=online,
            on_report=keep,
        )
        return this.answer(verified.folder, f"{len(verified.gates)} checks passed")
