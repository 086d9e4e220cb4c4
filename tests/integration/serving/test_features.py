"""Requests that bring entities: features from a real Valkey, defaults, freshness, and a store that dies."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
import redis
from msgspec import structs

from slipway.contract import Column, TensorInput
from slipway.features.keys import KeyMaker
from slipway.features.packing import Packing
from tests.support.contracts import COLUMNS, contract, publish
from tests.support.server import Running, running_server
from tests.valkey import ValkeyServer

AGE = 90.0
PATIENCE = 2.0
"""Seconds for the store to answer: more than a busy machine stalls. Tests with a dead store wait so long."""


def write(
    store: ValkeyServer,
    carrier: str,
    delay_1h: float,
    delay_24h: float | None,
    *,
    age: float = AGE,
    cut: int = 0,
) -> None:
    """As materialization does; None is a null, and `cut` bytes are lost."""
    service = contract().feature_service
    assert service is not None
    (view,) = service.views
    packing = Packing([(field.name, field.dtype) for field in view.fields], view.key_types, where=view.name)
    event = np.array([int((time.time() - age) * 1e6)])
    present = np.array([delay_24h is not None])
    columns: dict[str, Any] = {
        "delay_1h": (np.array([delay_1h], np.float32), None),
        "delay_24h": (np.array([delay_24h or 0.0], np.float32), present),
    }
    (blob,) = packing.pack(columns, event, event)
    (key,) = KeyMaker(service.project, view.name, view.join_keys, view.key_types).make(
        {"carrier": [carrier]}, 1
    )
    assert key is not None
    with redis.Redis(port=store.port) as client:
        client.set(key, blob[: len(blob) - cut])


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    with ValkeyServer(tmp_path_factory.mktemp("valkey")) as running:
        write(running, "UA", 4.0, 5.0)
        write(running, "DL", 6.0, 7.0)
        yield running


@pytest.fixture(scope="module")
def server(store: ValkeyServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    root = tmp_path_factory.mktemp("features")
    publish(root / "models" / "lenient", contract("lenient"), version="1")
    publish(root / "models" / "strict", contract("strict", store="fail"), version="1")
    asked = TensorInput("features", "FP32", (-1, 3), tuple(Column(name) for name in COLUMNS))
    without = structs.replace(contract("no_store"), inputs=(asked,), feature_service=None)
    publish(root / "models" / "no_store", without, version="1")
    environment = {"SLIPWAY_ONLINE_URL": store.url, "SLIPWAY_ONLINE_TIMEOUT": str(PATIENCE)}
    with running_server(root / "models", root / "run", environment=environment) as running:
        yield running


def columns(carriers: list[str], distances: list[float]) -> dict[str, Any]:
    rows = len(carriers)
    return {
        "inputs": [
            {"name": "carrier", "datatype": "BYTES", "shape": [rows], "data": carriers},
            {"name": "distance", "datatype": "FP32", "shape": [rows, 1], "data": distances},
        ]
    }


def ask(server: Running, body: dict[str, Any], model: str = "lenient") -> httpx.Response:
    return httpx.post(f"{server.url}/v2/models/{model}/infer", json=body, timeout=30, verify=False)


def test_entities_stand_in_for_tensors(server: Running) -> None:
    answer = ask(server, columns(["UA", "DL"], [1.0, 2.0]))
    assert answer.status_code == 200, answer.text
    assert answer.json()["outputs"][0]["data"] == [4.0 + 50.0 + 100.0, 6.0 + 70.0 + 200.0]
    told = answer.json()["parameters"]
    assert told["feature_defaults"] == 0
    assert AGE - 5 < told["feature_age.carrier_delays"] < AGE + 600
    assert told["run_id"] == "run-1"


def test_an_unknown_entity_gets_the_contracts_defaults_and_says_so(server: Running) -> None:
    answer = ask(server, columns(["nobody", "UA"], [1.0, 1.0]))
    assert answer.json()["outputs"][0]["data"] == [-1.0 - 20.0 + 100.0, 154.0]
    assert answer.json()["parameters"]["feature_defaults"] == 2


def test_tensors_still_go_in_as_they_are(server: Running) -> None:
    body = {"inputs": [{"name": "features", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}]}
    assert ask(server, body).json()["outputs"][0]["data"] == [321.0]


def test_v1_takes_rows_by_name(server: Running) -> None:
    url = f"{server.url}/v1/models/lenient:predict"
    rows = [{"carrier": "UA", "distance": 1}, {"carrier": "DL", "distance": 2}]
    assert httpx.post(url, json={"instances": rows}).json() == {"predictions": [154.0, 276.0]}
    by_column = {"inputs": {"carrier": ["UA", "DL"], "distance": [1, 2]}}
    assert httpx.post(url, json=by_column).json() == {"predictions": [154.0, 276.0]}
    assert httpx.post(url, json={"instances": [[1.0, 2.0, 3.0]]}).json() == {"predictions": [321.0]}


ONE, TWO = columns(["UA"], [1.0])["inputs"], columns(["UA", "DL"], [1.0, 2.0])["inputs"]
ODD = {"name": "x", "datatype": "FP32", "shape": [1], "data": [1]}


@pytest.mark.parametrize(
    ("inputs", "told"),
    [
        (ONE[:1], "distance"),
        ([*ONE, ODD], "'x'"),
        ([TWO[0], ONE[1]], "length"),
        (columns([], [])["inputs"], "no rows"),
    ],
)
def test_wrong_columns_are_named(server: Running, inputs: list[dict[str, Any]], told: str) -> None:
    answer = ask(server, {"inputs": inputs})
    assert (answer.status_code, told in answer.json()["error"]) == (400, True), answer.text


def test_a_store_that_does_not_answer_is_the_contracts_decision(server: Running, store: ValkeyServer) -> None:
    store.freeze()
    try:
        lenient = ask(server, columns(["UA"], [1.0]))
        strict = ask(server, columns(["UA"], [1.0]), "strict")
        assert lenient.json()["outputs"][0]["data"] == [-1.0 - 20.0 + 100.0]
        assert lenient.json()["parameters"]["feature_store"] == "unavailable"
        assert strict.status_code == 503
        for _ in range(3):
            body = [{"name": name, "datatype": "FP32", "shape": [1], "data": [2]} for name in COLUMNS]
            assert ask(server, {"inputs": body}, "no_store").json()["outputs"][0]["data"] == [222.0]
        assert httpx.get(f"{server.url}/v2/health/ready").status_code == 200
    finally:
        store.thaw()
    until = time.monotonic() + 60
    while ask(server, columns(["UA"], [1.0]), "strict").status_code != 200:
        assert time.monotonic() < until, "the store is back and the server has not noticed"
        time.sleep(0.1)
    assert ask(server, columns(["UA"], [1.0])).json()["outputs"][0]["data"] == [154.0]


def spaced(body: dict[str, Any]) -> bytes:
    """The same message in other bytes: no frame that was learnt fits it."""
    return json.dumps(body, indent=int(time.monotonic() * 1e6) % 50 + 1).encode()


ENTITIES = ["UA", "DL", "nobody", "", "wörter", 'a"]', "old", "holes", "torn"]


def test_the_quick_way_of_single_rows_says_what_the_general_way_says(
    server: Running, store: ValkeyServer
) -> None:
    write(store, "old", 1.0, 2.0, age=10 * 86400)
    write(store, "holes", 1.0, None)
    write(store, "torn", 1.0, 2.0, cut=3)
    url = f"{server.url}/v2/models/lenient/infer"
    with httpx.Client(timeout=30) as client:
        for turn in range(3):
            for number, carrier in enumerate(ENTITIES):
                body = {**columns([carrier], [number + 0.1]), **({"id": f"call-{number}"} if turn else {})}
                quick = client.post(url, content=json.dumps(body, separators=(",", ":")))
                general = client.post(url, content=spaced(body))
                assert (quick.status_code, general.status_code) == (200, 200), quick.text
                one, two = quick.json(), general.json()
                for told in (one, two):
                    age = told["parameters"].pop("feature_age.carrier_delays", None)
                    assert (age is None) == (carrier not in ("UA", "DL", "old", "holes"))
                assert one == two
                assert list(one) == list(two), "the same fields in the same order"
                assert quick.headers["x-slipway-run-id"] == "run-1"


def test_rows_that_come_at_once_get_their_own_features(server: Running) -> None:
    """Some as entities and some as tensors, in one run or in several."""
    url = f"{server.url}/v2/models/lenient/infer"
    tensor = {"inputs": [{"name": "features", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}]}
    wanted = {"UA": 54.0, "DL": 76.0, "nobody": -21.0}

    async def one(client: httpx.AsyncClient, number: int) -> None:
        if number % 4 == 3:
            answer = await client.post(url, json=tensor)
            assert answer.json()["outputs"][0]["data"] == [321.0]
            assert "feature_defaults" not in answer.json()["parameters"]
            return
        carrier = list(wanted)[number % 3]
        answer = await client.post(url, json={"id": str(number), **columns([carrier], [float(number)])})
        assert answer.json()["id"] == str(number)
        assert answer.json()["outputs"][0]["data"] == [wanted[carrier] + 100.0 * number]
        assert answer.json()["parameters"]["feature_defaults"] == (2 if carrier == "nobody" else 0)

    async def all_of_them() -> None:
        async with httpx.AsyncClient(timeout=60) as client:
            for _ in range(4):
                await asyncio.gather(*(one(client, number) for number in range(64)))

    asyncio.run(all_of_them())


def test_a_store_that_goes_in_the_middle_answers_every_row_once(server: Running, store: ValkeyServer) -> None:
    """Asked and not answered yet: all of them get the contract's answer, none hangs, and none comes twice."""
    body = json.dumps(columns(["UA"], [1.0])).encode()
    request = b"POST /v2/models/%%b/infer HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (
        len(body),
        body,
    )
    for model, status in ((b"lenient", b"200"), (b"strict", b"503")):
        with socket.create_connection(("127.0.0.1", server.http), 30) as client:
            store.freeze()
            try:
                client.sendall(request % model * 5)
                gone = socket.create_connection(("127.0.0.1", server.http), 30)
                gone.sendall(request % model)
                gone.close()
                got = b""
                while got.count(b"HTTP/1.1 ") < 5 or not got.endswith(b"}"):
                    got += client.recv(65536)
            finally:
                store.thaw()
            assert got.count(b"HTTP/1.1 " + status) == got.count(b"HTTP/1.1 ") == 5
            until = time.monotonic() + 60
            while ask(server, columns(["UA"], [1.0]), "strict").status_code != 200:
                assert time.monotonic() < until, "the store is back and the server has not noticed"
                time.sleep(0.1)
            client.settimeout(0.3)
            with pytest.raises(TimeoutError):
                client.recv(1)
