"""When things go wrong around the online store: races, dead and slow servers, clusters, TLS."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import ipaddress
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import redis
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from feast import Entity, FeatureView, Field, FileSource, PushSource, ValueType
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import Float64, Int64

from slipway.contract import Column, FeatureService, TensorInput, View, ViewField
from slipway.errors import OnlineStoreUnavailable, SettingsError
from slipway.features import blocking
from slipway.features.answer import Status
from slipway.features.keys import KeyMaker
from slipway.features.lookup import FeatureLookup
from slipway.features.packing import Packing
from slipway.features.server import Server
from slipway.features.wire import key_slot, parse_url
from slipway.settings import Features, Online, Settings
from tests.integration.features.conftest import NOW, make_store
from tests.valkey import ValkeyServer, valkey_cluster

VIEW = View("trips", {"driver": "driver"}, {"driver": "Int64"}, (ViewField("count", "Float64"),))
SERVICE = FeatureService("drivers", "reliable", "digest", (VIEW,))
INPUTS = (TensorInput("x", "FP64", (-1, 1), (Column("count", view="trips", default=-1.0),)),)
PACKING = Packing([("count", "Float64")], {"driver": "Int64"}, where="view trips")
KEYS = KeyMaker("reliable", "trips", VIEW.join_keys, VIEW.key_types)


def keys_of(drivers: list[int]) -> list[bytes]:
    return [key for key in KEYS.make({"driver": drivers}, len(drivers)) if key is not None]


def blobs_of(counts: list[float], at: dt.datetime = NOW) -> list[bytes]:
    event = np.full(len(counts), int(at.timestamp() * 1e6))
    return PACKING.pack({"count": (np.array(counts), None)}, event, np.zeros_like(event))


PATIENCE = 2.0
"""Seconds for the store to answer: more than a busy machine stalls. Tests with a dead store wait so long."""


def settings_for(url: str, *, timeout: float = PATIENCE, cluster: bool = False) -> Settings:
    return Settings(
        online=Online(url=url, timeout=timeout, cluster=cluster), features=Features(clock=NOW.isoformat())
    )


def server_for(url: str, *, cluster: bool = False) -> Server:
    return Server(url, timeout=10.0, write_timeout=30.0, cluster=cluster)


RACER = """
import sys
from datetime import datetime
import numpy as np
from slipway.features.keys import KeyMaker
from slipway.features.packing import Packing
from slipway.features.server import Server

url, seed, start = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
rng = np.random.default_rng(seed)
packing = Packing([("count", "Float64")], {"driver": "Int64"}, where="view trips")
keys = KeyMaker("reliable", "trips", {"driver": "driver"}, {"driver": "Int64"})
server = Server(url, timeout=30, write_timeout=60, cluster=False)
for minute in rng.permutation(60).tolist():
    order = rng.permutation(40).tolist()
    event = np.full(40, start + minute * 60_000_000)
    blobs = packing.pack({"count": (np.full(40, float(minute)), None)}, event, event * 0)
    server.write(keys.make({"driver": order}, 40), blobs)
"""


def test_racing_writers_leave_the_latest_event_everywhere(valkey: ValkeyServer) -> None:
    """Four processes write all events of all keys, each in an order of its own."""
    start = str(int(NOW.timestamp() * 1e6))
    writers = [
        subprocess.Popen([sys.executable, "-c", RACER, valkey.url, str(seed), start]) for seed in range(4)
    ]
    assert [writer.wait(120) for writer in writers] == [0] * 4

    lookup = FeatureLookup(SERVICE, INPUTS, settings_for(valkey.url))
    assert lookup.read_now({"driver": list(range(40))}).tensors["x"].ravel().tolist() == [59.0] * 40
    redis.from_url(valkey.url).delete(*keys_of(list(range(40))))


def test_a_restarted_server_has_forgotten_the_script_and_learns_it_again(tmp_path: Path) -> None:
    with ValkeyServer(tmp_path) as valkey:
        server = server_for(valkey.url)
        assert server.write(keys_of([1]), blobs_of([1.0])) == 1
        valkey.stop()
        valkey.start()
        assert server.write(keys_of([1]), blobs_of([2.0])) == 1
        assert server.read(keys_of([1])) == blobs_of([2.0])


def test_a_dead_store_is_named(tmp_path: Path) -> None:
    with ValkeyServer(tmp_path / "gone") as gone:
        url = gone.url
    store = make_store(tmp_path, url, project="dead", timeout=0.25)
    driver = Entity(name="driver", join_keys=["driver"], value_type=ValueType.INT64)
    schema = [Field(name="count", dtype=Float64), Field(name="driver", dtype=Int64)]
    view = FeatureView(
        name="trips",
        entities=[driver],
        schema=schema,
        source=FileSource(path="unused.parquet", timestamp_field="ts"),
    )
    view.entity_columns = [Field(name="driver", dtype=Int64)]
    key = EntityKey(join_keys=["driver"], entity_values=[Value(int64_val=1)])
    with pytest.raises(OnlineStoreUnavailable, match=r"127\.0\.0\.1:\d+: not reachable"):
        store._get_provider().online_read(store.config, view, [key])


def test_blocking_reads_fail_fast_and_recover(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ValkeyServer(tmp_path) as valkey:
        server_for(valkey.url).write(keys_of([1]), blobs_of([7.0]))
        lookup = FeatureLookup(SERVICE, INPUTS, settings_for(valkey.url))
        assert lookup.read_now({"driver": [1]}).tensors["x"][0, 0] == 7.0
        valkey.freeze()
        began = time.monotonic()
        with pytest.raises(OnlineStoreUnavailable, match=r"no answer within 2 s"):
            lookup.read_now({"driver": [1]})
        assert time.monotonic() - began > 0.9 * PATIENCE
        with monkeypatch.context() as patch:
            patch.setattr(blocking, "PAUSE", 60.0)  # however slow this machine is
            valkey.thaw()
            for _ in range(3):
                with pytest.raises(OnlineStoreUnavailable):  # nobody asks while it is known to be down
                    lookup.read_now({"driver": [1]})
        deadline = time.monotonic() + 60
        while True:
            try:
                assert lookup.read_now({"driver": [1]}).tensors["x"][0, 0] == 7.0
                break
            except OnlineStoreUnavailable:
                assert time.monotonic() < deadline
                time.sleep(0.02)
        valkey.stop()
        valkey.start()
        server_for(valkey.url).write(keys_of([1]), blobs_of([8.0]))
        assert lookup.read_now({"driver": [1]}).tensors["x"][0, 0] == 8.0, "a closed connection is reopened"
        lookup.close_now()


async def test_a_slow_store_never_hangs_the_loop_and_is_taken_back(tmp_path: Path) -> None:
    with ValkeyServer(tmp_path) as valkey:
        server_for(valkey.url).write(keys_of([1]), blobs_of([7.0]))
        lookup = FeatureLookup(SERVICE, INPUTS, settings_for(valkey.url))
        assert (await lookup.read({"driver": [1]})).tensors["x"][0, 0] == 7.0
        valkey.freeze()
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0)

        ticking = asyncio.create_task(tick())
        began = time.monotonic()
        outcomes = await asyncio.gather(
            *(lookup.read({"driver": [1]}) for _ in range(50)), return_exceptions=True
        )
        # All wait at the same time, and the loop goes on meanwhile: one after the other would take 100 s.
        assert 0.9 * PATIENCE < time.monotonic() - began < 10 * PATIENCE
        assert {type(item) for item in outcomes} == {OnlineStoreUnavailable}
        assert ticks > 1000
        # Who comes now does not wait: it is known to be down.
        before = ticks
        with pytest.raises(OnlineStoreUnavailable):
            await lookup.read({"driver": [1]})
        assert ticks - before < 1000
        ticking.cancel()
        valkey.thaw()
        deadline = time.monotonic() + 60
        while True:
            try:
                assert (await lookup.read({"driver": [1]})).tensors["x"][0, 0] == 7.0
                break
            except OnlineStoreUnavailable:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.02)
        await lookup.close()


async def test_a_closed_connection_costs_no_request(tmp_path: Path) -> None:
    with ValkeyServer(tmp_path) as valkey:
        server_for(valkey.url).write(keys_of([1]), blobs_of([7.0]))
        lookup = FeatureLookup(SERVICE, INPUTS, settings_for(valkey.url))
        assert (await lookup.read({"driver": [1]})).tensors["x"][0, 0] == 7.0
        redis.from_url(valkey.url).execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await asyncio.sleep(0.05)
        assert (await lookup.read({"driver": [1]})).tensors["x"][0, 0] == 7.0
        await lookup.close()
        down = FeatureLookup(SERVICE, INPUTS, settings_for("redis://127.0.0.1:1/0"))
        with pytest.raises(OnlineStoreUnavailable, match="not reachable"):
            await down.read({"driver": [1]})
        await down.close()


async def test_defaults_stand_in_when_the_service_says_so(tmp_path: Path) -> None:
    import msgspec

    lenient = msgspec.structs.replace(SERVICE, on_unavailable="default")
    lookup = FeatureLookup(lenient, INPUTS, settings_for("redis://127.0.0.1:1/0"))
    for answer in (await lookup.read({"driver": [1, 2]}), lookup.read_now({"driver": [1, 2]})):
        assert answer.tensors["x"].tolist() == [[-1.0], [-1.0]]
        assert answer.status.tolist() == [[Status.UNAVAILABLE]] * 2
        assert np.isnan(answer.age).all()
    await lookup.close()


async def test_one_tick_is_one_command(valkey: ValkeyServer) -> None:
    client = redis.from_url(valkey.url)
    server_for(valkey.url).write(keys_of(list(range(100))), blobs_of([float(n) for n in range(100)]))
    lookup = FeatureLookup(SERVICE, INPUTS, settings_for(valkey.url))
    await lookup.read({"driver": [0]})
    before = client.info("commandstats")["cmdstat_mget"]["calls"]

    answers = await asyncio.gather(*(lookup.read({"driver": [n, n + 50]}) for n in range(50)))

    assert client.info("commandstats")["cmdstat_mget"]["calls"] == before + 1
    assert [a.tensors["x"].ravel().tolist() for a in answers] == [[n, n + 50.0] for n in range(50)]
    await lookup.close()
    client.delete(*keys_of(list(range(100))))


async def test_a_cancelled_reader_takes_nobody_with_it(valkey: ValkeyServer) -> None:
    server_for(valkey.url).write(keys_of([1, 2]), blobs_of([1.0, 2.0]))
    lookup = FeatureLookup(SERVICE, INPUTS, settings_for(valkey.url))
    await lookup.read({"driver": [1]})
    first = asyncio.create_task(lookup.read({"driver": [1]}))
    second = asyncio.create_task(lookup.read({"driver": [2]}))
    await asyncio.sleep(0)
    first.cancel()
    assert (await second).tensors["x"][0, 0] == 2.0
    assert (await lookup.read({"driver": [1]})).tensors["x"][0, 0] == 1.0
    await lookup.close()


async def test_password_and_database_are_used_and_a_wrong_one_is_named(tmp_path: Path) -> None:
    with ValkeyServer(tmp_path, password="s3cret") as valkey:
        url = valkey.url.replace("/0", "/3")
        server_for(url).write(keys_of([1]), blobs_of([7.0]))
        lookup = FeatureLookup(SERVICE, INPUTS, settings_for(url))
        assert lookup.read_now({"driver": [1]}).tensors["x"][0, 0] == 7.0
        assert (await lookup.read({"driver": [1]})).tensors["x"][0, 0] == 7.0
        await lookup.close()
        wrong = url.replace("s3cret", "guess")
        other = FeatureLookup(SERVICE, INPUTS, settings_for(wrong))
        for read in (lambda: other.read_now({"driver": [1]}), lambda: server_for(wrong).read(keys_of([1]))):
            with pytest.raises(OnlineStoreUnavailable, match="password") as caught:
                read()
            assert "guess" not in str(caught.value)
        with pytest.raises(OnlineStoreUnavailable, match="password"):
            await other.read({"driver": [1]})
        await other.close()


@contextlib.contextmanager
def tls_before(valkey: ValkeyServer, folder: Path, *, asks_clients: bool) -> Iterator[tuple[str, Path]]:
    """TLS before the Valkey, as a cloud's proxies end it: the wheel's server is built without."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "loopback")])
    now = dt.datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = folder / "tls.pem"
    plain, form = serialization.NoEncryption(), serialization.PrivateFormat.PKCS8
    pem.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, form, plain)
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pem)
    if asks_clients:
        context.load_verify_locations(pem)
        context.verify_mode = ssl.CERT_REQUIRED
    loop = asyncio.new_event_loop()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner, outer = await asyncio.open_connection("127.0.0.1", valkey.port)

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(65536):
                sink.write(data)
                await sink.drain()
            sink.close()

        await asyncio.gather(pump(reader, outer), pump(inner, writer), return_exceptions=True)

    listener = loop.run_until_complete(asyncio.start_server(carry, "127.0.0.1", 0, ssl=context))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    yield f"rediss://127.0.0.1:{listener.sockets[0].getsockname()[1]}/0", pem
    loop.call_soon_threadsafe(loop.stop)
    thread.join(5)


@pytest.fixture
def tls(tmp_path: Path, valkey: ValkeyServer) -> Iterator[tuple[str, Path]]:
    with tls_before(valkey, tmp_path, asks_clients=False) as found:
        yield found


@pytest.fixture
def mutual_tls(tmp_path: Path, valkey: ValkeyServer) -> Iterator[tuple[str, Path]]:
    with tls_before(valkey, tmp_path, asks_clients=True) as found:
        yield found


async def test_clients_show_their_certificate(mutual_tls: tuple[str, Path]) -> None:
    url, pem = mutual_tls
    nobody = f"{url}?ssl_ca_certs={pem}"
    known = f"{nobody}&ssl_certfile={pem}&ssl_keyfile={pem}"
    server_for(known).write(keys_of([6]), blobs_of([6.5]))
    lookup = FeatureLookup(SERVICE, INPUTS, settings_for(known, timeout=3))
    assert lookup.read_now({"driver": [6]}).tensors["x"][0, 0] == 6.5
    assert (await lookup.read({"driver": [6]})).tensors["x"][0, 0] == 6.5
    await lookup.close()
    stranger = FeatureLookup(SERVICE, INPUTS, settings_for(nobody, timeout=3))
    with pytest.raises(OnlineStoreUnavailable):
        stranger.read_now({"driver": [6]})
    with pytest.raises(OnlineStoreUnavailable):
        await stranger.read({"driver": [6]})
    await stranger.close()


async def test_tls_is_spoken_and_the_certificate_checked(tls: tuple[str, Path]) -> None:
    url, pem = tls
    trusted = f"{url}?ssl_ca_certs={pem}"
    server_for(trusted).write(keys_of([5]), blobs_of([5.5]))
    lookup = FeatureLookup(SERVICE, INPUTS, settings_for(trusted, timeout=20))
    assert lookup.read_now({"driver": [5]}).tensors["x"][0, 0] == 5.5
    assert (await lookup.read({"driver": [5]})).tensors["x"][0, 0] == 5.5
    await lookup.close()

    stranger = FeatureLookup(SERVICE, INPUTS, settings_for(url, timeout=20))
    with pytest.raises(OnlineStoreUnavailable, match=r"(?i)certificate"):
        stranger.read_now({"driver": [5]})
    with pytest.raises(OnlineStoreUnavailable, match=r"(?i)certificate"):
        await stranger.read({"driver": [5]})
    await stranger.close()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[ValkeyServer]]:
    with valkey_cluster(tmp_path_factory.mktemp("cluster")) as servers:
        yield servers


async def test_a_cluster_serves_reads_writes_and_teardown(
    cluster: list[ValkeyServer], tmp_path: Path
) -> None:
    url = cluster[0].url
    drivers = list(range(300))
    assert server_for(url, cluster=True).write(keys_of(drivers), blobs_of([float(n) for n in drivers])) == 300
    assert server_for(url, cluster=True).write(keys_of([1]), blobs_of([9.0], NOW - timedelta(1))) == 0
    shares = [redis.Redis(port=server.port).dbsize() for server in cluster]
    assert sum(shares) == 300
    assert min(shares) > 50, "keys are spread over the nodes"

    lookup = FeatureLookup(SERVICE, INPUTS, settings_for(url, timeout=20, cluster=True))
    wanted = [[float(n)] for n in drivers] + [[-1.0]]
    assert lookup.read_now({"driver": [*drivers, 999]}).tensors["x"].tolist() == wanted
    assert (await lookup.read({"driver": [*drivers, 999]})).tensors["x"].tolist() == wanted

    # Without the setting it is said what is wrong.
    single = FeatureLookup(SERVICE, INPUTS, settings_for(url, timeout=20))
    with pytest.raises(OnlineStoreUnavailable, match=r"cluster = true"):
        single.read_now({"driver": drivers})

    # A slot moves: the readers learn the new table and go on.
    slot = key_slot(keys_of([7])[0])
    clients = [redis.Redis(port=server.port) for server in cluster]
    ids = [client.execute_command("CLUSTER", "MYID").decode() for client in clients]
    owner = next(at for at, client in enumerate(clients) if any(client.scan_iter(match=keys_of([7])[0])))
    target = (owner + 1) % 3
    clients[target].execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[owner])
    clients[owner].execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target])
    for key in clients[owner].execute_command("CLUSTER", "GETKEYSINSLOT", slot, 100):
        clients[owner].execute_command("MIGRATE", "127.0.0.1", cluster[target].port, key, 0, 2000)
    for client in (clients[target], clients[owner]):
        client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", ids[target])
    assert lookup.read_now({"driver": [7]}).tensors["x"].tolist() == [[7.0]]
    assert (await lookup.read({"driver": [7]})).tensors["x"].tolist() == [[7.0]]
    await lookup.close()

    prefix = KEYS.prefix.partition(b"{")[0]
    assert server_for(url, cluster=True).delete([prefix], b"slipway:reliable:") == 300
    assert sum(client.dbsize() for client in clients) == 0


@pytest.mark.parametrize("kind", ["password", "tls", "cluster"])
async def test_feast_goes_all_its_ways_on_a_server_of_every_kind(
    tmp_path: Path, tls: tuple[str, Path], cluster: list[ValkeyServer], kind: str
) -> None:
    """apply, materialize, push, both reads, teardown: what the tests above do below Feast."""
    with contextlib.ExitStack() as stack:
        if kind == "password":
            url = stack.enter_context(ValkeyServer(tmp_path / "valkey", password="s3cret")).url
        elif kind == "tls":
            url = f"{tls[0]}?ssl_ca_certs={tls[1]}"
        else:
            url = cluster[0].url
        store = make_store(tmp_path, url, project=f"kind_{kind}", cluster=kind == "cluster")
        drivers = list(range(50))
        frame = pd.DataFrame({"driver": drivers, "ts": NOW, "count": [float(n) for n in drivers]})
        frame.to_parquet(tmp_path / "trips.parquet")
        batch = FileSource(path=str(tmp_path / "trips.parquet"), timestamp_field="ts")
        push = PushSource(name="stream", batch_source=batch)
        driver = Entity(name="driver", join_keys=["driver"], value_type=ValueType.INT64)
        schema = [Field(name="count", dtype=Float64), Field(name="driver", dtype=Int64)]
        store.apply([driver, FeatureView(name="trips", entities=[driver], source=push, schema=schema)])
        store.materialize(NOW - timedelta(hours=1), NOW + timedelta(hours=1))
        later = NOW + timedelta(minutes=5)
        store.push("stream", pd.DataFrame({"driver": [0, 99], "ts": later, "count": [0.5, 99.5]}))
        asked = [{"driver": number} for number in (*drivers, 99, 100)]
        wanted = [0.5, *map(float, drivers[1:]), 99.5, None]
        assert store.get_online_features(["trips:count"], asked).to_dict()["count"] == wanted
        found = await store.get_online_features_async(["trips:count"], asked)
        assert found.to_dict()["count"] == wanted
        server = server_for(url, cluster=kind == "cluster")
        named = KeyMaker(store.project, "trips", VIEW.join_keys, VIEW.key_types)
        keys = [key for key in named.make({"driver": drivers}, len(drivers)) if key]
        assert None not in server.read(keys)
        store.teardown()
        assert set(server.read(keys)) == {None}
        await store.close()


def test_all_views_of_an_entity_share_a_hash_slot(cluster: list[ValkeyServer]) -> None:
    client = redis.Redis(port=cluster[0].port)
    makers = [
        KeyMaker("p", name, {"k": "k"}, {"k": "String"}) for name in ("carrier delays", "a{b}", "x:y*", "z")
    ]
    for value in ("UA", "a}b", "{x}", "", "ünï"):
        keys = [maker.make({"k": [value]}, 1)[0] for maker in makers]
        slots = {key_slot(key) for key in keys if key}
        assert len(slots) == 1
        assert slots == {client.execute_command("CLUSTER", "KEYSLOT", key) for key in keys}


def test_addresses_are_read_from_urls() -> None:
    address = parse_url("rediss://ada:p%40ss@cache.example:6390/2?ssl_cert_reqs=none")
    assert (address.host, address.port, address.user, address.password, address.database) == (
        "cache.example",
        6390,
        "ada",
        "p@ss",
        2,
    )
    context = address.context()
    assert context is not None
    assert context.verify_mode == ssl.CERT_NONE
    assert parse_url("redis://localhost").context() is None
    assert "p@ss" not in str(address)
    with pytest.raises(SettingsError, match="'http'"):
        parse_url("http://localhost")
    with pytest.raises(SettingsError, match="not usable"):
        parse_url("redis://localhost/one")


async def test_something_else_on_the_port_is_named() -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    lookup = FeatureLookup(SERVICE, INPUTS, settings_for(f"redis://127.0.0.1:{port}/0"))
    with pytest.raises(OnlineStoreUnavailable):
        await lookup.read({"driver": [1]})
    with pytest.raises(OnlineStoreUnavailable):
        await asyncio.to_thread(lookup.read_now, {"driver": [1]})
    await lookup.close()
    server.close()


def test_the_lookup_needs_neither_feast_nor_pandas_nor_polars() -> None:
    code = (
        "import sys, slipway.features.lookup\n"
        "heavy = {'feast', 'pandas', 'polars', 'pyarrow', 'redis', 'google.protobuf'} & set(sys.modules)\n"
        "print(', '.join(sorted(heavy)))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stdout.strip(), ran.stderr) == (0, "", "")
