"""slipway ingest and slipway features build, as a user types them."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from components.ingest.columns import LAYOUTS
from components.ingest.sources import package_file, parse, read_bytes
from slipway.objects import make_client
from slipway.settings import Settings


@pytest.fixture
def environment(platform: Settings, platform_environment: dict[str, str]) -> dict[str, str]:
    bucket = f"verb-{uuid.uuid4().hex}"
    make_client(platform.s3).create_bucket(Bucket=bucket)
    return {**platform_environment, "SLIPWAY_S3_BUCKET": bucket}


def slipway(environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("slipway")), *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def test_ingest_and_build_answer_in_json_and_are_done_once(
    environment: dict[str, str], tmp_path: Path
) -> None:
    package = package_file("flights")
    flights = parse(read_bytes(package), LAYOUTS["flights"], where=str(package))
    own = tmp_path / "own.csv"
    flights.filter(month=7, day=4).drop("row", "problem").write_csv(own, null_value="NA")
    early = slipway(environment, "features", "build", "--json")
    assert early.returncode == 2
    assert "run `slipway ingest`" in early.stderr

    first, second = (slipway(environment, "ingest", "--flights", str(own), "--json") for _ in range(2))
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    done, again = json.loads(first.stdout), json.loads(second.stdout)
    assert (done["created"], again["created"]) == (True, False)
    assert done["rows"]["flights"] == 737
    assert done["digest"] == again["digest"]
    assert {item["name"]: item["rows"] for item in done["decisions"]}["cancelled"] == 3

    built = slipway(environment, "features", "build", "--json")
    assert built.returncode == 0, built.stderr
    assert json.loads(built.stdout)["rows"]["plane"] == 3322

    own.write_text("not,a,table\n1,2,3\n")
    refused = slipway(environment, "ingest", "--flights", str(own))
    assert refused.returncode == 2
    assert "misses" in refused.stderr
    assert str(own) in refused.stderr
