"""What a trace makes of what it is given and of what it finds; the pipelines' tests take the whole walk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from components.snapshot.manifest import SourceFile
from pipelines.trace import Link, Trace, _model, _origin, _plain_files, _read, _receipt_text, find_version
from slipway.contract import FeatureService, GateResult, ModelContract, Origin, prefix_digest
from slipway.errors import (
    ObjectCorrupt,
    ObjectNotFound,
    ObjectStoreUnavailable,
    RegistryError,
    SlipwayError,
)
from slipway.registry import ModelVersion

RUN = "d15d47489fca400bb44074b932c25b32"


def version(name: str, number: int, digest: str, **more: Any) -> ModelVersion:
    return ModelVersion(name, number, digest, f"s3://bucket/models/{name}/{digest}/", created="", **more)


class Registry:
    """Two models; `late` has two versions, and `failing` shares a digest's first letters with the second."""

    def __init__(self) -> None:
        self.held = {
            "late": [
                version("late", 2, "b" * 64, run_id="", aliases=("champion",)),
                version("late", 1, "a" * 64, run_id=RUN),
            ],
            "failing": [version("failing", 1, "b" * 20 + "c" * 44, run_id="")],
        }

    def names(self) -> list[str]:
        return sorted(self.held)

    def versions(self, name: str) -> list[ModelVersion]:
        return self.held[name]

    def find(self, name: str, which: str) -> ModelVersion:
        return next(item for item in self.held[name] if which in (*item.aliases, str(item.version)))


def found(asked: str) -> tuple[str, int]:
    registry: Any = Registry()
    item = find_version(registry, asked)
    return item.name, item.version


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        ("late", ("late", 2)),
        ("late:1", ("late", 1)),
        ("late:champion", ("late", 2)),
        ("a" * 64, ("late", 1)),
        ("aaaaaaa", ("late", 1)),
        (RUN, ("late", 1)),
        ("b" * 21, ("late", 2)),
        (f"model-digest: {'a' * 64}\nrun-id: 0123456", ("late", 1)),
    ],
)
def test_a_version_is_found_by_what_names_it(asked: str, answer: tuple[str, int]) -> None:
    assert found(asked) == answer


@pytest.mark.parametrize("asked", ["aaaaaa", "nobody", "0" * 64, RUN[:12], ""])
def test_what_names_nothing_is_told(asked: str) -> None:
    with pytest.raises(RegistryError, match="names no model, run or receipt") as caught:
        found(asked)
    assert "name:version" in str(caught.value.fix)


def test_what_names_two_is_told() -> None:
    with pytest.raises(RegistryError, match="names several models"):
        found("b" * 12)


def test_of_an_answer_in_a_file_only_the_receipt_counts(tmp_path: Path) -> None:
    path = tmp_path / "answer"
    path.write_text(f'{{"outputs": ["{"b" * 64}"], "parameters": {{"model_digest": "{"a" * 64}"}}}}')
    assert _receipt_text(str(path)) == "a" * 64
    path.write_text(f"HTTP/1.1 200 OK\r\nSlipway-Model-Digest: {'a' * 64}\r\n\r\n{'b' * 64}")
    assert _receipt_text(str(path)) == "a" * 64
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SlipwayError, match="cannot be read"):
        _receipt_text(str(path))
    assert _receipt_text("  late \n") == "late"
    assert _receipt_text("late" * 2000) == "late" * 2000


def test_what_is_read_or_what_is_wrong_with_it_and_a_dead_store_proves_nothing() -> None:
    def fails(error: Exception) -> Any:
        raise error

    assert _read(lambda: 7) == (7, "verified", "")
    assert _read(lambda: fails(ObjectNotFound("not there"))) == (None, "missing", "not there")
    assert _read(lambda: fails(ObjectCorrupt("other bytes"))) == (None, "wrong", "other bytes")
    with pytest.raises(ObjectStoreUnavailable):
        _read(lambda: fails(ObjectStoreUnavailable("no answer")))


class Objects:
    """Files by address, with the digest and the tag that they have."""

    def __init__(self, **files: str) -> None:
        self.files = {f"s3://bucket/models/late/x/{name}.json": digest for name, digest in files.items()}

    def list(self, uri: str) -> list[Any]:
        return [self._info(name) for name in self.files if name.startswith(uri)]

    def download(self, uri: str, target: Path) -> Any:
        return self._info(uri)

    def head(self, uri: str) -> Any:
        return self._info(uri) if uri in self.files else None

    def _info(self, uri: str) -> Any:
        digest = self.files[uri]
        return msgspec.defstruct("Info", ["uri", "digest", "etag"])(uri, digest, digest)


def links(registered: dict[str, str], **held: str) -> list[tuple[str, str, str]]:
    names = {f"{name}.json": digest for name, digest in registered.items()}
    whole = ModelVersion(
        "late", 1, prefix_digest(names), "s3://bucket/models/late/x/", run_id="", created="", files=names
    )
    objects: Any = Objects(**held)
    return [(item.what, item.name.rpartition("/")[2], item.state) for item in _model(objects, whole)]


def test_the_files_of_a_model_against_what_was_registered() -> None:
    """By the tag that registration wrote: which file it is that is not as it was."""
    one, two, other = "1" * 64, "2" * 64, "3" * 64
    files = {"a": one, "b": two}
    assert links(files, a=one, b=two) == [("model", "late version 1", "verified")]
    assert links(files) == [("model", "late version 1", "missing")]
    wrong = ("model", "late version 1", "wrong")
    assert links(files, a=one, b=other) == [wrong, ("file", "b.json", "wrong")]
    assert links(files, a=one) == [wrong, ("file", "b.json", "missing")]
    assert links(files, a=one, b=two, c=other) == [wrong, ("file", "c.json", "wrong")]


def test_source_files_are_those_that_the_snapshot_found() -> None:
    uri = "s3://bucket/models/late/x/{}.json"
    files = [SourceFile(uri.format(name), 1, "tag") for name in ("same", "other", "gone")]
    files.append(SourceFile("file:///somewhere", 1, "5" * 64))
    objects: Any = Objects(same="tag", other="changed")
    told = [(item.name, item.state) for item in _plain_files(objects, files)]
    assert told == [
        (uri.format("other"), "wrong"),
        (uri.format("gone"), "missing"),
        ("file:///somewhere", "told"),
        ("1 of 4", "verified"),
    ]


def test_what_only_the_contract_knows_is_told_and_breaks_no_chain() -> None:
    contract = ModelContract(
        name="late",
        inputs=(),
        outputs=(),
        origin=Origin(RUN, "c0ffee", "image@sha256:1"),
        feature_service=FeatureService("lateness", "slipway", "d" * 64, ()),
        gates=(GateResult("data: rows", "pass", "enough"),),
    )
    told = list(_origin(contract))
    assert [(item.what, item.name) for item in told] == [
        ("run", RUN),
        ("commit", "c0ffee"),
        ("features", "lateness"),
        ("gate", "data: rows"),
    ]
    assert list(_origin(ModelContract(name="late", inputs=(), outputs=()))) == []
    assert Trace("late", "late", 1, tuple(told)).whole
    for state in ("missing", "wrong"):
        assert not Trace("late", "late", 1, (*told, Link("model", "late", state))).whole
