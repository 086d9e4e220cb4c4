"""slipway.objects against a real S3 server."""

from __future__ import annotations

import multiprocessing
import random
import socket
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

from slipway.errors import (
    ObjectConflict,
    ObjectCorrupt,
    ObjectDenied,
    ObjectError,
    ObjectNotFound,
    ObjectStoreUnavailable,
)
from slipway.objects import ObjectStore, make_client, parse_address, publish
from slipway.objects.store import PART
from slipway.settings import S3, Settings
from tests.support.process import closed_port


@pytest.fixture
def store(platform: Settings) -> ObjectStore:
    return ObjectStore.from_settings(platform)


@pytest.fixture
def place(platform: Settings) -> str:
    """A prefix of this test's own."""
    return platform.uri("tests", uuid.uuid4().hex)


def test_what_is_read_is_what_was_written(store: ObjectStore, place: str) -> None:
    data = random.Random(1).randbytes(100_000)
    written = store.put(f"{place}/a", data)
    assert store.get(f"{place}/a") == data
    assert store.get(f"{place}/a", digest=written.digest) == data
    found = store.head(f"{place}/a")
    assert found is not None
    assert (found.size, found.digest, found.etag) == (100_000, written.digest, written.etag)
    assert store.head(f"{place}/b") is None


def test_an_empty_object_is_an_object(store: ObjectStore, place: str) -> None:
    store.put(f"{place}/empty", b"")
    assert store.get(f"{place}/empty") == b""


def test_other_bytes_than_promised_are_refused(store: ObjectStore, place: str, platform: Settings) -> None:
    store.put(f"{place}/a", b"content")
    with pytest.raises(ObjectCorrupt, match="not 0000"):
        store.get(f"{place}/a", digest="0" * 64)
    # What somebody else wrote over it keeps the old promise only in its metadata.
    address = parse_address(f"{place}/a")
    make_client(platform.s3).put_object(
        Bucket=address.bucket, Key=address.key, Body=b"tampered", Metadata={"slipway-sha256": "0" * 64}
    )
    with pytest.raises(ObjectCorrupt):
        store.get(f"{place}/a")


@pytest.mark.parametrize("size", [0, 1, PART, PART + 1, 2 * PART + 12345])
def test_files_go_up_and_come_down_whole(store: ObjectStore, place: str, tmp_path: Path, size: int) -> None:
    source, target = tmp_path / "source", tmp_path / "deeper" / "target"
    source.write_bytes(random.Random(size).randbytes(size))
    up: list[int] = []
    down: list[int] = []
    written = store.upload(f"{place}/file", source, progress=up.append)
    read = store.download(f"{place}/file", target, progress=down.append)
    assert target.read_bytes() == source.read_bytes()
    assert sum(up) == sum(down) == size
    assert read.digest == written.digest


def test_a_download_that_fails_leaves_no_file(store: ObjectStore, place: str, tmp_path: Path) -> None:
    store.put(f"{place}/a", b"content")
    (tmp_path / "a").write_bytes(b"what was there before")
    with pytest.raises(ObjectCorrupt):
        store.download(f"{place}/a", tmp_path / "a", digest="0" * 64)
    assert (tmp_path / "a").read_bytes() == b"what was there before"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_full_disk_is_told_as_such(store: ObjectStore, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put(f"{place}/a", b"content" * 10_000)
    opened = Path.open
    monkeypatch.setattr(Path, "open", lambda path, mode="r": opened(Path("/dev/full"), mode))
    with pytest.raises(ObjectError, match="No space left on device"):
        store.download(f"{place}/a", "/dev/shm/slipway-never-written")


def test_a_missing_file_is_told_as_such(store: ObjectStore, place: str, tmp_path: Path) -> None:
    with pytest.raises(ObjectError, match="No such file"):
        store.upload(f"{place}/a", tmp_path / "absent")


def test_conditions_hold(store: ObjectStore, place: str) -> None:
    first = store.put(f"{place}/a", b"1", if_absent=True)
    with pytest.raises(ObjectConflict):
        store.put(f"{place}/a", b"2", if_absent=True)
    second = store.put(f"{place}/a", b"2", if_match=first.etag)
    with pytest.raises(ObjectConflict):
        store.put(f"{place}/a", b"3", if_match=first.etag)
    assert store.get(f"{place}/a") == b"2"
    assert second.etag != first.etag


def _write_one(job: tuple[S3, str, int, Path | None]) -> str:
    settings, uri, number, path = job
    store = ObjectStore(settings)
    try:
        if path is None:
            store.put(uri, bytes([number]), if_absent=True)
        else:
            store.upload(uri, path, if_absent=True)
    except ObjectConflict as conflict:
        return f"lost: {conflict.what}"
    return "won"


@pytest.mark.parametrize("size", [1, PART + 1], ids=["whole", "in parts"])
def test_of_eight_processes_exactly_one_wins_and_the_others_are_told(
    platform: Settings, place: str, tmp_path: Path, size: int
) -> None:
    paths: list[Path | None] = [None] * 8
    if size > PART:
        for number in range(8):
            paths[number] = tmp_path / str(number)
            (tmp_path / str(number)).write_bytes(bytes([number]) * size)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["slipway.objects"])  # eight imports of boto3 cost more than the race
    with context.Pool(8) as pool:
        jobs = [(platform.s3, f"{place}/race", number, paths[number]) for number in range(8)]
        outcomes = pool.map(_write_one, jobs, chunksize=1)
    assert outcomes.count("won") == 1
    assert sum(outcome.startswith("lost: somebody else wrote it first") for outcome in outcomes) == 7
    winner = outcomes.index("won")
    assert ObjectStore(platform.s3).get(f"{place}/race") == bytes([winner]) * size


def test_a_lost_answer_is_not_taken_for_a_conflict(
    store: ObjectStore, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server wrote, its answer got lost, and the retry meets the object of its own first try."""
    real = store._client.put_object

    def twice(**request: object) -> object:
        real(**request)
        return real(**request)

    monkeypatch.setattr(store._client, "put_object", twice)
    written = store.put(f"{place}/a", b"1", if_absent=True)
    assert written.digest is not None
    assert store.get(f"{place}/a") == b"1"


def test_listing_stops_at_the_directory_border(store: ObjectStore, place: str) -> None:
    for name in ("v1/a", "v1/b/c", "v10/a", "v1.json"):
        store.put(f"{place}/{name}", b"x")
    assert [info.uri for info in store.list(f"{place}/v1")] == [f"{place}/v1/a", f"{place}/v1/b/c"]
    assert [info.uri for info in store.list(f"{place}/v1/")] == [f"{place}/v1/a", f"{place}/v1/b/c"]
    assert list(store.list(f"{place}/v2")) == []


def test_listing_goes_past_one_page(store: ObjectStore, place: str) -> None:
    names = [f"{place}/many/{number:05}" for number in range(1005)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: store.put(name, b""), names))
    assert [info.uri for info in store.list(f"{place}/many")] == names


def test_delete_twice_is_no_error(store: ObjectStore, place: str) -> None:
    store.put(f"{place}/a", b"1")
    store.delete(f"{place}/a")
    store.delete(f"{place}/a")
    assert store.head(f"{place}/a") is None


def test_a_publication_appears_with_its_marker_and_is_made_once(store: ObjectStore, place: str) -> None:
    files: dict[str, bytes | Path] = {"marker.json": b"{}", "model": b"m" * 1000, "deep/report": b"r"}
    first = publish(store, f"{place}/v1", files, marker="marker.json")
    versions = {info.uri: info.etag for info in store.list(f"{place}/v1")}
    again = publish(store, f"{place}/v1", files, marker="marker.json")
    assert (first.created, again.created) == (True, False)
    assert first.digests == again.digests
    assert set(versions) == {f"{place}/v1/{name}" for name in files}
    assert {info.uri: info.etag for info in store.list(f"{place}/v1")} == versions


def test_a_publication_that_died_is_completed_by_the_next(
    store: ObjectStore, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    files: dict[str, bytes | Path] = {"a": b"1", "b": b"2", "marker": b"3"}
    with monkeypatch.context() as patch:
        real = store.put

        def dies_at_b(uri: str, data: bytes, **conditions: bool) -> object:
            if uri.endswith("/b"):
                raise ObjectStoreUnavailable("gone")
            return real(uri, data, **conditions)

        patch.setattr(store, "put", dies_at_b)
        with pytest.raises(ObjectStoreUnavailable):
            publish(store, f"{place}/v1", files, marker="marker")
    assert store.head(f"{place}/v1/marker") is None
    assert publish(store, f"{place}/v1", files, marker="marker").created
    assert store.get(f"{place}/v1/marker") == b"3"
    assert store.get(f"{place}/v1/b") == b"2"


def test_what_is_published_never_changes(store: ObjectStore, place: str) -> None:
    publish(store, f"{place}/v1", {"a": b"1", "marker": b"m"}, marker="marker")
    with pytest.raises(ObjectConflict, match="published already"):
        publish(store, f"{place}/v1", {"a": b"2", "marker": b"m"}, marker="marker")
    with pytest.raises(ObjectConflict, match="published already"):
        publish(store, f"{place}/v1", {"a": b"1", "marker": b"n"}, marker="marker")
    assert store.get(f"{place}/v1/a") == b"1"
    store.delete(f"{place}/v1/a")
    with pytest.raises(ObjectError, match="a is missing below a marker"):
        publish(store, f"{place}/v1", {"a": b"1", "marker": b"m"}, marker="marker")
    with pytest.raises(ObjectError, match="not among the files"):
        publish(store, f"{place}/v2", {"a": b"1"}, marker="marker")


def test_errors_name_the_remedy(store: ObjectStore, place: str, platform: Settings) -> None:
    with pytest.raises(ObjectNotFound, match="no such object"):
        store.get(f"{place}/absent")
    with pytest.raises(ObjectNotFound, match="SLIPWAY_S3_BUCKET"):
        store.get("s3://slipway-has-no-such-bucket/a")
    with pytest.raises(ObjectError, match="s3://bucket/key"):
        store.get("/a/path")
    wrong = ObjectStore(msgspec.structs.replace(platform.s3, secret_key="wrong"))
    with pytest.raises(ObjectDenied, match="check the access key"):
        wrong.get(f"{place}/a")
    with pytest.raises(ObjectDenied):
        wrong.put(f"{place}/a", b"1")


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A server that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_dead_or_silent_server_is_given_up_in_bounded_time(silent_port: int) -> None:
    limits = {
        "access_key": "a",
        "secret_key": "b",
        "attempts": 2,
        "connect_timeout": 0.2,
        "read_timeout": 0.2,
    }
    with closed_port() as closed:
        for port in (closed, silent_port):
            store = ObjectStore(S3(endpoint=f"http://127.0.0.1:{port}", **limits))
            with pytest.raises(ObjectStoreUnavailable, match="does not answer"):
                store.get("s3://slipway/a")


class _Cutter(threading.Thread):
    """A proxy that cuts every connection after some bytes of the answer, `cuts` times."""

    def __init__(self, target: tuple[str, int], cuts: int, after: int) -> None:
        super().__init__(daemon=True)
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]
        self.target, self.cuts, self.after = target, cuts, after

    def run(self) -> None:
        while True:
            try:
                client, _ = self.server.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(client,), daemon=True).start()

    def serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(self.target) as upstream:
            threading.Thread(target=self.relay, args=(client, upstream, 1 << 60), daemon=True).start()
            left = self.after if self.cuts > 0 else 1 << 60
            self.cuts -= 1
            self.relay(upstream, client, left)
            # Also under the other thread, which waits for more.
            with suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)

    @staticmethod
    def relay(source: socket.socket, sink: socket.socket, left: int) -> None:
        with suppress(OSError):
            while left > 0 and (data := source.recv(min(65536, left))):
                sink.sendall(data)
                left -= len(data)


def test_a_connection_that_breaks_is_taken_up_where_it_broke(
    store: ObjectStore, place: str, platform: Settings
) -> None:
    data = random.Random(2).randbytes(3_000_000)
    store.put(f"{place}/a", data)
    assert platform.s3.endpoint is not None
    host, _, port = platform.s3.endpoint.removeprefix("http://").partition(":")
    for cuts, after in ((2, 1_500_000), (100, 2000)):
        cutter = _Cutter((host, int(port)), cuts, after)
        cutter.start()
        # The signature covers the host, so the proxy must be asked for under the server's own name.
        endpoint = f"http://127.0.0.1:{cutter.port}"
        through = ObjectStore(msgspec.structs.replace(platform.s3, endpoint=endpoint))
        try:
            if cuts == 2:
                assert through.get(f"{place}/a") == data
                assert cutter.cuts < 1
            else:
                with pytest.raises(ObjectStoreUnavailable, match="broke off"):
                    through.get(f"{place}/a")
        finally:
            cutter.server.close()
