"""What the demo has done beside its main work: what it tells, and how it goes wrong."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from pipelines import aside as module
from pipelines.aside import aside
from slipway.errors import GateNotPassed, SlipwayError


def refused(settings: object, what: str) -> str:
    raise GateNotPassed(f"{what} did not pass", where="a model", fix="mend it")


def crashed(settings: object) -> str:
    raise ZeroDivisionError


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(server: None, name: str, arguments: Sequence[str], log: Path, *, when: bytes) -> int:
        assert name == "pipelines.aside"
        try:
            module.main(arguments[0], Path(arguments[1]), arguments[2:])
        except ZeroDivisionError:
            return 1
        return 0

    monkeypatch.setattr(module, "run_module", run)
    monkeypatch.setattr(
        module, "WORK", {"good": lambda settings, *words: " ".join(words), "bad": refused, "worse": crashed}
    )


def test_what_it_did_is_told(tmp_path: Path) -> None:
    assert aside(None, "good", tmp_path, "two", "words") == "two words"


def test_an_error_crosses_the_process_with_its_kind_and_its_remedy(tmp_path: Path) -> None:
    with pytest.raises(GateNotPassed) as caught:
        aside(None, "bad", tmp_path, "it")
    assert (caught.value.what, caught.value.where, caught.value.fix) == (
        "it did not pass",
        "a model",
        "mend it",
    )


def test_one_that_ends_without_a_word_names_its_log_and_not_what_an_earlier_one_told(tmp_path: Path) -> None:
    (tmp_path / "aside").mkdir()
    (tmp_path / "aside" / "worse.json").write_text('{"line": "of yesterday"}')
    with pytest.raises(SlipwayError, match="part 'worse' ended with 1") as caught:
        aside(None, "worse", tmp_path)
    assert caught.value.where == str(tmp_path / "aside" / "worse.log")
