"""What the demo does before it begins and after it has ended; the whole of it is `make demo`."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

from pipelines import demo
from pipelines.demo import Asked, Demo, Outcome
from slipway.cli import main
from slipway.errors import PlatformBusy
from slipway.local import Platform

ASKED = Asked(
    flight="EV4373 EWR-DCA",
    scheduled="2013-04-01T21:00:00+00:00",
    probability=0.853,
    late=True,
    receipt={"model_digest": "f228" * 16, "run_id": "d15d"},
    freshest="0 to 43 minutes old",
    defaults=0,
)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLIPWAY_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_a_second_demo_in_one_folder_is_refused_and_in_another_it_is_not(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[str] = []
    monkeypatch.setattr(Demo, "_run", lambda self: begun.append(str(self._platform.home.path)))
    monkeypatch.setattr(demo, "step_server", nullcontext)

    def run() -> None:
        Demo(print, print).run()

    with Platform(home).home.locked(0.0, what="demo", name="demo.lock"):
        with pytest.raises(PlatformBusy, match="another demo holds the lock") as caught:
            run()
        assert begun == []
        assert "SLIPWAY_HOME" in str(caught.value.fix)
        monkeypatch.setenv("SLIPWAY_HOME", f"{home}-2")
        run()
    monkeypatch.setenv("SLIPWAY_HOME", str(home))
    # A platform's own lock is another: up and down are not kept out.
    with Platform(home).home.locked(0.0):
        run()
    assert begun == [f"{home}-2", str(home)]


def test_what_it_ends_with_can_be_copied_to_the_shell(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    follow = f"{demo._command('slipway')} trace f228f228f228f228"
    outcome = Outcome(
        seconds=61.4,
        version="flight-delay:1",
        steps={},
        asked=(ASKED,),
        later="ROC AUC 0.7730",
        refused="gate onnx parity: native against ONNX failed: " + "3293 of 3293 rows differ " * 8,
        pages={"report on training": "home/pages/training.html"},
        follow=follow,
    )
    monkeypatch.setattr(Demo, "run", lambda self: outcome)
    assert main(["demo"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "  EV4373 EWR-DCA    85.3% late   features 0 to 43 minutes old" in lines
    assert f"  follow it with   {follow}" in lines
    why = lines.index("A model whose scaler was left out of the graph was stopped, and this is why:")
    assert lines[why + 1].startswith("  gate onnx parity: native against ONNX failed: 3293 of")
    assert "  report on training       home/pages/training.html" in lines
    assert max(map(len, lines)) <= 110
    assert lines[-1] == "Done in 61 s. `slipway down` stops what runs; the data stays."


def test_programs_and_files_are_named_as_seen_from_here(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ours = tmp_path / ".venv" / "bin"
    ours.mkdir(parents=True)
    (ours / "slipway").write_text("#!/bin/sh\n")
    (ours / "slipway").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(ours / "python"))
    monkeypatch.setenv("PATH", "/nowhere")
    assert demo._command("slipway") == ".venv/bin/slipway"
    monkeypatch.setenv("PATH", str(ours))
    assert demo._command("slipway") == "slipway"
    assert demo._near(tmp_path / "home" / "pages") == "home/pages"
    assert demo._near(Path("/elsewhere/pages")) == "/elsewhere/pages"
