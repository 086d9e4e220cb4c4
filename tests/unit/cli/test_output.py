"""How the command line speaks."""

from __future__ import annotations

import io
import json
import math
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from slipway.cli import output
from slipway.errors import DataError


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Point(msgspec.Struct):
    x: int
    place: Path


class TestAnswer:
    def test_json_knows_structs_paths_and_numpy(self, capsys: pytest.CaptureFixture[str]) -> None:
        value = {"point": Point(1, Path("a/b")), "scalar": np.float64(0.5), "array": np.arange(3)}
        output.answer(value, json=True, show=lambda: "not this")
        assert json.loads(capsys.readouterr().out) == {
            "point": {"x": 1, "place": "a/b"},
            "scalar": 0.5,
            "array": [0, 1, 2],
        }

    def test_numbers_that_json_has_not_become_null(self, capsys: pytest.CaptureFixture[str]) -> None:
        output.answer([float("nan"), float("inf")], json=True, show=lambda: "")
        assert json.loads(capsys.readouterr().out) == [None, None]

    def test_text_ends_with_one_line_break(self, capsys: pytest.CaptureFixture[str]) -> None:
        output.answer(None, json=False, show=lambda: "done\n\n")
        assert capsys.readouterr().out == "done\n"

    def test_a_table_is_never_cut_in_a_pipe(self, capsys: pytest.CaptureFixture[str]) -> None:
        rows = [("name", 1.25, None), ("x" * 300, 10, True)]
        output.answer(None, json=False, show=lambda: output.table(("what", "count", "note"), rows))
        lines = capsys.readouterr().out.splitlines()
        assert [line.split() for line in lines] == [
            ["what", "count", "note"],
            ["name", "1.25", "-"],
            ["x" * 300, "10", "True"],
        ]
        assert lines[1].index("1.25") + 4 == lines[2].index(" 10 ") + 3  # numbers end in one column

    def test_brackets_in_cells_are_text(self, capsys: pytest.CaptureFixture[str]) -> None:
        output.answer(None, json=False, show=lambda: output.table(("a",), [("[bold]x[/bold]",)]))
        assert "[bold]x[/bold]" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("number", "text"),
        [
            (0.25, "0.25"),
            (0.0, "0"),
            (12.34567, "12.35"),
            (172800.0, "172800"),
            (-98765.43, "-98765.4"),
            (9999.96, "10000"),
            (1.7e18, "1.7e+18"),
            (3e-7, "3e-07"),
            (math.inf, "inf"),
            (math.nan, "nan"),
        ],
    )
    def test_numbers_lose_nothing_before_the_point(
        self, capsys: pytest.CaptureFixture[str], number: float, text: str
    ) -> None:
        output.answer(None, json=False, show=lambda: output.table(("a",), [(number,)]))
        assert capsys.readouterr().out.split() == ["a", text]


class TestProgress:
    def test_nothing_without_a_terminal(self, capsys: pytest.CaptureFixture[str]) -> None:
        with output.progress("Reading", total=10) as bar:
            bar.advance()
            bar.update(label="more", total=20)
        assert capsys.readouterr() == ("", "")

    def test_a_bar_on_a_terminal(self, monkeypatch: pytest.MonkeyPatch) -> None:
        terminal = Terminal()
        monkeypatch.setattr(sys, "stderr", terminal)
        with output.progress("Reading", total=10) as bar:
            bar.advance(7)
        assert "Reading" in terminal.getvalue()
        assert "7/10" in terminal.getvalue()


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (None, None),
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (12_345_678, "12.3 MB"),
        (5 * 10**15, "5000.0 TB"),
    ],
)
def test_size(count: int | None, text: str | None) -> None:
    assert output.size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, None),
        (0.4, "0 s"),
        (59.9, "59 s"),
        (61, "1 min"),
        (3 * 3600 + 300, "3 h 05 min"),
        (187_200, "2 d 4 h"),
    ],
)
def test_duration(seconds: float | None, text: str | None) -> None:
    assert output.duration(seconds) == text


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ([], False),
        (["status", "--json"], True),
        (["run", "--", "--json"], False),
        (["x", "--json", "--"], True),
    ],
)
def test_wants_json(words: list[str], wanted: bool) -> None:
    assert output.wants_json(words) is wanted


def test_an_error_without_place_or_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    output.show_error(DataError("no rows"), json=False)
    assert capsys.readouterr().err == "error: no rows\n"
