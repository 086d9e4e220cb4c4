"""kill -9 in the middle of writes: what was acknowledged is there after the next up."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import boto3
import pytest
import redis
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from slipway.local import Platform
from slipway.local import platform as platform_module
from slipway.local.ports import choose
from slipway.settings import Settings, load_settings

# One worker for all of them: they share a platform.

ROUNDS = 3


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """A platform that these tests may kill."""
    platform = Platform(tmp_path_factory.mktemp("durability") / "home")
    try:
        platform.up()
        yield platform
    finally:
        platform.down()


def settings_of(platform: Platform) -> Settings:
    return load_settings({"SLIPWAY_HOME": str(platform.home.path)}, directory=platform.home.path)


def client(settings: Settings):
    return boto3.client(
        "s3",
        endpoint_url=settings.s3.endpoint,
        region_name=settings.s3.region,
        aws_access_key_id=settings.s3.access_key,
        aws_secret_access_key=settings.s3.secret_key,
        config=Config(connect_timeout=5, read_timeout=60, retries={"total_max_attempts": 1}),
    )


def kill(platform: Platform, name: str) -> None:
    pid = next(server.pid for server in platform.status().servers if server.name == name)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


def body_of(key: str, size: int) -> bytes:
    return random.Random(key).randbytes(size)


def wait_for(reached: Callable[[], bool], writers: list[Future[None]]) -> None:
    deadline = time.monotonic() + 120
    while not reached():
        assert time.monotonic() < deadline
        for writer in writers:
            if writer.done():
                writer.result()
        time.sleep(0.01)


@pytest.mark.parametrize("round_", range(ROUNDS))
def test_no_acknowledged_object_is_lost(own: Platform, round_: int) -> None:
    settings = settings_of(own)
    bucket = settings.s3.bucket
    acknowledged: dict[str, tuple[str, str]] = {}
    deleted: set[str] = set()
    dead = threading.Event()

    def write(worker: int) -> None:
        s3 = client(settings)
        chance = random.Random(round_ * 100 + worker)
        for number in range(100_000):
            # Small ones, ones of several chunks (4 MiB each), and deletions, as the pipelines make them.
            key = f"kill/{round_}/{worker}/{number}"
            body = body_of(key, chance.choice((10, 3_000, 200_000, 5_000_000 if number % 7 == 0 else 50)))
            try:
                version = s3.put_object(Bucket=bucket, Key=key, Body=body)["VersionId"]
                acknowledged[key] = (version, hashlib.sha256(body).hexdigest())
                if number % 10 == 9:
                    s3.delete_object(Bucket=bucket, Key=key)
                    deleted.add(key)
            except (BotoCoreError, ClientError):
                if dead.is_set():
                    return
                raise

    with ThreadPoolExecutor(4) as pool:
        writers = [pool.submit(write, worker) for worker in range(4)]
        wait_for(lambda: len(acknowledged) > 20, writers)
        time.sleep(round_ * 0.41)
        dead.set()
        kill(own, "s3")
        for writer in writers:
            writer.result(timeout=240)

    own.up()
    s3 = client(settings_of(own))
    lost = []
    for key, (version, digest) in acknowledged.items():
        try:
            read = s3.get_object(Bucket=bucket, Key=key, VersionId=version)["Body"].read()
        except ClientError as error:
            lost.append((key, error.response["Error"]["Code"]))
            continue
        if hashlib.sha256(read).hexdigest() != digest:
            lost.append((key, "other bytes"))
    assert lost == []
    listed = {
        item["Key"]
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"kill/{round_}/")
        for item in page.get("Contents", ())
    }
    assert listed >= set(acknowledged) - deleted
    assert not listed & deleted


@pytest.mark.parametrize("round_", range(ROUNDS))
def test_no_acknowledged_key_is_lost(own: Platform, round_: int) -> None:
    settings = settings_of(own)
    acknowledged: dict[str, int] = {}
    dead = threading.Event()

    def write(worker: int) -> None:
        with redis.Redis.from_url(settings.online.url, socket_timeout=60) as store:
            for number in range(10_000_000):
                keys = [f"kill:{round_}:{worker}:{number}:{index}" for index in range(20)]
                try:
                    with store.pipeline(transaction=False) as batch:
                        for key in keys:
                            batch.set(key, number)
                        batch.execute()
                except (redis.ConnectionError, redis.TimeoutError):
                    if dead.is_set():
                        return
                    raise
                for key in keys:
                    acknowledged[key] = number

    with ThreadPoolExecutor(4) as pool:
        writers = [pool.submit(write, worker) for worker in range(4)]
        wait_for(lambda: len(acknowledged) > 1000, writers)
        time.sleep(round_ * 0.31)
        if round_ % 2:
            # While the log is being rewritten by a forked child, which must not outlive the kill either.
            with redis.Redis.from_url(settings.online.url, socket_timeout=60) as store:
                store.bgrewriteaof()
        dead.set()
        kill(own, "online")
        for writer in writers:
            writer.result(timeout=240)

    own.up()
    with redis.Redis.from_url(settings_of(own).online.url, socket_timeout=30) as store:
        keys = list(acknowledged)
        found = [
            value
            for start in range(0, len(keys), 10_000)
            for value in store.mget(keys[start : start + 10_000])
        ]
    lost = [key for key, value in zip(keys, found, strict=True) if value != str(acknowledged[key]).encode()]
    assert lost == []


def test_data_and_credentials_survive_down_and_up(own: Platform) -> None:
    before = settings_of(own)
    client(before).put_object(Bucket=before.s3.bucket, Key="survives", Body=b"down and up")
    with redis.Redis.from_url(before.online.url, socket_timeout=60) as store:
        store.set("survives", "down and up")
    assert own.down() == ["online", "s3"]
    own.up()
    after = settings_of(own)
    assert after == before
    assert client(after).get_object(Bucket=after.s3.bucket, Key="survives")["Body"].read() == b"down and up"
    with redis.Redis.from_url(after.online.url, socket_timeout=60) as store:
        assert store.get("survives") == b"down and up"


def test_data_survives_a_move_to_other_ports(own: Platform, tmp_path: Path) -> None:
    """The S3 server names parts of its data for its ports: it must not lose them when a port is taken."""
    before = settings_of(own)
    bodies = {f"moves/{number}": body_of(str(number), 300_000) for number in range(10)}
    for key, body in bodies.items():
        client(before).put_object(Bucket=before.s3.bucket, Key=key, Body=body)
    own.down()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            platform_module,
            "choose",
            lambda home, names, wanted, avoid=(): choose(tmp_path, names, {}, avoid),
        )
        own.up()
    after = settings_of(own)
    assert after.s3.endpoint != before.s3.endpoint
    assert after.online.url != before.online.url
    s3 = client(after)
    for key, body in bodies.items():
        assert s3.get_object(Bucket=after.s3.bucket, Key=key)["Body"].read() == body
    s3.put_object(Bucket=after.s3.bucket, Key="moves/new", Body=b"x" * 300_000)
