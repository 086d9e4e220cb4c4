"""Feast's own `feast` on feature_repo/: the same registry and the same online store as ours."""

from __future__ import annotations

import shlex
import subprocess
import sys
import uuid
from datetime import UTC, datetime
from pathlib import Path

import pytest

from components.ingest import ingest
from components.ingest.columns import LAYOUTS
from components.ingest.sources import package_file, parse, read_bytes
from feature_repo import build_features
from slipway.features.inspect import list_features, read_entity
from slipway.features.manage import materialize
from slipway.objects import make_client
from slipway.settings import Settings, load_settings

ROOT = Path(__file__).parents[3]
BIN = Path(sys.executable).parent


@pytest.fixture
def environment(platform: Settings, platform_environment: dict[str, str], tmp_path: Path) -> dict[str, str]:
    name = f"feast-{uuid.uuid4().hex[:12]}"
    make_client(platform.s3).create_bucket(Bucket=name)
    return {
        **platform_environment,
        "SLIPWAY_S3_BUCKET": name,
        "SLIPWAY_FEATURES_PROJECT": name.replace("-", "_"),
        "SLIPWAY_FEATURES_REGISTRY": f"sqlite:///{tmp_path}/feast.db",
        "SLIPWAY_FEATURES_CLOCK": "2013-07-05T12:00:00Z",
        "PYTHONWARNINGS": "ignore",
    }


def run(environment: dict[str, str], program: str, *words: str, folder: Path = ROOT) -> str:
    done = subprocess.run(
        [str(BIN / program), *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_feast_command_line_works(environment: dict[str, str], tmp_path: Path) -> None:
    package = package_file("flights")
    flights = parse(read_bytes(package), LAYOUTS["flights"], where=str(package))
    own = tmp_path / "own.csv"
    flights.filter(month=7, day=4).drop("row", "problem").write_csv(own, null_value="NA")
    settings = load_settings(environment)
    ingest(settings, files={"flights": own})
    build_features(settings)

    # As a user's shell does it; from there on nothing but these variables says where anything is.
    told = run(environment, "slipway", "features", "env")
    exported = dict(shlex.split(line.removeprefix("export "))[0].split("=", 1) for line in told.splitlines())
    plain = {
        **{name: value for name, value in environment.items() if not name.startswith("SLIPWAY_")},
        **exported,
    }
    feast = ["-c", str(ROOT / "feature_repo")]
    run(plain, "feast", *feast, "apply", folder=tmp_path)
    shown = list_features(settings)
    assert len(shown) == 9
    assert all(view.services == ["flight_delay"] for view in shown)

    materialize(settings, views=["carrier_delays"])
    ours = {item.feature: item for item in read_entity(settings, "carrier_delays", {"carrier": "UA"})}
    arrivals = ours["carrier_delays__carrier_arrivals_24h"]
    assert arrivals.status == "present"
    assert arrivals.value > 0
    asked = ("-e", "carrier=UA", "-f", "carrier_delays:carrier_arrivals_24h")
    theirs = run(plain, "feast", *feast, "get-online-features", *asked, folder=tmp_path)
    assert str(arrivals.value) in theirs

    # Where nothing was written yet, the incremental one would go back by the view's TTL from the wall clock.
    views = ("--views", "origin_congestion", "--views", "route")
    first = ("2013-07-04T10:00:00", "2013-07-04T20:00:00")
    run(plain, "feast", *feast, "materialize", *first, *views, folder=tmp_path)
    earlier = read_entity(settings, "origin_congestion", {"origin": "EWR"})
    run(plain, "feast", *feast, "materialize-incremental", "2013-07-05T01:00:00", *views, folder=tmp_path)
    later = read_entity(settings, "origin_congestion", {"origin": "EWR"})
    assert {item.status for item in (*earlier, *later)} <= {"present", "null"}
    assert all(a.age > b.age for a, b in zip(earlier, later, strict=True) if a.age and b.age)
    ends = {view.view: view.materialized_to for view in list_features(settings)}
    assert ends["origin_congestion"] == ends["route"] == datetime(2013, 7, 5, 1, tzinfo=UTC)
