"""MLflow's database appears whole or not at all."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from slipway.tracking import open_client


def experiments(path: Path) -> list[str]:
    return [found.name for found in open_client(f"sqlite:///{path}").search_experiments()]


def test_a_database_that_was_left_half_way_does_not_stand_in_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state" / "mlflow.db"
    with monkeypatch.context() as patch:

        def killed(*places: object) -> None:
            raise KeyboardInterrupt

        patch.setattr(os, "link", killed)
        with pytest.raises(KeyboardInterrupt):
            experiments(path)
    assert list(path.parent.iterdir()) == []
    # What kill -9 leaves: long ago, and by one that may still be at work.
    old, young = path.with_name(".mlflow.db.old"), path.with_name(".mlflow.db.young")
    old.touch()
    young.touch()
    os.utime(old, (time.time() - 7200,) * 2)
    assert experiments(path) == ["Default"]
    assert sorted(path.parent.iterdir()) == [young, path]


def test_of_two_that_make_it_the_first_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, path = tmp_path / "first.db", tmp_path / "mlflow.db"
    open_client(f"sqlite:///{first}").create_experiment("of the first")
    link = os.link

    def later(source: Path, target: Path) -> None:
        shutil.copy(first, target)
        link(source, target)

    monkeypatch.setattr(os, "link", later)
    assert sorted(experiments(path)) == ["Default", "of the first"]
    assert sorted(tmp_path.iterdir()) == [first, path]
