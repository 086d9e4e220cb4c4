"""Start-up of the command line, and of the embedded platform until boto3 and redis-py are answered.

CPU seconds are what the machine's other work cannot change; a bare Python stands beside them as the scale.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

SLIPWAY = Path(sys.executable).with_name("slipway")


class Times:
    """Wall time of calls, and the CPU time of the processes they waited for."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.wall: list[float] = []
        self._cpu: list[float] = []

    def take(self, call: Callable[[], object]) -> None:
        before, began = os.times(), time.perf_counter()
        call()
        self.wall.append(time.perf_counter() - began)
        after = os.times()
        self._cpu.append(
            after.children_user + after.children_system - before.children_user - before.children_system
        )

    def report(self) -> None:
        wall, cpu = statistics.median(self.wall), statistics.median(self._cpu)
        print(
            f"{self._name:44} wall median {wall:6.3f} s, best {min(self.wall):6.3f} s"
            f"   CPU median {cpu:6.3f} s"
        )


def _ask(home: str) -> None:
    """What a user's first line does: a signed listing and a write through boto3, a write through redis-py."""
    import boto3
    import redis
    from botocore.config import Config

    from slipway.settings import load_settings

    settings = load_settings({"SLIPWAY_HOME": home}, directory=home)
    s3 = boto3.client(
        "s3",
        endpoint_url=settings.s3.endpoint,
        region_name=settings.s3.region,
        aws_access_key_id=settings.s3.access_key,
        aws_secret_access_key=settings.s3.secret_key,
        config=Config(connect_timeout=3, read_timeout=10, retries={"total_max_attempts": 1}),
    )
    s3.put_object(Bucket=settings.s3.bucket, Key="benchmark", Body=b"x" * 100_000)
    s3.list_objects_v2(Bucket=settings.s3.bucket)
    with redis.Redis.from_url(settings.online.url, socket_timeout=3) as store:
        store.set("benchmark", "x")


def run() -> None:
    with tempfile.TemporaryDirectory() as folder:
        home = str(Path(folder) / "home")
        environment = {**os.environ, "SLIPWAY_HOME": home}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)

        def verb(*words: str) -> None:
            subprocess.run(
                [SLIPWAY, *words], env=environment, stdout=subprocess.DEVNULL, check=True, timeout=120
            )

        def bare() -> None:
            subprocess.run([sys.executable, "-c", "pass"], check=True, timeout=30)

        verb("--help")
        helps, bare_starts = Times("slipway --help"), Times("python -c pass, interleaved")
        for _ in range(21):
            helps.take(lambda: verb("--help"))
            bare_starts.take(bare)
        helps.report()
        bare_starts.report()

        first = Times("slipway up, the very first")
        first.take(lambda: verb("up"))
        first.report()
        try:
            _ask(home)  # the imports of boto3 and redis-py are not what is measured
            second, answers = Times("slipway up, second start"), Times("... and boto3 and redis-py answered")
            idle, status, down = (
                Times("slipway up, nothing to do"),
                Times("slipway status"),
                Times("slipway down"),
            )
            for _ in range(5):
                down.take(lambda: verb("down"))
                second.take(lambda: verb("up"))
                answers.take(lambda: _ask(home))
                answers.wall[-1] += second.wall[-1]
                idle.take(lambda: verb("up"))
                status.take(lambda: verb("status"))
            for times in (second, answers, idle, status, down):
                times.report()
        finally:
            verb("down")
