"""What steps tell, and what the caller of a run makes of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from components import finish
from components.finish.step import run as finish_run
from components.stepping import EVENTS, Event, read_events, step
from pipelines.local import RunResult, _as_error, _environment, _followed, _fresh_folder
from slipway.errors import GateNotPassed, ObjectStoreUnavailable, SettingsError, SlipwayError


@pytest.fixture
def events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SLIPWAY_HOME", str(tmp_path))
    monkeypatch.setenv(EVENTS, str(tmp_path / "events.jsonl"))
    return tmp_path / "events.jsonl"


def test_a_step_tells_of_its_begin_and_its_end(events: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with step("train") as this:
        assert this.answer("s3://bucket/model", "boosting on 4 rows") == "s3://bucket/model"
    (started, done), _ = read_events(events)
    assert started == Event(step="train", state="started")
    assert (done.state, done.result, done.told) == ("done", "s3://bucket/model", "boosting on 4 rows")
    assert done.seconds >= 0
    assert capsys.readouterr().out.startswith("train: boosting on 4 rows (")


def test_an_error_of_ours_ends_the_process_with_its_code_and_is_told_whole(events: Path) -> None:
    with pytest.raises(SystemExit) as caught, step("verify"):
        raise GateNotPassed("quality: fail", where="s3://bucket/x", fix="more data")
    assert caught.value.code == 4
    failed = read_events(events)[0][-1]
    assert (failed.state, failed.error, failed.told) == ("failed", "GateNotPassed", "quality: fail")
    assert (failed.where, failed.fix) == ("s3://bucket/x", "more data")


def test_a_defect_keeps_its_traceback(events: Path) -> None:
    with pytest.raises(ZeroDivisionError), step("train"):
        _ = 1 / 0
    failed = read_events(events)[0][-1]
    assert (failed.error, failed.told) == ("ZeroDivisionError", "ZeroDivisionError: division by zero")


def test_settings_that_are_wrong_are_the_error_of_the_step(
    events: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLIPWAY_NO_SUCH", "1")
    with pytest.raises(SystemExit) as caught, step("train"):
        raise AssertionError("the body must not run")
    assert caught.value.code == 2
    assert read_events(events)[0][-1].error == "SettingsError"


def test_without_a_file_for_events_a_step_runs_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLIPWAY_HOME", str(tmp_path))
    monkeypatch.delenv(EVENTS, raising=False)
    with step("train"):
        pass
    assert capsys.readouterr().out.startswith("train: done (")
    assert list(tmp_path.iterdir()) == []


def test_finish_tells_how_the_run_ended(events: Path) -> None:
    assert finish.__doc__
    finish_run("SUCCEEDED", "train-1", None)
    done = read_events(events)[0][-1]
    assert (done.step, done.result, done.told) == ("finish", "SUCCEEDED", "train-1 SUCCEEDED")


def test_parallel_writers_do_not_tear_each_others_lines(events: Path) -> None:
    code = (
        "import sys\n"
        "from components.stepping import Event, _send\n"
        "for number in range(200):\n"
        "    _send(Event(step=sys.argv[1], state='done', told=sys.argv[1] * 3000, result=str(number)))\n"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, name]) for name in "abcd"]
    assert [writer.wait(timeout=60) for writer in writers] == [0, 0, 0, 0]
    found, end = read_events(events)
    assert end == events.stat().st_size
    for name in "abcd":
        mine = [event for event in found if event.step == name]
        assert [event.result for event in mine] == [str(number) for number in range(200)]
        assert {event.told for event in mine} == {name * 3000}


def test_a_line_that_is_not_whole_yet_waits(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    assert read_events(path) == ([], 0)
    line = msgspec.json.encode(Event(step="train", state="started")) + b"\n"
    path.write_bytes(line + line[:10])
    found, place = read_events(path)
    assert (len(found), place) == (1, len(line))
    path.write_bytes(line + line)
    assert [event.step for event in read_events(path, place)[0]] == ["train"]


@pytest.mark.parametrize("kind", [GateNotPassed, SettingsError, ObjectStoreUnavailable, SlipwayError])
def test_the_error_of_a_step_gets_its_class_back(kind: type[SlipwayError], tmp_path: Path) -> None:
    event = Event(
        step="train", state="failed", told="it broke", error=kind.__name__, where="there", fix="mend it"
    )
    error = _as_error(event, tmp_path / "log.txt")
    assert type(error) is kind
    assert (error.what, error.where, error.fix) == ("step train: it broke", "there", "mend it")


@pytest.mark.parametrize("name", ["KeyError", "annotations", "ClassVar", "_rebuild", ""])
def test_what_is_no_error_of_ours_points_to_the_log(name: str, tmp_path: Path) -> None:
    error = _as_error(Event(step="train", state="failed", told="x", error=name), tmp_path / "log.txt")
    assert type(error) is SlipwayError
    assert error.where == str(tmp_path / "log.txt")
    assert error.fix is not None
    assert "traceback" in error.fix


def test_events_are_told_while_they_happen_and_none_is_lost(events: Path) -> None:
    told: list[str] = []
    with _followed(events, lambda event: told.append(event.state)):
        for _ in range(3):
            with step("train"):
                pass
    assert told == ["started", "done"] * 3


def test_the_environment_is_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIPWAY_A", "before")
    monkeypatch.delenv("SLIPWAY_B", raising=False)
    with _environment({"SLIPWAY_A": "1", "SLIPWAY_B": "2"}):
        assert (os.environ["SLIPWAY_A"], os.environ["SLIPWAY_B"]) == ("1", "2")
    assert os.environ["SLIPWAY_A"] == "before"
    assert "SLIPWAY_B" not in os.environ


def test_folders_of_old_runs_make_room(tmp_path: Path) -> None:
    made = [_fresh_folder(tmp_path / "runs", "train") for _ in range(23)]
    assert [path.name for path in sorted((tmp_path / "runs").iterdir())] == [path.name for path in made[-20:]]


def test_a_result_is_the_last_that_a_step_gave() -> None:
    done = [Event(step="train", state="done", result=text) for text in ("a", "b")]
    result = RunResult("train", "folder", tuple(done))
    assert (result.result("train"), result.result("deploy")) == ("b", "")
