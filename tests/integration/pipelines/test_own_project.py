"""docs/your-own-project.md does what it says, command by command, in an empty folder."""

from __future__ import annotations

import re

import pytest

from components.onnx_model import OnnxModel
from slipway.contract import MODEL_FILE
from tests.support.workshop import NAME, Workshop

STEPS = ["snapshot", "train", "evaluate", "verify", "register", "deploy"]


def test_every_file_and_command_of_the_page_was_used(workshop: Workshop) -> None:
    assert list(workshop.files) == [
        "slipway.toml",
        "make_data.py",
        "workshop/__init__.py",
        "workshop/project.py",
        "ask.py",
    ]
    assert [*workshop.done, "slipway down"] == workshop.commands
    assert workshop.commands[-2:] == ["python ask.py", "slipway down"]


def said(workshop: Workshop, beginning: str) -> str:
    (line,) = [line for line in workshop.done if line.startswith(beginning)]
    return workshop.done[line].stdout


def test_features_were_applied_and_all_machines_are_online(workshop: Workshop) -> None:
    assert "machine_state" in said(workshop, "slipway features apply")
    assert re.search(r"readings\s+50 ", said(workshop, "slipway features materialize"))


def test_the_training_told_each_step_in_order_and_ended_with_a_served_version(workshop: Workshop) -> None:
    (line,) = [line for line in workshop.done if line.startswith("slipway run train")]
    told = [text.split()[0] for text in workshop.done[line].stderr.splitlines() if text.startswith("  ")]
    assert told == STEPS
    events = workshop.first_events
    assert [event.step for event in events if event.state == "done"] == [*STEPS, "finish"]
    # Each began after the one before it had ended.
    assert [(event.step, event.state) for event in events[:4]] == [
        ("snapshot", "started"),
        ("snapshot", "done"),
        ("train", "started"),
        ("train", "done"),
    ]
    assert workshop.first["register"].result == f"{NAME}:1"
    champion = workshop.registry.champion(NAME)
    assert champion is not None
    assert champion.version == 1
    assert set(champion.aliases) == {"champion", "challenger"}


def test_show_and_trace_tell_of_that_version(workshop: Workshop) -> None:
    shown = said(workshop, "slipway models show")
    champion = workshop.registry.champion(NAME)
    assert champion is not None
    assert champion.uri in shown
    assert shown.count("  pass ") == 15
    traced = said(workshop, "slipway trace")
    assert re.search(r"^model +verified", traced, re.MULTILINE)
    assert re.search(r"^source files +verified +2 of 2", traced, re.MULTILINE)


def test_the_answer_is_that_of_the_model_on_what_the_online_store_holds(workshop: Workshop) -> None:
    import polars as pl

    champion = workshop.registry.champion(NAME)
    assert champion is not None
    answer = re.fullmatch(r"(0\.\d{3}) likely to fail; from run (\w+)\n", said(workshop, "python ask.py"))
    assert answer is not None
    assert answer.group(2) == champion.run_id

    from components.evaluate.component import open_version

    readings = pl.read_parquet(workshop.objects.get("s3://slipway/workshop/readings/all.parquet"))
    latest = readings.filter(machine="M07").sort("measured").tail(1)
    row = latest.select(
        pl.lit("drill").alias("job"),
        pl.lit(1714125600.0).alias("starts"),
        *(pl.col(name).alias(f"readings__{name}") for name in ("vibration", "temperature", "serviced_at")),
    )
    model = open_version(workshop.objects, champion)
    assert isinstance(model, OnnxModel)
    assert float(answer.group(1)) == pytest.approx(float(model.answer_rows(row)[0]), abs=6e-4)
    assert workshop.objects.head(champion.uri + MODEL_FILE) is not None


def test_a_log_and_events_of_the_run_are_kept(workshop: Workshop) -> None:
    assert "snapshot: 5,500 rows" in workshop.first_log
    assert workshop.first_events[0].step == "snapshot"
