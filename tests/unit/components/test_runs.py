"""MLflow runs end with their work: what was killed is ended by the next, and what lives is left alone."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from components import runs
from components.runs import OWNER, Owner, end_abandoned, working_on
from components.tracking import experiment, open_tracking
from slipway.local.launch import identity
from slipway.settings import Settings, Tracking


@pytest.fixture
def place(settings: Settings, request: pytest.FixtureRequest) -> tuple[Any, str, Settings]:
    """A client, and an experiment of the test's own."""
    uri = settings.tracking.uri
    own = msgspec.structs.replace(settings, tracking=Tracking(uri=uri, experiment=request.node.name))
    client = open_tracking(own)
    return client, experiment(client, own).experiment_id, own


def status(client: Any, run_id: str) -> str:
    return client.get_run(run_id).info.status


@pytest.fixture
def worker(place: tuple[Any, str, Settings]) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Another process, and a run that it is working on."""
    client, where, _ = place
    with subprocess.Popen(["sleep", "120"]) as process:
        owner = msgspec.structs.replace(Owner.here(), pid=process.pid, identity=identity(process.pid) or "")
        run = client.create_run(where, tags={OWNER: msgspec.json.encode(owner).decode()})
        yield process, run.info.run_id
        process.kill()


@pytest.mark.parametrize(
    ("error", "ends"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED"), (SystemExit, "KILLED")]
)
def test_a_run_ends_as_its_work_does(place, error: type[BaseException], ends: str) -> None:
    client, where, _ = place
    with working_on(client, where, "whole", {"a": "b"}) as whole:
        assert status(client, whole.info.run_id) == "RUNNING"
    assert status(client, whole.info.run_id) == "FINISHED"
    assert client.get_run(whole.info.run_id).data.tags["a"] == "b"
    with pytest.raises(error), working_on(client, where, "broken", {}) as broken:
        raise error
    assert status(client, broken.info.run_id) == ends


def test_a_run_of_a_process_that_lives_is_left_alone_and_one_that_was_killed_is_ended(place, worker) -> None:
    client, where, _ = place
    process, run_id = worker
    assert end_abandoned(client, where) == []
    assert status(client, run_id) == "RUNNING"
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    assert end_abandoned(client, where) == [run_id]
    assert status(client, run_id) == "KILLED"
    assert end_abandoned(client, where) == []


def test_our_own_runs_and_those_of_nobody_are_left_alone(place) -> None:
    client, where, _ = place
    with working_on(client, where, "ours", {}):
        assert end_abandoned(client, where) == []
    others = [client.create_run(where), client.create_run(where, tags={OWNER: "{"})]
    assert end_abandoned(client, where) == []
    assert {status(client, run.info.run_id) for run in others} == {"RUNNING"}


def test_who_is_surely_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    here = Owner.here()
    assert not here.surely_gone()
    # The same number, but another process has it now.
    assert msgspec.structs.replace(here, identity="7@boot").surely_gone()
    # Another machine, or a container with numbers of its own: not to be told from here.
    assert not msgspec.structs.replace(here, host="elsewhere", identity="7@boot").surely_gone()
    assert not msgspec.structs.replace(here, processes="pid:[7]", identity="7@boot").surely_gone()
    # A pod of the pipeline run that has ended; and of another, whose name merely begins alike.
    pod = msgspec.structs.replace(here, host="slipway-train-x7k2p-system-container-impl-3141")
    assert pod.surely_gone("slipway-train-x7k2p")
    assert not pod.surely_gone("slipway-train-x7k2")
    assert not pod.surely_gone()
    monkeypatch.setattr(runs, "identity", lambda pid: None)
    assert here.surely_gone()


def test_a_training_ends_what_the_one_before_it_left_open(
    settings: Settings, tables: Any, place, worker
) -> None:
    from components.snapshot import Window, take_snapshot
    from components.train import ModelConfig, TrainConfig, train
    from tests.support.training import PROJECT

    client, _, own = place
    process, run_id = worker
    taken = take_snapshot(settings, PROJECT, Window("2013-01-01", "2013-03-02"), source=tables)
    config = TrainConfig(model=ModelConfig(kind="logistic"))
    first = train(own, PROJECT, taken, config)
    assert status(client, first.record.run_id) == "FINISHED"
    assert status(client, run_id) == "RUNNING"
    process.kill()
    process.wait(10)
    # Even one that finds all it wants made.
    assert train(own, PROJECT, taken, config).record == first.record
    assert status(client, run_id) == "KILLED"


def test_finish_ends_what_a_killed_step_left_open_and_says_so(
    place, worker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from components.finish.step import run

    client, _, own = place
    process, run_id = worker
    monkeypatch.setenv("SLIPWAY_HOME", str(tmp_path))
    monkeypatch.setenv("SLIPWAY_TRACKING_URI", own.tracking.uri)
    monkeypatch.setenv("SLIPWAY_TRACKING_EXPERIMENT", own.tracking.experiment)
    process.kill()
    process.wait(10)
    run("FAILED", "train-1", None)
    assert "train-1 FAILED; 1 MLflow runs of killed steps ended" in capsys.readouterr().out
    assert status(client, run_id) == "KILLED"


def test_finish_speaks_even_where_tracking_does_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from components.finish.step import run

    monkeypatch.setenv("SLIPWAY_HOME", str(tmp_path))
    monkeypatch.setenv("SLIPWAY_TRACKING_URI", f"sqlite:///{tmp_path}/there/is/no/folder/x.db")
    (tmp_path / "there").write_text("a file")
    began = time.monotonic()
    run("FAILED", "train-1", "verify said no")
    assert "train-1 FAILED: verify said no; whether a killed step left" in capsys.readouterr().out
    assert time.monotonic() - began < 30
