"""slipway run: what is told before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from slipway.cli import main


@pytest.mark.parametrize(
    ("config", "what", "fix"),
    [
        ('{"model": {"round": 5}}', "unknown field `round` - at `$.model`", "model has kind, rounds"),
        ('{"models": {}}', "unknown field `models`", "split has test_from"),
        ('{"model": {"kind": "forest"}}', "'forest' - at `$.model.kind`", '"kind": "boosting"'),
        ('{"model": {"rounds": "many"}}', "got `str` - at `$.model.rounds`", "write JSON"),
        ('{"model": {"rounds": 0}}', "rounds is 0, and must be at least 1 - at `$.model`", "write JSON"),
        ('{"model": {"feature_share": 1.5}}', "must be above 0 and at most 1", "write JSON"),
        ('{"model": {"seed": -1}}', "must be from 0 to 4294967295", "write JSON"),
        ('{"split": {"test_share": 2}}', "must lie between 0 and 1 - at `$.split`", "write JSON"),
        ('{"split": {"test_from": "soon"}}', "Invalid isoformat string", "write JSON"),
        ("rounds=5", "malformed", "write JSON"),
    ],
)
def test_a_wrong_configuration_is_told_before_anything_starts(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    config: str,
    what: str,
    fix: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["run", "train", "--config", config]) == 2
    error = capsys.readouterr().err
    assert f"config {config!r}" in error
    assert what in error
    assert fix in error
    assert list(tmp_path.iterdir()) == []


def test_a_right_one_goes_on_to_the_platform(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    config = '{"model": {"rounds": 5, "l2": 0}, "split": {"test_from": "2013-09-15T04:00:00Z"}}'
    assert main(["run", "train", "--config", config]) == 3
    assert "the embedded platform is not up" in capsys.readouterr().err
