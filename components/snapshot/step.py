"""The snapshot step, as pipelines call it: text in, text out."""

from __future__ import annotations

from pathlib import Path

from components.snapshot.component import take_snapshot
from components.snapshot.manifest import STATISTICS_FILE, Window
from components.stepping import step
from slipway.objects import ObjectStore
from slipway.project import load_project


def run(project: str, start: str, end: str, *, statistics: str) -> str:
    """Take the snapshot; its address. `statistics` is the file that KFP shows as an artifact."""
    with step("snapshot") as this:
        objects = ObjectStore.from_settings(this.settings)
        taken = take_snapshot(this.settings, load_project(this.settings, project), Window(start, end))
        Path(statistics).parent.mkdir(parents=True, exist_ok=True)
        Path(statistics).write_bytes(objects.get(taken.uri + STATISTICS_FILE))
        made = "taken" if taken.created else "known already"
        return this.answer(
            taken.uri, f"{taken.rows:,} rows from {taken.start[:10]} to {taken.end[:10]}, {made}"
        )
