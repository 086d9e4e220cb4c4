"""Processes are recognised by id and start time, and only ours are touched."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from slipway.local import process
from slipway.local.launch import IN_USE, identity
from slipway.local.process import Process

SLEEP = ["/bin/sleep", "60"]


def launch(folder: Path, *program: str) -> Process:
    (folder / "data").mkdir(exist_ok=True)
    process.start(
        program,
        record=folder / "record",
        log=folder / "log",
        data=folder / "data",
        environment={"PATH": os.environ["PATH"]},
    )
    found = process.read_record(folder / "record")
    assert found is not None
    return found


def wait_for_exec(found: Process, name: str) -> None:
    deadline = time.monotonic() + 30
    while Path(f"/proc/{found.pid}/comm").read_text().strip() != name:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def wait_for_log(folder: Path) -> str:
    """The first thing that the program wrote."""
    deadline = time.monotonic() + 30
    while not (text := (folder / "log").read_text()).endswith("\n"):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return text


def wait_for_end(pid: int) -> None:
    """A process lets go of its files a moment before it counts as ended."""
    deadline = time.monotonic() + 30
    while identity(pid) is not None:
        assert time.monotonic() < deadline
        time.sleep(0.01)


class TestIdentity:
    def test_it_is_the_same_for_one_process_and_differs_for_others(self) -> None:
        with subprocess.Popen(SLEEP) as other:
            assert identity(os.getpid()) == identity(os.getpid()) is not None
            assert identity(other.pid) not in (None, identity(os.getpid()))
            other.kill()

    def test_the_dead_and_the_unreaped_have_none(self) -> None:
        child = subprocess.Popen(["/bin/true"])
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert identity(child.pid) is None  # a zombie
        child.wait()
        assert identity(child.pid) is None

    def test_a_name_with_brackets_is_no_trap(self, tmp_path: Path) -> None:
        program = tmp_path / "a) R 1 (b"
        program.symlink_to("/bin/sleep")
        with subprocess.Popen([program, "60"]) as child:
            assert (identity(child.pid) or "").partition("@")[0].isdigit()
            child.kill()


class TestStart:
    def test_it_is_on_record_and_outlives_us_apart(self, tmp_path: Path) -> None:
        found = launch(tmp_path, *SLEEP)
        try:
            wait_for_exec(found, "sleep")
            assert found.alive()
            assert os.getsid(found.pid) == found.pid
            assert Path(f"/proc/{found.pid}/cwd").resolve() == tmp_path / "data"
            assert 0 <= (found.uptime() or -1) < 30
            assert (found.memory() or 0) > 0
        finally:
            process.stop(found, grace=5)

    def test_what_it_writes_is_in_its_log(self, tmp_path: Path) -> None:
        found = launch(tmp_path, "/bin/sh", "-c", "echo out; echo err >&2")
        assert process.released(tmp_path / "data", patience=30)
        wait_for_end(found.pid)
        assert not found.alive()
        assert (tmp_path / "log").read_text() == "out\nerr\n"
        assert (tmp_path / "log").stat().st_mode & 0o777 == 0o600

    def test_a_program_that_cannot_run_leaves_a_dead_record(self, tmp_path: Path) -> None:
        found = launch(tmp_path, str(tmp_path / "nothing"))
        assert process.released(tmp_path / "data", patience=30)
        wait_for_end(found.pid)
        assert not found.alive()
        assert "FileNotFoundError" in (tmp_path / "log").read_text()

    def test_two_never_share_a_folder(self, tmp_path: Path) -> None:
        first = launch(tmp_path, *SLEEP)
        try:
            (tmp_path / "record").rename(tmp_path / "first")
            with pytest.raises(AssertionError):
                launch(tmp_path, *SLEEP)
            assert not (tmp_path / "record").exists()
            assert "another server uses" in (tmp_path / "log").read_text()
            assert first.alive()
        finally:
            process.stop(first, grace=30)
        assert process.released(tmp_path / "data", patience=30)


class TestStop:
    def test_politely(self, tmp_path: Path) -> None:
        program = "trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.05; done"
        found = launch(tmp_path, "/bin/sh", "-c", program)
        assert wait_for_log(tmp_path) == "ready\n"
        assert process.stop(found, grace=60) is False
        assert (tmp_path / "log").read_text() == "ready\nbye\n"

    def test_then_not(self, tmp_path: Path) -> None:
        found = launch(tmp_path, "/bin/sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done")
        assert wait_for_log(tmp_path) == "ready\n"
        assert process.stop(found, grace=0.3) is True
        assert not found.alive()
        assert process.released(tmp_path / "data", patience=30)

    def test_children_too_even_when_their_parent_was_killed(self, tmp_path: Path) -> None:
        found = launch(tmp_path, "/bin/sh", "-c", "sleep 61 & echo $!; wait")
        child = int(wait_for_log(tmp_path))
        known = identity(child)
        assert known is not None
        wait_for_exec(Process(child, known), "sleep")
        os.kill(found.pid, signal.SIGKILL)
        assert not process.released(tmp_path / "data", patience=0.3)  # the child holds what it inherited
        assert process.users(tmp_path / "data", Path("/bin/sleep").resolve().name)[0].pid == child
        process.stop(found, grace=30)
        assert process.released(tmp_path / "data", patience=30)
        wait_for_end(child)

    def test_a_process_that_only_has_the_number_is_left_alone(self) -> None:
        with subprocess.Popen(SLEEP, start_new_session=True) as stranger:
            before = Process(stranger.pid, "1@another-boot")
            assert not before.alive()
            assert process.stop(before, grace=0.1) is False
            assert stranger.poll() is None
            stranger.kill()


@pytest.mark.parametrize("text", ["", "\n", "12", "twelve 5@x", "\x00\x01", "12 "])
def test_what_is_no_record_reads_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "record").write_text(text)
    assert process.read_record(tmp_path / "record") is None
    assert process.read_record(tmp_path / "missing") is None


def test_who_only_reads_the_folder_is_not_its_user(tmp_path: Path) -> None:
    (tmp_path / IN_USE).touch()
    with (tmp_path / IN_USE).open():
        assert not process.in_use(tmp_path)
        assert process.users(tmp_path, "another-program") == []
        assert [found.pid for found in process.users(tmp_path, Path(sys.executable).resolve().name)] == [
            os.getpid()
        ]
