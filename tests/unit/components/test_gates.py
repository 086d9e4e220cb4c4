"""Each gate stops what it is there for, and lets a clean model through.

Every test breaks one thing in a candidate that passes whole, and looks at the verdict, the reason and the
evidence of the check that guards it.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest

from components.evaluate import Evaluation, evaluate
from components.evaluate.scores import Difference
from components.metrics import Interval
from components.onnx_model import OnnxModel
from components.register.register import register
from components.snapshot import SnapshotResult, Window, read_manifest, read_rows, take_snapshot, to_parquet
from components.train import Candidate, ModelConfig, TrainConfig, export, train, with_contract
from components.verify import Evidence, check, registered, run_checks, select, verify
from components.verify.served import serve
from slipway.contract import GateResult, ModelContract
from slipway.errors import GateNotPassed, ObjectNotFound, SettingsError
from slipway.objects import ObjectStore
from slipway.registry import Registry
from slipway.settings import Settings
from tests.support.training import PROJECT, Tables

WINDOW = Window("2013-01-01", "2013-03-02")


@pytest.fixture(scope="module")
def snapshot(settings: Settings, tables: Tables) -> SnapshotResult:
    return take_snapshot(settings, PROJECT, WINDOW, source=tables)


@pytest.fixture(scope="module")
def candidate(settings: Settings, snapshot: SnapshotResult) -> Candidate:
    return train(settings, PROJECT, snapshot, TrainConfig(model=ModelConfig(kind="logistic")))


@pytest.fixture(scope="module")
def evaluation(settings: Settings, candidate: Candidate) -> Evaluation:
    return evaluate(settings, PROJECT, candidate)


@pytest.fixture(scope="module")
def parts(settings: Settings, objects: ObjectStore, snapshot, candidate, evaluation) -> dict[str, Any]:
    return {
        "settings": settings,
        "project": PROJECT,
        "candidate": candidate,
        "manifest": read_manifest(objects, snapshot.uri),
        "frame": read_rows(objects, snapshot.uri, snapshot.digest),
        "model": OnnxModel(candidate.model(objects), candidate.contract(objects)),
        "objects": objects,
        "evaluation": evaluation,
    }


def ask(parts: dict[str, Any], name: str, **changed: Any) -> GateResult:
    (result,) = run_checks(select([name]), Evidence(**{**parts, **changed}))
    return result


def with_files(candidate: Candidate, objects: ObjectStore, **files: bytes) -> Candidate:
    """The candidate with other files, under digests that fit them."""
    folder = candidate.record.folder + hashlib.sha256(b"".join(files.values())).hexdigest()[:8] + "/"
    digests = dict(candidate.record.digests)
    for name in digests:
        content = files.get(name.split(".")[0], candidate.read(objects, name))
        objects.put(folder + name, content)
        digests[name] = hashlib.sha256(content).hexdigest()
    return msgspec.structs.replace(
        candidate, record=msgspec.structs.replace(candidate.record, folder=folder, digests=digests)
    )


# ── a clean model passes, once and again ──────────────────────────────────────────────────────────


def test_a_clean_model_passes_every_gate_and_becomes_one_version(
    settings, objects, candidate, evaluation, tmp_path
):
    equal = GateResult("feature parity", "pass", "all equal")
    verified = verify(settings, PROJECT, candidate, evaluation, online=False)
    assert {gate.verdict for gate in verified.gates} == {"pass"}
    assert len(verified.gates) == len(registered()) - 1
    assert ask_parity(parts_of(settings, objects, candidate, evaluation), equal).verdict == "pass"
    made = register(settings, verified.download(objects, tmp_path / "version"), who="ann")
    again = verify(settings, PROJECT, candidate, evaluation, online=False)
    assert register(settings, again.download(objects, tmp_path / "version"), who="ann").digest == made.digest
    assert [version.version for version in Registry(settings).versions("late")] == [made.version]
    contract = msgspec.json.decode((tmp_path / "version" / "contract.json").read_bytes(), type=ModelContract)
    assert contract.metrics["test_roc_auc"] == evaluation.challenger.metrics["roc_auc"].value
    assert len(contract.gates) == len(verified.gates)


def parts_of(settings, objects, candidate, evaluation) -> dict[str, Any]:
    record = candidate.record
    return {
        "settings": settings,
        "project": PROJECT,
        "candidate": candidate,
        "manifest": read_manifest(objects, record.snapshot_uri),
        "frame": read_rows(objects, record.snapshot_uri, record.snapshot_digest),
        "model": OnnxModel(candidate.model(objects), candidate.contract(objects)),
        "objects": objects,
        "evaluation": evaluation,
    }


def ask_parity(parts: dict[str, Any], gate: GateResult) -> GateResult:
    return ask(parts, "offline against online", feature_parity=lambda: gate)


# ── onnx parity ───────────────────────────────────────────────────────────────────────────────────


def without_scaler(candidate: Candidate, objects: ObjectStore) -> bytes:
    """The graph of a pipeline whose scaler was left outside: all else is as trained."""
    native = candidate.native(objects)
    numbers = native.preparation.named_steps["columns"].named_transformers_["numbers"]
    numbers.named_steps["scale"].mean_[:] = 0.0
    numbers.named_steps["scale"].scale_[:] = 1.0
    return with_contract(export(native), candidate.contract(objects))


def test_a_scaler_left_out_of_the_graph_is_seen_in_onnx_and_in_the_runtime(parts, candidate, objects):
    skewed = without_scaler(candidate, objects)
    contract = candidate.contract(objects)
    result = ask(parts, "native against ONNX", model=OnnxModel(skewed, contract))
    assert result.verdict == "fail"
    assert "Preprocessing outside the graph" in result.reason
    assert result.evidence["differing"] > 0.9 * result.evidence["rows"]
    with serve(skewed, contract) as url:
        served = ask(parts, "ONNX against the runtime", runtime_url=url)
    assert served.verdict == "fail"
    assert "the runtime" in served.reason


def test_columns_in_another_order_are_seen(parts, candidate, objects):
    contract = candidate.contract(objects)
    numbers = contract.inputs[0]
    shuffled = msgspec.structs.replace(numbers, columns=(*numbers.columns[1:], numbers.columns[0]))
    wrong = msgspec.structs.replace(contract, inputs=(shuffled, *contract.inputs[1:]))
    result = ask(parts, "native against ONNX", model=OnnxModel(candidate.model(objects), wrong))
    assert result.verdict == "fail"
    assert result.evidence["example"]["native"] != pytest.approx(
        result.evidence["example"]["found"], abs=1e-5
    )


def test_a_runtime_that_serves_something_else_proves_nothing(parts):
    result = ask(parts, "ONNX against the runtime", runtime_url="http://127.0.0.1:9")
    assert result.verdict == "inconclusive"
    assert "127.0.0.1:9" in result.reason


# ── leakage ───────────────────────────────────────────────────────────────────────────────────────


def test_a_leaked_label_is_named(parts, candidate):
    leaked = parts["frame"].with_columns((pl.col("delay") / 7 + 3).alias("last_leg__delay"))
    result = ask(parts, "single input", frame=leaked)
    assert result.verdict == "fail"
    assert "last_leg__delay alone scores 1.000" in result.reason


def test_a_label_leaked_through_what_is_missing_is_named_too(parts):
    leaked = parts["frame"].with_columns(
        pl.when(pl.col("delay") >= 15).then(None).otherwise(pl.col("hour")).alias("hour")
    )
    assert "hour alone" in ask(parts, "single input", frame=leaked).reason


def test_a_value_from_the_future_is_found_and_shown(parts, tables):
    """The next leg's delay in place of the last one's, in three rows of a hundred."""
    frame = parts["frame"]
    later = tables.join(
        frame.select("event_timestamp", "carrier", "plane").with_columns(
            pl.col("event_timestamp") + pl.duration(hours=30)
        )
    )["last_leg__delay"]
    some = pl.Series(np.arange(len(frame)) % 33 == 0)
    broken = frame.with_columns(
        pl.when(some).then(later).otherwise(pl.col("last_leg__delay")).alias("last_leg__delay")
    )
    result = ask(parts, "point in time", frame=broken)
    assert result.verdict == "fail"
    assert 10 < result.evidence["wrong"] < 60
    assert result.evidence["examples"][0]["feature"] == "last_leg__delay"


def test_a_value_past_its_ttl_is_found(parts, tables):
    """carrier_delays lives for two hours and is silent at four: filled up, what stands there is too old."""
    frame = parts["frame"]
    assert ask(parts, "point in time").verdict == "pass"
    forever = frame.sort("event_timestamp").with_columns(
        pl.col("carrier_delays__flights").forward_fill().over("carrier")
    )
    assert forever["carrier_delays__flights"].null_count() < frame["carrier_delays__flights"].null_count()
    result = ask(parts, "point in time", frame=forever)
    assert result.verdict == "fail"
    assert result.evidence["examples"][0]["known then"] is None


def test_a_source_that_changed_since_proves_nothing(parts):
    manifest = parts["manifest"]
    first = manifest.sources[0]
    moved = msgspec.structs.replace(first.files[0], tag='"another"')
    sources = (msgspec.structs.replace(first, files=(moved,)), *manifest.sources[1:])
    result = ask(parts, "point in time", manifest=msgspec.structs.replace(manifest, sources=sources))
    assert result.verdict == "inconclusive"
    assert "written again" in result.reason


def test_an_answer_that_crosses_the_split_is_seen_by_shuffled_labels(parts, candidate, monkeypatch):
    """A preparation that hands the answer of the row itself to the model, whatever the answer is."""
    from components.verify import leakage

    def peeking(config: Any, plan: Any, tensors: Any, label: Any) -> Any:
        class Peek:
            def probability(self, rows: Any) -> Any:
                return shuffled[-len(rows["numbers"]) :] * 0.1 + draw.random(len(rows["numbers"])) * 0.5

        return Peek()

    draw = np.random.default_rng(3)
    labels = Evidence(**parts).label
    shuffled = np.random.default_rng(candidate.record.split.seed).permutation(labels)
    monkeypatch.setattr(leakage, "fit", peeking)
    result = ask(parts, "shuffled label")
    assert result.verdict == "fail"
    assert result.evidence["roc_auc"] > 0.6


def test_shuffled_labels_of_clean_rows_predict_nothing(parts):
    result = ask(parts, "shuffled label")
    assert result.verdict == "pass"
    assert abs(result.evidence["roc_auc"] - 0.5) < result.evidence["allowed"] < 0.1


# ── data ──────────────────────────────────────────────────────────────────────────────────────────


def test_too_few_rows_are_inconclusive(parts):
    needy = msgspec.structs.replace(PROJECT, floors=msgspec.structs.replace(PROJECT.floors, rows=100_000))
    result = ask(parts, "rows", project=needy)
    assert (result.verdict, result.evidence["needed"]) == ("inconclusive", 100_000)


def test_an_input_without_any_value_fails(parts):
    empty = parts["frame"].with_columns(pl.lit(None, pl.Float64).alias("carrier_delays__mean"))
    result = ask(parts, "values", frame=empty)
    assert (result.verdict, result.evidence["empty"]) == ("fail", ["carrier_delays__mean"])


def test_infinite_numbers_fail(parts):
    wild = parts["frame"].with_columns(
        pl.when(pl.col("number") == 5).then(float("inf")).otherwise(pl.col("hour")).alias("hour")
    )
    assert ask(parts, "values", frame=wild).evidence["infinite"] == ["hour"]


def test_another_type_or_a_missing_column_fails(parts):
    other = parts["frame"].with_columns(pl.col("hour").cast(pl.Int32)).drop("last_leg__from")
    result = ask(parts, "schema", frame=other)
    assert (result.verdict, result.evidence["wrong"]) == (
        "fail",
        ["hour", "last_leg__from", "last_leg__from"],
    )


def test_a_window_that_promises_more_than_the_data_has_is_inconclusive(parts):
    longer = msgspec.structs.replace(
        parts["manifest"], window=Window("2013-01-01T00:00:00Z", "2013-06-01T00:00:00Z")
    )
    result = ask(parts, "freshness", manifest=longer)
    assert result.verdict == "inconclusive"
    assert "the window ends 2013-06-01" in result.reason


def test_a_view_that_runs_dry_fails(parts):
    frame = parts["frame"]
    newest = pl.Series(np.arange(len(frame)) > len(frame) * 0.93)
    names = list(parts["manifest"].sources[1].features.values())
    dry = frame.with_columns(pl.when(newest).then(None).otherwise(pl.col(name)).alias(name) for name in names)
    result = ask(parts, "freshness", frame=dry)
    assert result.verdict == "fail"
    assert "last_leg" in result.reason


# ── quality ───────────────────────────────────────────────────────────────────────────────────────


def test_below_the_floor_fails(parts):
    high = msgspec.structs.replace(PROJECT, floors=msgspec.structs.replace(PROJECT.floors, roc_auc=0.99))
    result = ask(parts, "floor", project=high)
    assert result.verdict == "fail"
    assert "the floor 0.99" in result.reason


def test_a_worse_model_than_the_champion_fails_on_the_same_rows(
    settings, objects, parts, snapshot, candidate, evaluation, tmp_path
):
    verified = verify(settings, PROJECT, candidate, evaluation, online=False, checks=["size"])
    made = register(settings, verified.download(objects, tmp_path / "good"), who="ann")
    champion = Registry(settings).find("late", made.digest)
    weak = train(settings, PROJECT, snapshot, TrainConfig(model=ModelConfig(kind="logistic", strength=1e-4)))
    judged = evaluate(settings, PROJECT, weak, champion=champion, random_split=False)
    assert judged.champion is not None
    assert judged.champion.metrics["roc_auc"].value == evaluation.challenger.metrics["roc_auc"].value
    result = ask(parts, "champion", evaluation=judged)
    assert result.verdict == "fail"
    same = evaluate(settings, PROJECT, candidate, champion=champion, random_split=False)
    assert same.challenger.against_champion["roc_auc"].difference == Interval(0.0, 0.0, 0.0)
    assert ask(parts, "champion", evaluation=same).verdict == "pass"


@pytest.mark.parametrize(
    ("metric", "champion", "difference", "verdict"),
    [
        # Sure, for its interval leaves 0 out, and on either side of what is negligible.
        ("roc_auc", 0.8, Interval(-0.0009, -0.0012, -0.0006), "pass"),
        ("roc_auc", 0.8, Interval(-0.0011, -0.0014, -0.0008), "fail"),
        ("log_loss", 0.5, Interval(0.0009, 0.0006, 0.0012), "pass"),
        ("log_loss", 0.5, Interval(0.0011, 0.0008, 0.0014), "fail"),
        # A share of the champion's: where that is small, less is much.
        ("log_loss", 0.05, Interval(0.0009, 0.0006, 0.0012), "fail"),
        # Large, and still not sure.
        ("roc_auc", 0.8, Interval(-0.02, -0.05, 0.0), "pass"),
        ("log_loss", 0.5, Interval(0.02, -0.001, 0.05), "pass"),
        # Better by whatever it is.
        ("roc_auc", 0.8, Interval(0.05, 0.04, 0.06), "pass"),
        ("log_loss", 0.5, Interval(-0.05, -0.06, -0.04), "pass"),
    ],
)
def test_a_difference_to_the_champion_must_be_sure_and_more_than_negligible(
    parts, evaluation, metric: str, champion: float, difference: Interval, verdict: str
):
    same = Interval(0.0, 0.0, 0.0)
    against = {"roc_auc": Difference(0.8, same), "log_loss": Difference(0.5, same)}
    against[metric] = Difference(champion, difference)
    judged = msgspec.structs.replace(
        evaluation,
        champion_digest="a" * 64,
        comparable=True,
        challenger=msgspec.structs.replace(evaluation.challenger, against_champion=against),
    )
    result = ask(parts, "champion", evaluation=judged)
    assert result.verdict == verdict
    if verdict == "fail":
        assert result.reason.startswith(f"{metric} differs by {difference.value:+.4f}")


def test_a_champion_that_cannot_be_asked_is_inconclusive(parts, evaluation):
    unknown = msgspec.structs.replace(
        evaluation, champion_digest="a" * 64, comparable=False, champion_note="It eats other features."
    )
    assert ask(parts, "champion", evaluation=unknown).verdict == "inconclusive"


def test_a_group_that_collapsed_fails_behind_a_good_average(parts, evaluation):
    slices = tuple(
        msgspec.structs.replace(item, roc_auc=Interval(0.45, 0.41, 0.49))
        if item.judged and place == 0
        else item
        for place, item in enumerate(evaluation.challenger.slices)
    )
    broken = msgspec.structs.replace(
        evaluation, challenger=msgspec.structs.replace(evaluation.challenger, slices=slices)
    )
    result = ask(parts, "groups", evaluation=broken)
    assert result.verdict == "fail"
    assert f"carrier {slices[0].group}" in result.reason


@pytest.mark.parametrize(
    ("native", "onnx", "verdict"),
    [
        (0.5, 0.5, "pass"),
        (0.5, 0.50002, "fail"),
        # No answer is no answer, even where both give none.
        (0.5, float("nan"), "fail"),
        (float("nan"), 0.5, "fail"),
        (float("nan"), float("nan"), "fail"),
        (float("inf"), float("inf"), "fail"),
    ],
)
def test_an_answer_that_is_no_number_is_never_equal(native: float, onnx: float, verdict: str):
    from components.verify.parity import _compare

    rows = {"numbers": np.zeros((3, 1), np.float32)}
    expected, found = np.array([0.1, native, 0.3]), np.array([0.1, onnx, 0.3])
    result = _compare(expected, found, rows, "ONNX")
    assert (result.verdict, result.evidence["differing"]) == (verdict, int(verdict == "fail"))
    assert _compare(expected, found[:2], rows, "ONNX").verdict == "fail"


# ── feature parity, budget, and the line itself ───────────────────────────────────────────────────


def test_a_stale_online_store_stops_the_line(parts):
    stale = GateResult("feature parity", "fail", "40 of 200 values are stale online", {"stale": 40})
    result = ask_parity(parts, stale)
    assert (result.verdict, result.evidence["stale"]) == ("fail", 40)


def test_an_oversized_model_fails(parts):
    tight = msgspec.structs.replace(PROJECT, budget=msgspec.structs.replace(PROJECT.budget, model_bytes=1000))
    result = ask(parts, "size", project=tight)
    assert (result.verdict, result.evidence["allowed"]) == ("fail", 1000)


def test_a_slow_model_fails(parts):
    tight = msgspec.structs.replace(
        PROJECT, budget=msgspec.structs.replace(PROJECT.budget, milliseconds=1e-6)
    )
    assert ask(parts, "latency", project=tight).verdict == "fail"


def test_whatever_does_not_pass_stops_the_line_and_leaves_a_report(settings, candidate, evaluation, objects):
    impossible = msgspec.structs.replace(
        PROJECT, floors=msgspec.structs.replace(PROJECT.floors, roc_auc=0.99, rows=10**9)
    )
    reports = []
    with pytest.raises(GateNotPassed) as stopped:
        verify(
            settings,
            impossible,
            candidate,
            evaluation,
            online=False,
            checks=["rows", "floor", "size"],
            on_report=lambda name, text: reports.append(text.decode()),
        )
    assert "quality: floor failed" in str(stopped.value)
    assert "data: rows is inconclusive" in str(stopped.value)
    assert "budget" not in str(stopped.value)
    assert "Stopped by data: rows, quality: floor." in reports[0]


def test_a_check_that_cannot_be_carried_out_is_inconclusive(parts):
    def no_objects(*_: Any, **__: Any) -> bytes:
        raise ObjectNotFound("there is no such object", where="s3://slipway/x")

    class Gone:
        get = head = staticmethod(no_objects)

    result = ask(parts, "size", objects=Gone())
    assert result.verdict == "inconclusive"
    assert "no such object" in result.reason


def test_checks_are_looked_over_before_any_runs():
    with pytest.raises(SettingsError, match="there is no check sise"):
        select(["sise"])
    with pytest.raises(ValueError, match="two checks are named 'size'"):
        check("budget", "size")(lambda evidence: GateResult("", "pass", ""))
    with pytest.raises(ValueError, match="does not say what it looks at"):
        check("budget", "silent")(lambda evidence: GateResult("", "pass", ""))
    with pytest.raises(ValueError, match="needs moonlight"):

        @check("budget", "odd", needs=["moonlight"])
        def odd(evidence: Evidence) -> GateResult:
            """Looks at the moon."""
            return GateResult("", "pass", "")

    assert next(iter(select())).gate == "data"


def test_the_same_rows_are_the_same_bytes(parts):
    assert to_parquet(parts["frame"]) == to_parquet(parts["frame"].clone())
