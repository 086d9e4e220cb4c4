"""up, status, logs and down as a script sees them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import slipway
from slipway.local import Platform

# One worker for all of them: they share a platform.

SLIPWAY = Path(sys.executable).with_name("slipway")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    # With what paths may hold: spaces, commas, quotes, letters of other alphabets.
    home = tmp_path_factory.mktemp("verbs") / 'state of, "Ana" & Łukasz\'s'
    try:
        yield home
    finally:
        Platform(home).down()


def run(home: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SLIPWAY, *words],
        env={**os.environ, "SLIPWAY_HOME": str(home), **environment},
        cwd=home.parent,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_life_of_a_platform(home: Path) -> None:
    before = run(home, "status", "--json")
    assert before.returncode == 3
    assert json.loads(before.stdout)["up"] is False
    assert run(home, "logs").returncode == 3
    assert not home.exists()

    up = run(home, "up", "--json")
    assert (up.returncode, up.stderr) == (0, "")
    started = json.loads(up.stdout)
    assert started["up"] is True
    assert started["home"] == str(home)
    assert started["bucket"] == "slipway"
    assert started["slipway_version"] == slipway.__version__
    assert [server["state"] for server in started["servers"]] == ["healthy", "healthy"]

    status = json.loads(run(home, "status", "--json").stdout)
    assert [server["pid"] for server in status["servers"]] == [server["pid"] for server in started["servers"]]
    assert status["tracking"]["uri"] == f"sqlite:///{home}/mlflow.db"

    shown = run(home, "status")
    assert shown.returncode == 0
    lines = shown.stdout.splitlines()
    assert lines[0].split() == [
        "server",
        "software",
        "state",
        "address",
        "data",
        "memory",
        "up",
        "for",
        "process",
    ]
    assert [line.split()[0] for line in lines[1:4]] == ["s3", "online", "tracking"]
    assert status["servers"][0]["endpoint"] in lines[1]

    one = run(home, "logs", "online", "--lines", "2")
    assert one.returncode == 0
    assert len(one.stdout.splitlines()) == 2
    assert "Ready to accept connections" in one.stdout
    both = run(home, "logs", "-n", "1")
    assert {line.split()[0] for line in both.stdout.splitlines()} == {"s3", "online"}
    listed = json.loads(run(home, "logs", "-n", "2", "--json").stdout)
    assert [sorted(item) for item in listed] == [["line", "server"]] * 4
    assert [item["line"] for item in listed if item["server"] == "online"] == one.stdout.splitlines()

    down = run(home, "down", "--json")
    assert json.loads(down.stdout) == {"home": str(home), "stopped": ["online", "s3"]}
    again = run(home, "down")
    assert (again.returncode, again.stdout) == (0, f"nothing ran in {home}\n")
    assert run(home, "status").returncode == 3


@pytest.mark.parametrize("as_json", [False, True])
def test_logs_follow(home: Path, as_json: bool) -> None:
    run(home, "up")
    with subprocess.Popen(
        [SLIPWAY, "logs", "online", "-n", "1", "-f", *(["--json"] if as_json else [])],
        env={**os.environ, "SLIPWAY_HOME": str(home)},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() != ""  # it follows now
            with Platform(home).home.log("online").open("a") as log:
                log.write('a "line" of ours\n')
            line = process.stdout.readline()
            assert (json.loads(line) if as_json else line) == (
                {"server": "online", "line": 'a "line" of ours'} if as_json else 'a "line" of ours\n'
            )
        finally:
            process.terminate()


def test_a_wrong_server_is_named(home: Path) -> None:
    answer = run(home, "logs", "nothing", "--json")
    assert answer.returncode == 2
    assert json.loads(answer.stderr)["error"]["kind"] == "SettingsError"
    wrong = run(home, "logs", "nothing")
    assert wrong.returncode == 2
    assert "there is no server 'nothing'" in wrong.stderr
    assert "s3, online" in wrong.stderr


@pytest.mark.parametrize("verb", ["up", "down", "status"])
def test_only_the_local_profile_has_a_platform(tmp_path: Path, verb: str) -> None:
    answer = run(tmp_path / "home", verb, "--json", SLIPWAY_PROFILE="kind")
    assert answer.returncode == 2
    assert json.loads(answer.stderr)["error"]["kind"] == "SettingsError"
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_connection_file_is_mended_by_up(home: Path) -> None:
    run(home, "up")
    (home / "connection.json").write_text("{")
    assert run(home, "up").returncode == 0
    assert json.loads((home / "connection.json").read_text())["s3"]["endpoint"].startswith(
        "http://127.0.0.1:"
    )
