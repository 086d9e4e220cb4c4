"""Files of the state folder: private, whole or not at all."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from slipway.errors import PlatformBusy, PlatformError, StateDamaged
from slipway.local.home import Home, Secrets, State, explained, read_json, write_json, write_private


def test_what_is_written_is_private_and_replaces_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old, and readable by all")
    write_private(path, b"new")
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_private(path, b"old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(PlatformError, match="no space left"):
        write_private(path, b"new")
    assert path.read_bytes() == b"old"
    monkeypatch.undo()
    write_private(path, b"newer")  # over what the failed one left
    assert path.read_bytes() == b"newer"


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b'{"ports": {"a": "x"}}', b"\xff\xfe"])
def test_what_cannot_be_read_is_none(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "state").write_bytes(content)
    assert read_json(tmp_path / "state", State) is None


def test_round_trip(tmp_path: Path) -> None:
    secrets = Secrets.fresh()
    write_json(tmp_path / "secrets", secrets)
    assert read_json(tmp_path / "secrets", Secrets) == secrets


def test_secrets_are_fresh_and_long() -> None:
    found = [Secrets.fresh() for _ in range(50)]
    for field in Secrets.__struct_fields__:
        values = [getattr(secrets, field) for secrets in found]
        assert len(set(values)) == 50
        assert min(map(len, values)) >= 20


@pytest.mark.parametrize(
    ("number", "kind", "fix"),
    [
        (errno.ENOSPC, PlatformError, "free some space"),
        (errno.EDQUOT, PlatformError, "free some space"),
        (errno.EACCES, StateDamaged, "SLIPWAY_HOME"),
        (errno.EROFS, StateDamaged, "SLIPWAY_HOME"),
        (errno.ENOTDIR, StateDamaged, "out of the way"),
    ],
)
def test_refusals_of_the_file_system_say_what_to_do(
    tmp_path: Path, number: int, kind: type[PlatformError], fix: str
) -> None:
    with pytest.raises(kind) as refused, explained(tmp_path):
        raise OSError(number, os.strerror(number), "/the/file")
    assert refused.value.where == "/the/file"
    assert fix in (refused.value.fix or "")


def test_the_lock_is_freed_when_its_holder_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys, time; from slipway.local.home import Home\n"
        "with Home(sys.argv[1]).locked(5): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(PlatformBusy, match=rf"process {holder.pid}\b"), Home(tmp_path).locked(0.1):
            pass
        holder.kill()
    with Home(tmp_path).locked(0.1):
        pass


def test_waiting_for_the_lock_is_patient(tmp_path: Path) -> None:
    code = (
        "import sys; from slipway.local.home import Home\n"
        "with Home(sys.argv[1]).locked(5): print('held', flush=True); sys.stdin.read()"
    )

    def take() -> None:
        with Home(tmp_path).locked(60):
            pass

    with (
        subprocess.Popen(
            [sys.executable, "-c", code, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as holder,
        ThreadPoolExecutor(1) as pool,
    ):
        assert holder.stdout
        assert holder.stdin
        holder.stdout.readline()
        waiting = pool.submit(take)
        with pytest.raises(TimeoutError):
            waiting.result(0.2)
        holder.stdin.close()
        waiting.result(60)


def test_preparing_clears_half_written_files_and_no_others(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.prepare(("s3",))
    kept = home.data("s3") / "mine.new"
    for path in (home.path / "connection.json.new", home.path / "run" / "s3.new", kept):
        path.write_text("x")
    home.path.chmod(0o755)
    home.prepare(("s3",))
    assert kept.exists()
    assert not (home.path / "connection.json.new").exists()
    assert not (home.path / "run" / "s3.new").exists()
    assert home.path.stat().st_mode & 0o777 == 0o700
