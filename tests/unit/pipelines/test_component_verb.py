"""`slipway run component`: one step by itself."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from components.sweep import Trial
from components.sweep.search import SCORE
from components.train import ModelConfig, TrainConfig
from slipway.cli import main
from slipway.cli.component import run_component
from slipway.errors import SettingsError


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SLIPWAY_HOME", str(tmp_path / "home"))
    return tmp_path


def test_a_component_runs_by_itself_and_answers_one_document(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trials = [
        Trial(TrainConfig(model=ModelConfig(kind="boosting", leaves=leaves)), {SCORE: score}, 5)
        for leaves, score in ((7, 0.4), (3, 0.5))
    ]
    argument = f"trials={json.dumps([msgspec.json.encode(trial).decode() for trial in trials])}"
    options = ["--argument", argument, "--output", str(home / "out"), "--json"]
    code = main(["run", "component", "choose", *options])
    assert code == 0
    shown = capsys.readouterr()
    found = json.loads(shown.out)
    assert json.loads(found["result"])["model"]["leaves"] == 7
    assert found["folder"] == str(home / "out")
    assert "choose: the best of 2" in shown.err


def test_artifacts_are_written_to_the_folder(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from components.evaluate import step

    def run(project: str, candidate: str, *, report: str, metrics: object, curves: object) -> str:
        Path(report).write_text(f"{project} {candidate}")
        metrics.log_metric("roc_auc", 0.75)  # type: ignore[attr-defined]
        curves.log_confusion_matrix(["a", "b"], [[1, 2], [3, 4]])  # type: ignore[attr-defined]
        return "s3://bucket/evaluation/"

    monkeypatch.setattr(step, "run", run)
    made = run_component("evaluate", ["candidate=s3://bucket/c/"], home / "out")
    assert made.result == "s3://bucket/evaluation/"
    assert (home / "out" / "report").read_text() == " s3://bucket/c/"
    assert json.loads((home / "out" / "metrics.json").read_text()) == {"roc_auc": 0.75}
    assert "confusionMatrix" in json.loads((home / "out" / "curves.json").read_text())


def test_a_wrong_name_lists_the_components(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "component", "snapshots"]) == 2
    shown = capsys.readouterr().err
    assert "there is no component 'snapshots'" in shown
    known = "choose, deploy, evaluate, evaluate-version, published, register, snapshot, train, trial, verify"
    assert f"use one of: {known}" in shown


@pytest.mark.parametrize(
    ("pairs", "what"),
    [
        (["start=2013-01-01"], "snapshot needs end"),
        (["start", "end=2013-02-01"], "takes no argument 'start'"),
        (["begin=2013-01-01"], "takes no argument 'begin=2013-01-01'"),
    ],
)
def test_wrong_arguments_are_named(pairs: list[str], what: str) -> None:
    with pytest.raises(SettingsError, match=what):
        run_component("snapshot", pairs, None)


def test_values_have_the_types_of_the_pipeline() -> None:
    given = ["candidate=c", "evaluation=e", "online=perhaps"]
    with pytest.raises(SettingsError, match="online='perhaps'"):
        run_component("verify", given, None)
    with pytest.raises(SettingsError, match="trials="):
        run_component("choose", ["trials=none"], None)


def test_an_error_of_the_step_is_the_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["run", "component", "train", "--argument", "snapshot=nowhere", "--argument", "config={"]
    assert main(arguments) == 1
    assert "error: 'nowheremanifest.json' is not an S3 address" in capsys.readouterr().err
