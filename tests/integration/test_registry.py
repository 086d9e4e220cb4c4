"""The registry on MLflow with SQLite: versions by digest, aliases, and the record of their moves."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from slipway.errors import ApprovalMissing, RegistryError
from slipway.registry import Move, Registry
from slipway.settings import Settings

DIGESTS = [character * 64 for character in "abcd"]


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One database a module: its migrations take seconds. Each test has a model name of its own."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('registry')}/mlflow.db"
    Registry(settings_for(uri)).names()
    return uri


def settings_for(uri: str, profile: str = "local") -> Settings:
    return msgspec.convert({"profile": profile, "tracking": {"uri": uri}}, Settings)


@pytest.fixture
def registry(database: str) -> Registry:
    return Registry(settings_for(database))


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    return request.node.name.replace("[", "-").replace("]", "")


def add(registry: Registry, name: str, digest: str) -> int:
    made = registry.register(
        name, digest=digest, uri=f"s3://b/{digest}/", run_id="", who="ann", why="trained"
    )
    return made.version


def moves(registry: Registry, name: str) -> list[tuple[str, int | None, int, str, str]]:
    return [(move.alias, move.source, move.target, move.who, move.why) for move in registry.history(name)]


def test_a_digest_has_one_version_however_often_it_is_registered(registry: Registry, name: str) -> None:
    assert [add(registry, name, digest) for digest in (DIGESTS[0], DIGESTS[1], DIGESTS[0])] == [1, 2, 1]
    assert [(item.version, item.digest) for item in registry.versions(name)] == [
        (2, DIGESTS[1]),
        (1, DIGESTS[0]),
    ]
    assert registry.find(name, "1").uri == f"s3://b/{DIGESTS[0]}/"


def test_four_register_one_digest_at_once_and_agree_on_its_version(database: str, name: str) -> None:
    """Threads with registries of their own: the database is the only thing between them."""
    registries = [Registry(settings_for(database)) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        versions = list(pool.map(lambda registry: add(registry, name, DIGESTS[0]), registries))
    assert len(set(versions)) == 1
    assert [item.version for item in registries[0].versions(name)] == versions[:1]


def test_a_version_is_found_by_alias_number_and_digest(registry: Registry, name: str) -> None:
    add(registry, name, DIGESTS[0])
    add(registry, name, DIGESTS[1])
    for which in ("challenger", "2", DIGESTS[1], DIGESTS[1][:7]):
        assert registry.find(name, which).version == 2
    for which in ("champion", "3", "bbb", "f" * 64):
        with pytest.raises(RegistryError, match="no version"):
            registry.find(name, which)
    with pytest.raises(RegistryError, match="does not know"):
        registry.versions("nobody")


def test_promotion_and_rollback_are_recorded_with_who_and_why(registry: Registry, name: str) -> None:
    for digest in DIGESTS[:2]:
        add(registry, name, digest)
        registry.promote(registry.find(name, "challenger"), who="bob", why="better")
    champion = registry.champion(name)
    assert champion is not None
    assert champion.version == 2
    assert registry.promote(champion, who="bob", why="again") is None
    former = registry.former_champion(name)
    assert former.version == 1
    move = registry.promote(former, who="eve", why="alarms")
    assert isinstance(move, Move)
    assert moves(registry, name) == [
        ("champion", 2, 1, "eve", "alarms"),
        ("champion", 1, 2, "bob", "better"),
        ("challenger", 1, 2, "ann", "trained"),
        ("champion", None, 1, "bob", "better"),
        ("challenger", None, 1, "ann", "trained"),
    ]
    assert registry.history(name)[0].when > registry.history(name)[1].when


def test_there_is_no_way_back_from_the_first_champion(registry: Registry, name: str) -> None:
    add(registry, name, DIGESTS[0])
    with pytest.raises(RegistryError, match="no champion before"):
        registry.former_champion(name)
    registry.promote(registry.find(name, "1"), who="bob", why="first")
    with pytest.raises(RegistryError, match="no champion before"):
        registry.former_champion(name)
    assert registry.champion("nobody") is None


def test_production_asks_for_a_named_approval(database: str, name: str) -> None:
    registry = Registry(settings_for(database, "eks"))
    add(registry, name, DIGESTS[0])
    version = registry.find(name, "1")
    with pytest.raises(ApprovalMissing, match="slipway models approve"):
        registry.promote(version, who="bob", why="now")
    assert registry.champion(name) is None
    approved = registry.approve(version, who="cora", why="read the report")
    assert approved.approval is not None
    assert (approved.approval.who, approved.approval.why) == ("cora", "read the report")
    registry.promote(approved, who="bob", why="now")
    champion = registry.champion(name)
    assert champion is not None
    assert champion.version == 1
    # An approval is for one version, not for what comes after it.
    add(registry, name, DIGESTS[1])
    with pytest.raises(ApprovalMissing):
        registry.promote(registry.find(name, "2"), who="bob", why="now")


def test_a_move_needs_a_reason_and_a_model_a_plain_name(registry: Registry, name: str) -> None:
    add(registry, name, DIGESTS[0])
    with pytest.raises(RegistryError, match="a reason is needed"):
        registry.promote(registry.find(name, "1"), who="bob", why=" ")
    assert registry.champion(name) is None
    with pytest.raises(RegistryError, match="no model name"):
        add(registry, "a/b", DIGESTS[0])


def test_a_database_that_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("this is no database" * 100)
    with pytest.raises(RegistryError):
        Registry(settings_for(f"sqlite:///{tmp_path}/mlflow.db")).names()


def test_the_digest_of_each_file_stands_in_the_version_and_stays_as_first_written(
    registry: Registry, name: str
) -> None:
    files = {"model.onnx": "1" * 64, "contract.json": "2" * 64}
    for written in (files, {"model.onnx": "3" * 64}, None):
        registry.register(
            name, digest=DIGESTS[0], uri="s3://b/x/", run_id="", files=written, who="ann", why="trained"
        )
    assert registry.find(name, "1").files == files
    # A version from before there was such a tag.
    assert add(registry, name, DIGESTS[1]) == 2
    assert registry.find(name, "2").files == {}
