"""evaluate, sweep, models and trace as a user calls them, on the page's model and on one that was swept."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import threading
import time
from typing import Any

import pytest

from components.evaluate.evaluation import read_evaluation
from components.stepping import Event, read_events
from slipway.errors import GateNotPassed, RegistryError
from tests.support.workshop import NAME, TRAIN, Workshop

AFTER = ["train", "evaluate", "verify", "register", "deploy", "finish"]


def lines_of(descriptor: int, into: list[tuple[float, str]]) -> None:
    """What comes through a terminal, line by line, with the time at which it came."""
    rest = b""
    while True:
        try:
            chunk = os.read(descriptor, 4096)
        except OSError:  # how a terminal says that the other side is closed
            return
        *whole, rest = (rest + chunk).split(b"\n")
        into += [(time.monotonic(), line.decode(errors="replace")) for line in whole]


def test_evaluate_tells_its_steps_on_the_terminal_while_they_run(inside: Workshop) -> None:
    ours, theirs = pty.openpty()
    seen: list[tuple[float, str]] = []
    reader = threading.Thread(target=lines_of, args=(ours, seen), daemon=True)
    reader.start()
    command = ["slipway", "run", "evaluate", "--version", "1", "--start", "2024-03-01", "--end", "2024-04-01"]
    with subprocess.Popen(
        command,
        cwd=inside.folder,
        env={**inside.environment, "TERM": "xterm"},
        stdout=subprocess.PIPE,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        assert process.stdout is not None
        out = process.stdout.read().decode()
        assert process.wait(120) == 0
        ended = time.monotonic()
    reader.join(10)
    os.close(ours)
    assert out.startswith("done; artifacts and log in ")
    plain = [(when, re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line).strip("\r ")) for when, line in seen]
    # The bar's label names the steps too, but no seconds.
    told = [
        (when, found.group())
        for when, line in plain
        if (found := re.search(r"(snapshot|evaluate) {2,}.*\(\d+\.\d s\)", line))
    ]
    assert [line.split()[0] for _, line in told] == ["snapshot", "evaluate"]
    assert re.search(r"1,550 rows from 2024-03-01 to 2024-04-01, taken  \(\d", told[0][1])
    assert re.search(r"ROC AUC 0\.\d{4} \(0\.\d{4} to 0\.\d{4}\) on 1,550 later rows", told[1][1])
    # The first line was there before the second step had ended, not at the end with it.
    assert told[0][0] < told[1][0] - 0.05 <= ended


def test_a_definition_is_judged_afresh_and_nothing_is_registered(inside: Workshop, train, told) -> None:
    """The page's project names no published figure, which proves nothing and so stops."""
    before = inside.registry.versions(NAME)
    window = {name: TRAIN[name] for name in ("start", "end", "config")}
    with pytest.raises(GateNotPassed, match="gate published is inconclusive: there is no figure"):
        train("judge", project="", **window)
    started = [event.step for event in told if event.state == "started"]
    assert started == ["snapshot", "train", "evaluate", "published", "finish"]
    assert inside.registry.versions(NAME) == before


def test_a_preset_that_is_not_there_is_told(inside: Workshop) -> None:
    done = inside.slipway("slipway run evaluate --preset tidyverse")
    assert done.returncode == 2
    assert "there is no preset 'tidyverse'" in done.stderr
    assert "use one of: tidymodels" in done.stderr


def test_evaluate_answers_json_and_takes_digests_and_aliases(inside: Workshop, train) -> None:
    version = inside.registry.find(NAME, "1")
    line = f"slipway run evaluate --version {version.digest[:12]} --start 2024-02-01 --end 2024-02-15 --json"
    done = inside.slipway(line)
    assert done.returncode == 0, done.stderr
    steps = {step["step"]: step for step in json.loads(done.stdout)["steps"]}
    assert done.stderr == ""
    judged = read_evaluation(inside.objects, steps["evaluate"]["result"])
    assert judged.challenger.rows == 700
    assert judged.made_from["version"].startswith(f"{NAME} 1 ({version.digest}")
    # By its alias it is the same version, so the same evaluation.
    again = train("evaluate", version="champion", start="2024-02-01", end="2024-02-15")
    assert again.result("evaluate") == steps["evaluate"]["result"]
    with pytest.raises(RegistryError, match="'77' names no version of machine-failure"):
        train("evaluate", version="77", start="2024-02-01", end="2024-02-15")


@pytest.fixture(scope="module")
def swept(workshop: Workshop) -> dict[str, Any]:
    """A sweep by the command line, for a model of its own."""
    choices = '{"strength": [0.003, 0.9, 30.0]}'
    done = workshop.slipway(
        f"slipway run sweep --project variants:SWEPT --start {TRAIN['start']} --end {TRAIN['end']} "
        f"--config '{TRAIN['config']}' --choices '{choices}' --json"
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_sweep_tries_side_by_side_and_ships_the_best(workshop: Workshop, swept: dict[str, Any]) -> None:
    events: list[Event] = read_events(f"{swept['folder']}/events.jsonl")[0]
    trials = [event for event in events if event.step == "trial"]
    running, most = 0, 0
    for event in trials:
        running += 1 if event.state == "started" else -1
        most = max(most, running)
    assert len(trials) == 6
    assert 2 <= most <= 4
    results = [json.loads(event.result) for event in trials if event.state == "done"]
    losses = {item["config"]["model"]["strength"]: item["metrics"]["validation_log_loss"] for item in results}
    assert set(losses) == {0.003, 0.9, 30.0}
    chosen = next(json.loads(step["result"]) for step in swept["steps"] if step["step"] == "choose")
    assert chosen["model"]["strength"] == min(losses, key=losses.__getitem__)
    ended = [step["step"] for step in swept["steps"] if step["state"] == "done"]
    assert ended == ["snapshot", *["trial"] * 3, "choose", *AFTER]
    assert workshop.registry.champion("swept") is not None


def test_models_are_listed_approved_promoted_and_rolled_back(
    inside: Workshop, swept: dict[str, Any], train
) -> None:
    first = inside.registry.champion("swept")
    assert first is not None
    # The same rows but the last week's: a version of its own, as good within the interval.
    second = train(project="variants:SWEPT", end="2024-04-20").result("register")
    number = int(second.rpartition(":")[2])
    assert number == first.version + 1

    listed = json.loads(inside.slipway("slipway models list --json").stdout)
    (row,) = [item for item in listed if item["name"] == "swept"]
    assert (row["champion"], row["challenger"]) == (number, number)
    shown = json.loads(inside.slipway("slipway models show swept --json").stdout)
    assert [item["version"] for item in shown][:2] == [number, first.version]
    one = json.loads(inside.slipway(f"slipway models show swept {number} --json").stdout)
    assert one["contract"]["snapshot"]["end"] == "2024-04-20T00:00:00Z"

    done = inside.slipway(f"slipway models approve swept {number} --who ann --why 'looks right' --json")
    assert json.loads(done.stdout)["approval"]["who"] == "ann"
    back = inside.slipway("slipway models rollback swept --who eve --why alarms --json")
    assert back.returncode == 0, back.stderr
    assert json.loads(back.stdout)["version"] == first.version
    forth = inside.slipway(f"slipway models promote swept {number} --who ann --why mended")
    assert f"swept version {number} serves at http" in forth.stdout
    assert forth.stdout.rstrip().endswith(f"in place of version {first.version}")
    moves = json.loads(inside.slipway("slipway models history swept --json").stdout)
    assert [(move["who"], move["why"]) for move in moves[:2]] == [("ann", "mended"), ("eve", "alarms")]
    wrong = inside.slipway("slipway models promote swept 99 --why x")
    assert wrong.returncode != 0
    assert "names no version of swept" in wrong.stderr


def links(workshop: Workshop, asked: str) -> tuple[int, list[dict[str, str]]]:
    done = workshop.slipway(f"slipway trace {asked} --json")
    return done.returncode, json.loads(done.stdout)["links"]


def test_trace_goes_from_a_run_a_digest_or_a_saved_answer_to_the_same_files(inside: Workshop) -> None:
    version = inside.registry.find(NAME, "1")
    saved = inside.folder / "answer.json"
    saved.write_text(json.dumps({"parameters": {"model_digest": version.digest}}))
    answers = [
        links(inside, asked) for asked in (f"{NAME}:1", version.run_id, version.digest[:16], str(saved))
    ]
    assert [code for code, _ in answers] == [0, 0, 0, 0]
    assert all(found == answers[0][1] for _, found in answers)
    whats = {link["what"]: link["state"] for link in answers[0][1]}
    assert whats["model"] == whats["snapshot"] == whats["source files"] == "verified"
    assert {"run", "commit", "features", "gate"} <= whats.keys()
    missing = inside.slipway("slipway trace 0123456789abcdef")
    assert missing.returncode == 1
    assert "names no model, run or receipt" in missing.stderr


@pytest.mark.parametrize("which", ["model", "snapshot", "source", "gone"])
def test_trace_names_the_object_that_was_changed(inside: Workshop, which: str) -> None:
    version = inside.registry.find(NAME, "1")
    _, found = links(inside, NAME)
    snapshot = next(link["name"] for link in found if link["what"] == "snapshot")
    uri = {
        "model": f"{version.uri}model.onnx",
        "snapshot": snapshot,
        "source": "s3://slipway/workshop/readings/all.parquet",
        "gone": f"{version.uri}baseline.json",
    }[which]
    before = inside.objects.get(uri)
    if which == "gone":
        inside.objects.delete(uri)
    else:
        inside.objects.put(uri, before[:-1] + b"?")
    try:
        code, found = links(inside, NAME)
        broken = [link for link in found if link["state"] in ("wrong", "missing") and link["name"] == uri]
        assert code == 1
        assert [link["state"] for link in broken] == ["missing" if which == "gone" else "wrong"]
    finally:
        inside.objects.put(uri, before)
    assert links(inside, NAME)[0] == 0
