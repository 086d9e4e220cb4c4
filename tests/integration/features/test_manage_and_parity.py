"""From definitions to a verdict: apply, materialize, show and parity, as functions and as verbs."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis
from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Array, Float32, Int64, Json, Map, String

from slipway.cli import main
from slipway.errors import FeatureError
from slipway.features.inspect import list_features, only_service, read_entity
from slipway.features.manage import apply_definitions, materialize
from slipway.features.parity import Found, check_parity
from slipway.features.parity_report import render_report
from slipway.features.service import describe_service
from slipway.features.store import open_store
from slipway.settings import S3, Features, Online, Settings
from tests.valkey import ValkeyServer

NOW = datetime(2013, 7, 1, 12, tzinfo=UTC)
CARRIERS = ("AA", "B6", "DL", "UA")


def write_history(folder: Path, *, until: datetime = NOW, shift: float = 0.0) -> None:
    rng = np.random.default_rng(1)
    times = [until - timedelta(minutes=30 * step) for step in range(48)]
    delays = {
        "carrier": [carrier for _ in times for carrier in CARRIERS],
        "ts": pa.array([t for t in times for _ in CARRIERS], pa.timestamp("us", "UTC")),
        "mean": pa.array(rng.normal(shift, 1, len(times) * len(CARRIERS)), pa.float32()),
        "flights": rng.integers(0, 99, len(times) * len(CARRIERS)),
    }
    pq.write_table(pa.table(delays), folder / "delays.parquet")
    routes = {
        "carrier": ["AA", "UA"],
        "origin": ["JFK", "EWR"],
        "ts": pa.array([datetime(1970, 1, 1, tzinfo=UTC)] * 2, pa.timestamp("us", "UTC")),
        "label": ["x", None],
    }
    pq.write_table(pa.table(routes), folder / "routes.parquet")


def definitions(folder: Path, *, ttl: timedelta = timedelta(hours=2), routes: bool = True) -> list[Any]:
    carrier = Entity(name="carrier", join_keys=["carrier"], value_type=ValueType.STRING)
    origin = Entity(name="origin", join_keys=["origin"], value_type=ValueType.STRING)
    key = Field(name="carrier", dtype=String)
    delays = FeatureView(
        name="delays",
        entities=[carrier],
        ttl=ttl,
        schema=[Field(name="mean", dtype=Float32), Field(name="flights", dtype=Int64), key],
        source=FileSource(name="delays", path=str(folder / "delays.parquet"), timestamp_field="ts"),
    )
    views = [delays]
    if routes:
        views.append(
            FeatureView(
                name="routes",
                entities=[carrier, origin],
                schema=[Field(name="label", dtype=String), key, Field(name="origin", dtype=String)],
                source=FileSource(name="routes", path=str(folder / "routes.parquet"), timestamp_field="ts"),
            )
        )
    return [carrier, origin, *views, FeatureService(name="delay", features=views)]


@pytest.fixture
def settings(tmp_path: Path, valkey: ValkeyServer, request: pytest.FixtureRequest) -> Iterator[Settings]:
    write_history(tmp_path)
    made = Settings(
        home=str(tmp_path),
        s3=S3(endpoint="http://127.0.0.1:9", access_key="x", secret_key="x"),
        online=Online(url=valkey.url, timeout=20.0),
        features=Features(
            registry=f"sqlite:///{tmp_path}/feast.db",
            project=request.node.name[:40].replace("[", "_").rstrip("]"),
            clock=NOW.isoformat(),
        ),
    )
    yield made
    open_store(made).teardown()


def test_apply_says_what_is_there_and_removes_what_is_gone(settings: Settings, tmp_path: Path) -> None:
    applied = apply_definitions(settings, definitions(tmp_path))
    assert (applied.entities, applied.views, applied.removed) == (
        ["carrier", "origin"],
        ["delays", "routes"],
        [],
    )
    materialize(settings)
    again = apply_definitions(settings, definitions(tmp_path))
    assert again == applied, "applying the same is a no-op"

    less = apply_definitions(settings, definitions(tmp_path, routes=False))

    assert less.views == ["delays"]
    assert "FeatureView routes" in less.removed
    assert less.services["delay"] != applied.services["delay"]
    client = redis.from_url(settings.online.url)
    left = {key.split(b":")[2] for key in client.scan_iter(match=f"slipway:{settings.features.project}:*")}
    assert left == {b"delays", b"@schemas"}


def test_materialize_takes_all_that_is_still_valid(settings: Settings, tmp_path: Path) -> None:
    apply_definitions(settings, definitions(tmp_path))
    told: list[tuple[str, int, int]] = []
    done = {item.view: item for item in materialize(settings, report=lambda *step: told.append(step))}

    assert told == [("delays", 0, 2), ("routes", 1, 2), ("", 2, 2)]
    assert (done["delays"].rows, done["delays"].start) == (4, NOW - timedelta(hours=2))
    assert (done["routes"].rows, done["routes"].start) == (2, datetime(1970, 1, 1, tzinfo=UTC))
    assert done["routes"].end == NOW
    later = NOW + timedelta(minutes=30)
    write_history(tmp_path, until=later)
    (more,) = materialize(settings, views=["delays"], end=later, incremental=True)
    assert (more.start, more.end, more.rows) == (NOW, later, 4)
    with pytest.raises(FeatureError, match="there is no view nothing"):
        materialize(settings, views=["nothing"])


def test_digest_tells_definitions_apart_not_places(settings: Settings, tmp_path: Path) -> None:
    apply_definitions(settings, definitions(tmp_path))
    first = describe_service(open_store(settings), "delay").digest
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    write_history(elsewhere)
    apply_definitions(settings, definitions(elsewhere))
    assert describe_service(open_store(settings), "delay").digest == first
    apply_definitions(settings, definitions(elsewhere, ttl=timedelta(hours=3)))
    assert describe_service(open_store(settings), "delay").digest != first
    with pytest.raises(FeatureError, match="there is no feature service 'other'"):
        describe_service(open_store(settings), "other")


def test_parity_passes_when_offline_and_online_agree(settings: Settings, tmp_path: Path) -> None:
    apply_definitions(settings, definitions(tmp_path))
    materialize(settings)

    parity = check_parity(settings, "delay")

    assert parity.gate.verdict == "pass", parity.gate
    assert parity.sampled == {"delays": 4, "routes": 2}
    # (4 entities x 2 features + 2 x 1) x 2 paths.
    assert (parity.gate.evidence["compared"], parity.gate.evidence["equal"]) == (20, 20)
    assert parity.examples == []


def test_parity_knows_equal_maps_and_lists_of_every_form(settings: Settings, tmp_path: Path) -> None:
    """Arrow calls a map pairs, Feast a dict; the lookup has lists as arrays, and reads no maps."""
    texts = pa.map_(pa.string(), pa.string())
    columns = {
        "carrier": list(CARRIERS),
        "ts": pa.array([NOW] * 4, pa.timestamp("us", "UTC")),
        "map": pa.array([[("a", "1")], [], None, [("b", ""), ("a", "ü")]], texts),
        "maps": pa.array([[[("a", "1")]], [], None, [[], [("b", "2")]]], pa.list_(texts)),
        "numbers": pa.array([[1, 2], [], None, [3]], pa.list_(pa.int64())),
        "texts": pa.array([["x", ""], [], None, ["ü"]], pa.list_(pa.string())),
        "json": ['{"k": 1}', "[]", None, "null"],
    }
    pq.write_table(pa.table(columns), tmp_path / "rich.parquet")
    carrier = Entity(name="carrier", join_keys=["carrier"], value_type=ValueType.STRING)
    types = {"map": Map, "maps": Array(Map), "numbers": Array(Int64), "texts": Array(String), "json": Json}
    rich = FeatureView(
        name="rich",
        entities=[carrier],
        schema=[Field(name="carrier", dtype=String), *(Field(name=n, dtype=t) for n, t in types.items())],
        source=FileSource(name="rich", path=str(tmp_path / "rich.parquet"), timestamp_field="ts"),
    )
    apply_definitions(settings, [carrier, rich, FeatureService(name="delay", features=[rich])])
    materialize(settings)

    parity = check_parity(settings, "delay")

    assert parity.gate.verdict == "pass", parity.examples
    # Two of them are maps, which Feast alone compares.
    assert (parity.gate.evidence["compared"], parity.gate.evidence["equal"]) == (32, 32)


def test_parity_fails_with_examples_of_each_kind(settings: Settings, tmp_path: Path) -> None:
    apply_definitions(settings, definitions(tmp_path))
    materialize(settings)
    online = open_store(settings)._get_provider().online_store
    store = open_store(settings)
    client = redis.from_url(settings.online.url)
    prefix = f"slipway:{settings.features.project}:delays:"
    # One entity gone, one past its TTL, one with another value, one written under another schema.
    client.delete(prefix + "{s=AA}")
    view = store.get_feature_view("delays")

    def put(carrier: str, at: datetime, mean: float) -> None:
        client.delete(prefix + f"{{s={carrier}}}")
        row = {
            "carrier": [carrier],
            "ts": pa.array([at], pa.timestamp("us", "UTC")),
            "mean": pa.array([mean], pa.float32()),
            "flights": [1],
        }
        online.write_arrow(store.config, view, pa.table(row), None)

    put("B6", NOW - timedelta(hours=3), 0.0)
    put("DL", NOW, 1e6)

    parity = check_parity(settings, "delay", seed=3)

    assert parity.gate.verdict == "fail"
    for path in ("online", "lookup"):
        assert parity.counts["delays:mean"][path] == {"equal": 1, "stale": 1, "missing": 1, "different": 1}
    assert parity.counts["routes:label"]["online"]["equal"] == 2
    kinds = {
        item.outcome: item for item in parity.examples if (item.path, item.feature) == ("lookup", "mean")
    }
    assert kinds["missing"].entity == {"carrier": "AA"}
    assert kinds["missing"].status == "not_found"
    assert kinds["stale"].entity == {"carrier": "B6"}
    assert kinds["different"].found == 1e6
    assert parity.gate.evidence["worst"] == {"delays:mean": 6, "delays:flights": 6}
    assert check_parity(settings, "delay", tolerance=0.7).gate.verdict == "pass"

    text = render_report(parity)
    assert "<svg" in text
    assert "fail" in text
    assert "http://" not in text, "the report stands alone"
    assert text.count("<rect") == 2 * (4 + 4 + 1)


def test_values_of_another_schema_are_different(settings: Settings, tmp_path: Path) -> None:
    apply_definitions(settings, definitions(tmp_path))
    materialize(settings)
    key = f"slipway:{settings.features.project}:delays:{{s=UA}}"
    client = redis.from_url(settings.online.url)
    blob = client.get(key)
    client.set(key, b"\x01" * 8 + blob[8:])

    parity = check_parity(settings, "delay")

    assert parity.gate.verdict == "fail"
    assert parity.counts["delays:mean"]["lookup"]["different"] == 1
    assert {item.status for item in parity.examples} == {"unreadable"}


def test_nothing_to_compare_is_inconclusive(settings: Settings, tmp_path: Path) -> None:
    early = msgspec.structs.replace(
        settings, features=msgspec.structs.replace(settings.features, clock="2012-01-01T00:00:00Z")
    )
    apply_definitions(early, definitions(tmp_path, routes=False))

    parity = check_parity(early, "delay")

    assert parity.gate.verdict == "inconclusive"
    assert "delays" in parity.gate.reason
    assert "There was nothing to compare" in render_report(parity)


def test_other_paths_join_the_comparison(settings: Settings, tmp_path: Path) -> None:
    apply_definitions(settings, definitions(tmp_path, routes=False))
    materialize(settings)

    def served(view: Any, keys: Any) -> Any:
        return {"mean": Found([None] * 4, ["null"] * 4)}

    parity = check_parity(settings, "delay", others={"served": served})
    assert parity.counts["delays:mean"]["served"]["missing"] == 4
    assert "served" not in parity.counts["delays:flights"]


def test_shows_what_is_applied_and_what_an_entity_has(settings: Settings, tmp_path: Path) -> None:
    apply_definitions(settings, definitions(tmp_path))
    assert {view.view: view.materialized_to for view in list_features(settings)} == {
        "delays": None,
        "routes": None,
    }
    materialize(settings)
    (delays,) = list_features(settings, "delays")
    assert delays.keys == {"carrier": "String"}
    assert delays.features == {"mean": "Float32", "flights": "Int64"}
    assert (delays.ttl_seconds, delays.services, delays.materialized_to) == (7200.0, ["delay"], NOW)
    assert only_service(settings) == "delay"

    values = {v.feature: v for v in read_entity(settings, "delay", {"carrier": "UA", "origin": "JFK"})}
    assert values["delays__flights"].status == "present"
    assert values["delays__flights"].age == 0.0
    assert (values["routes__label"].status, values["routes__label"].age) == ("not_found", None)
    with pytest.raises(FeatureError, match="no view or service 'x'"):
        list_features(settings, "x")


@pytest.fixture
def project(tmp_path: Path, valkey: ValkeyServer) -> Path:
    """A user's own project in a folder, as the command line finds it."""
    write_history(tmp_path)
    package = tmp_path / "shop"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from pathlib import Path\n"
        "from tests.integration.features.test_manage_and_parity import definitions as build\n"
        "def definitions(settings):\n"
        f"    return build(Path({str(tmp_path)!r}))\n"
    )
    (tmp_path / "slipway.toml").write_text(
        f"""
        [online]
        url = "{valkey.url}"
        timeout = 20.0
        [features]
        repository = "shop"
        project = "shop"
        clock = "{NOW.isoformat()}"
        """
    )
    return tmp_path


def test_the_command_line_goes_the_whole_way(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(project)
    monkeypatch.setattr(sys, "path", [*sys.path])

    def slipway(*words: str) -> tuple[int, str, str]:
        return main(words), *capsys.readouterr()

    code, out, err = slipway("features", "apply", "--json")
    assert code == 0, err
    assert json.loads(out)["views"] == ["delays", "routes"]

    code, out, err = slipway("features", "parity", "--json")
    assert code == 4, "nothing is materialized yet"
    assert json.loads(out)["gate"]["verdict"] == "fail"
    assert json.loads(err)["error"]["kind"] == "GateNotPassed"

    code, out, err = slipway("features", "materialize", "--json")
    assert code == 0, err
    assert [(item["view"], item["rows"]) for item in json.loads(out)] == [("delays", 4), ("routes", 2)]

    code, out, err = slipway("features", "parity", "--report", "out/parity.html")
    assert code == 0, err
    assert "pass: 20 values of 6 entities are equal" in out
    assert "<svg" in (project / "out/parity.html").read_text()

    code, out, err = slipway("features", "show", "delays", "-e", "carrier=UA", "--json")
    assert code == 0, err
    assert [item["status"] for item in json.loads(out)] == ["present", "present"]

    code, out, err = slipway("features", "materialize", "--start", "yesterday")
    assert code == 2
    assert "--start 'yesterday' is no time" in err


def test_feasts_interface_starts_on_loopback(project: Path) -> None:
    root = Path(__file__).parents[3]
    server = subprocess.Popen(
        [str(Path(sys.executable).with_name("slipway")), "features", "ui"],
        cwd=project,
        env={"PYTHONPATH": str(root), "PATH": "/usr/bin:/bin", "PYTHONWARNINGS": "ignore"},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert server.stderr
        line = next(line for line in server.stderr if "http://127.0.0.1:" in line)
        address = line.split()[-1].partition("/p/")[0]
        deadline = datetime.now(UTC) + timedelta(seconds=240)
        while True:
            try:
                with urllib.request.urlopen(address + "/projects-list.json", timeout=60) as answer:
                    listed = json.load(answer)
                break
            except OSError:
                assert server.poll() is None
                assert datetime.now(UTC) < deadline
        assert "shop" in json.dumps(listed)
    finally:
        server.terminate()
        server.wait(120)
