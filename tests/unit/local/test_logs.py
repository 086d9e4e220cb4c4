"""The last lines, following, and a bound on size."""

from __future__ import annotations

from pathlib import Path

import pytest

from slipway.local import logs


@pytest.mark.parametrize("count", [0, 1, 3, 1000, 5000])
def test_last_lines(tmp_path: Path, count: int) -> None:
    log = tmp_path / "log"
    lines = [f"{number} {'x' * (number % 300)}" for number in range(1000)]
    log.write_text("\n".join(lines) + "\n")
    assert logs.last_lines(log, count) == (lines[-count:] if count else [])


def test_no_log_has_no_lines(tmp_path: Path) -> None:
    assert logs.last_lines(tmp_path / "none", 5) == []


def test_a_line_longer_than_a_block_and_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"first\n" + b"y" * 200_000 + b"\n\xff\n")
    assert logs.last_lines(tmp_path / "log", 2) == ["y" * 200_000, "�"]


def test_following_gives_whole_lines_and_the_new_log_after_rotation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = tmp_path / "first.log", tmp_path / "second.log"
    first.write_text("before\n")
    steps = iter(
        (
            lambda: first.open("a").write("one\ntw"),
            lambda: first.open("a").write("o\n"),
            lambda: second.write_text("other\n"),
            lambda: (monkeypatch.setattr(logs, "LIMIT", 1), logs.rotate(first), first.write_text("three\n")),
        )
    )

    def next_step(_: float) -> None:
        next(steps)()

    monkeypatch.setattr(logs.time, "sleep", next_step)
    followers = {"a": logs.Follower(first), "b": logs.Follower(second)}
    assert followers["a"].last_lines(5) == ["before"]
    following = logs.follow(followers)
    assert [next(following) for _ in range(4)] == [("a", "one"), ("a", "two"), ("b", "other"), ("a", "three")]


def test_only_a_large_log_is_put_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "log"
    logs.rotate(log)
    log.write_text("x" * 10)
    logs.rotate(log)
    assert log.exists()
    monkeypatch.setattr(logs, "LIMIT", 5)
    logs.rotate(log)
    assert not log.exists()
    assert (tmp_path / "log.1").read_text() == "x" * 10
