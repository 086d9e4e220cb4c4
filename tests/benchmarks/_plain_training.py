"""The functions that a training calls, one after another in one process."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from components.deploy import deploy
from components.evaluate import evaluate
from components.register import register
from components.snapshot import Window, take_snapshot
from components.train import train
from components.train.step import read_config
from components.verify import verify
from slipway.objects import ObjectStore
from slipway.project import load_project
from slipway.registry import Registry
from slipway.settings import load_settings


def main(start: str, end: str, config: str) -> None:
    settings = load_settings()
    project, objects = load_project(settings), ObjectStore.from_settings(settings)
    snapshot = take_snapshot(settings, project, Window(start, end))
    candidate = train(settings, project, snapshot, read_config(config))
    evaluation = evaluate(settings, project, candidate)
    verified = verify(settings, project, candidate, evaluation)
    with tempfile.TemporaryDirectory() as folder:
        made = register(settings, verified.download(objects, Path(folder, "version")))
    print(deploy(settings, Registry(settings).find(made.name, made.digest), why="benchmark").url)


if __name__ == "__main__":
    main(*sys.argv[1:])
