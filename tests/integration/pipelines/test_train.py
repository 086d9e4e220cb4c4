"""The train pipeline, here and step by step: the same inputs give the same bytes and the same numbers."""

from __future__ import annotations

from typing import Any

import msgspec
import onnx

from components.evaluate import Evaluation, evaluate
from components.evaluate.evaluation import read_evaluation
from components.snapshot import DATA_FILE, Window, read_manifest, take_snapshot
from components.train import Candidate, read_candidate, train
from components.train.step import read_config
from components.verify import verify
from slipway.contract import GateResult
from slipway.objects import make_client
from slipway.project import load_project
from slipway.settings import Settings
from tests.support.workshop import NAME, TRAIN, Workshop


def test_the_same_command_again_finds_all_that_it_made_and_makes_no_second_version(inside, train) -> None:
    first = inside.first
    again = train()
    results = {event.step: event.result for event in again.steps}
    assert results["snapshot"] == first["snapshot"].result
    assert results["train"] == first["train"].result
    assert results["register"] == first["register"].result == f"{NAME}:1"
    told = {event.step: event.told for event in again.steps}
    assert told["snapshot"].endswith("known already")
    assert told["register"].endswith("known already")
    assert [item.version for item in inside.registry.versions(NAME)] == [1]
    before = read_evaluation(inside.objects, first["evaluate"].result)
    after = read_evaluation(inside.objects, results["evaluate"])
    assert before.champion is None
    # Judged beside itself now, on the same rows.
    assert after.champion is not None
    assert after.challenger.metrics == before.challenger.metrics
    assert {name: found.value for name, found in after.champion.metrics.items()} == {
        name: found.value for name, found in before.challenger.metrics.items()
    }


def scores(evaluation: Evaluation) -> bytes:
    return msgspec.json.encode([evaluation.challenger, evaluation.splits, evaluation.start, evaluation.end])


def graph(candidate: Candidate, objects: Any) -> bytes:
    """The model without its contract, in which the run's id stands."""
    model = onnx.load_from_string(candidate.model(objects))
    del model.metadata_props[:]
    return model.SerializeToString(deterministic=True)


def verdicts(gates: tuple[GateResult, ...]) -> list[tuple[str, str, str]]:
    """All but what is a time of this machine."""
    return [(gate.gate, gate.verdict, gate.reason) for gate in gates if "latency" not in gate.gate]


def test_direct_calls_in_another_bucket_agree_to_the_byte(inside: Workshop) -> None:
    """Nothing is found again there: all is made a second time, in this process and without kfp."""
    first, objects = inside.first, inside.objects
    settings: Settings = inside.settings
    other = msgspec.structs.replace(
        settings,
        s3=msgspec.structs.replace(settings.s3, bucket="direct"),
        tracking=msgspec.structs.replace(settings.tracking, experiment="direct"),
    )
    make_client(other.s3).create_bucket(Bucket="direct")
    objects.put(
        "s3://direct/workshop/rows/all.parquet", objects.get("s3://slipway/workshop/rows/all.parquet")
    )
    project = load_project(other)

    snapshot = take_snapshot(other, project, Window(TRAIN["start"], TRAIN["end"]))
    taken = first["snapshot"].result
    assert snapshot.created
    assert snapshot.uri != taken
    assert snapshot.digest == read_manifest(objects, taken).digest
    assert objects.get(snapshot.uri + DATA_FILE) == objects.get(taken + DATA_FILE)
    assert objects.get(snapshot.uri + "statistics.json") == objects.get(taken + "statistics.json")

    candidate = train(other, project, snapshot, read_config(TRAIN["config"]))
    trained = read_candidate(objects, first["train"].result)
    assert candidate.record.run_id != trained.record.run_id
    assert candidate.record.metrics == trained.record.metrics
    assert candidate.record.threshold == trained.record.threshold
    assert graph(candidate, objects) == graph(trained, objects)
    assert candidate.baseline(objects) == trained.baseline(objects)

    # As the first time: there was no champion then. Judging again is another bucket's business too.
    unknown = msgspec.structs.replace(project, name="direct")
    evaluation = evaluate(other, unknown, candidate)
    assert scores(evaluation) == scores(read_evaluation(objects, first["evaluate"].result))

    verified = verify(other, project, candidate, evaluation)
    champion = inside.registry.find(NAME, "1")
    contract = msgspec.json.decode(objects.get(champion.uri + "contract.json"))
    gates = msgspec.convert(contract["gates"], tuple[GateResult, ...])
    assert verdicts(verified.gates) == verdicts(gates)
    assert len(gates) == 15
