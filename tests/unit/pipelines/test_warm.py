"""The process that steps are forked from, by itself and in kfp's hands."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipelines.stepserver import LATER, NOW, WARM
from pipelines.warm import KILLED, Steps, StepServer, run_module, step_server

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="forks are safe on Linux only: elsewhere steps start cold"
)

SOURCE = """
import kfp
from kfp import dsl
from kfp.dsl import *
from typing import *

def probe(what: str) -> str:
    import os, sys, time
    print("asked for", what, "in", os.getcwd(), os.environ.get("PROBE"), flush=True)
    if what == "error":
        raise ValueError("as asked")
    if what == "exit":
        sys.exit(7)
    if what == "killed":
        os.kill(os.getpid(), 9)
    if what == "sleep":
        time.sleep(60)
    if what == "slow to clean":
        try:
            time.sleep(60)
        finally:
            print("cleaning", os.getpid(), flush=True)
            time.sleep(1)
            print("cleaned", flush=True)
    return what + ", " + str("sklearn" in sys.modules) + ", " + str(os.getpid())
"""


@pytest.fixture(scope="module")
def server() -> Iterator[StepServer]:
    with step_server() as made:
        assert made is not None
        yield made


def _arguments(what: str, output: Path) -> list[str]:
    asked = {
        "inputs": {"parameterValues": {"what": what}},
        "outputs": {
            "parameters": {"Output": {"outputFile": f"{output}.text"}},
            "outputFile": str(output),
        },
    }
    return ["--executor_input", json.dumps(asked), "--function_to_execute", "probe"]


def _run(server: StepServer, what: str, folder: Path) -> tuple[int, str, str]:
    output, log = folder / f"{what}.json", folder / f"{what}.log"
    environment = {**os.environ, "PROBE": "set for this step"}
    code = server.run(SOURCE, _arguments(what, output), environment, log)
    return code, _answer(output), log.read_text()


def _answer(output: Path) -> str:
    return json.loads(output.read_text())["parameterValues"]["Output"] if output.exists() else ""


def test_a_step_answers_with_its_own_environment_and_log(server: StepServer, tmp_path: Path) -> None:
    code, answer, log = _run(server, "all is well", tmp_path)
    assert code == 0
    assert answer.startswith("all is well, ")
    assert int(answer.rpartition(" ")[2]) != os.getpid()
    assert f"asked for all is well in {Path.cwd()} set for this step\n" in log


def test_each_step_is_a_process_of_its_own(server: StepServer, tmp_path: Path) -> None:
    answers = [_run(server, "all is well", tmp_path)[1] for _ in range(3)]
    assert len({answer.rpartition(" ")[2] for answer in answers}) == 3


@pytest.mark.parametrize(
    ("what", "code", "told"),
    [("error", 1, "ValueError: as asked"), ("exit", 7, ""), ("killed", KILLED, "asked for killed")],
)
def test_how_a_step_ends_badly(server: StepServer, tmp_path: Path, what: str, code: int, told: str) -> None:
    ended, answer, log = _run(server, what, tmp_path)
    assert (ended, answer) == (code, "")
    assert told in log
    assert _run(server, "all is well", tmp_path)[0] == 0


def test_a_module_runs_warm_and_cold_alike(server: StepServer, tmp_path: Path) -> None:
    for place, way in enumerate((server, None)):
        log = tmp_path / f"{place}.log"
        file = tmp_path / "good.json"
        file.write_text('{"a": 1}')
        assert run_module(way, "json.tool", ["--compact", str(file)], log) == 0
        assert log.read_text().strip() == '{"a":1}'
        assert run_module(way, "json.tool", [str(tmp_path / "absent.json")], log) != 0


def test_what_can_wait_starts_when_all_is_imported_and_the_rest_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("probe_of_imports.py").write_text(f"import sys; print({LATER[-1]!r} in sys.modules)")
    logs = {when: tmp_path / name for when, name in ((WARM, "warm"), (NOW, "now"))}
    with ThreadPoolExecutor(2) as pool:
        alone = StepServer()
        try:
            codes = [
                pool.submit(alone.run_module, "probe_of_imports", [], log, when=when)
                for when, log in logs.items()
            ]
            assert [code.result() for code in codes] == [0, 0]
        finally:
            alone.close()
    assert {when: log.read_text() for when, log in logs.items()} == {WARM: "True\n", NOW: "False\n"}


def test_without_its_server_a_step_starts_the_ordinary_way(tmp_path: Path) -> None:
    alone = StepServer()
    os.kill(alone._process.pid, signal.SIGKILL)
    alone._process.wait()
    output = tmp_path / "out"
    command = ["sh", "-ec", _BOOTSTRAP, SOURCE, *_arguments("cold", output)]
    assert Steps(alone, tmp_path / "log").run(command, {}) == 0
    alone.close()
    assert _answer(output).startswith("cold, False, ")


_BOOTSTRAP = f"""program_path=$(mktemp -d)
printf "%s" "$0" > "$program_path/ephemeral_component.py"
_KFP_RUNTIME=true {sys.executable} -m kfp.dsl.executor_main \
--component_module_path "$program_path/ephemeral_component.py" "$@"
"""


def test_interrupted_steps_clean_up_and_answer_and_nothing_runs_after(tmp_path: Path) -> None:
    """Also the second signal, which the terminal sends to all, does not cut short what the first began."""
    alone = StepServer()
    try:
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(_run, alone, "slow to clean", tmp_path)
            log = tmp_path / "slow to clean.log"
            until = time.monotonic() + 240
            while time.monotonic() < until and not (log.exists() and "asked for" in log.read_text()):
                time.sleep(0.02)
            alone.interrupt()
            while "cleaning " not in log.read_text():
                time.sleep(0.02)
            child = int(log.read_text().split("cleaning ")[1].split()[0])
            os.kill(child, signal.SIGINT)
            os.kill(child, signal.SIGTERM)
            code, answer, told = running.result(timeout=240)
        assert (code, answer) == (1, "")
        assert "cleaned" in told
        output = tmp_path / "next"
        assert alone.run(SOURCE, _arguments("next", output), os.environ, tmp_path / "next.log") == KILLED
        assert not (tmp_path / "next.log").exists()
    finally:
        alone.close()


def test_who_interrupts_a_server_that_is_importing_does_not_wait_for_it() -> None:
    alone = StepServer()
    alone.interrupt()
    alone.close()
    assert alone._process.returncode == -signal.SIGKILL


def test_a_step_ends_with_the_runner_that_was_killed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    runner = f"""
import os, pathlib
from pipelines.warm import step_server
from tests.unit.pipelines.test_warm import SOURCE, _arguments
with step_server() as server:
    server.run(SOURCE, _arguments("sleep", pathlib.Path({str(tmp_path / "out")!r})), dict(os.environ),
               pathlib.Path({str(log)!r}))
"""
    process = subprocess.Popen([sys.executable, "-c", runner], cwd=Path(__file__).parents[3])
    until = time.monotonic() + 240
    while time.monotonic() < until and not (log.exists() and "asked for sleep" in log.read_text()):
        time.sleep(0.05)
    process.kill()
    process.wait()
    while time.monotonic() < until and "KeyboardInterrupt" not in log.read_text():
        time.sleep(0.05)
    assert "KeyboardInterrupt" in log.read_text()
