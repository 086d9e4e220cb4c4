"""Does the training set know the future?"""

from __future__ import annotations

import io
from typing import Any

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from components.gates import answer
from components.inputs import CATEGORIES, Tensors, assemble
from components.metrics import Scored
from components.snapshot import ViewSource
from components.train import fit, take
from components.verify.checks import Evidence, check
from slipway.contract import GateResult
from slipway.errors import DataError, ObjectNotFound

AUDITED = 1000
"""Rows that are joined again, the slow way."""
TOO_GOOD = 0.95
"""ROC AUC that no single honest input reaches."""
SHUFFLED_ROWS = 20_000
SHUFFLED_ROUNDS = 30
_PLACE = "place of the event in its source"
_NEVER = (np.empty(0, np.int64), np.empty(0, np.uint32))


@check("leakage", "point in time")
def point_in_time(evidence: Evidence) -> GateResult:
    """Sampled rows joined again from the sources: each value is the newest that was known when asked."""
    draw = np.random.default_rng(evidence.candidate.record.split.seed)
    picked = np.sort(draw.permutation(len(evidence.frame))[:AUDITED])
    sample = evidence.frame[picked]
    checked, wrong, examples = 0, 0, []
    for view in evidence.manifest.sources:
        try:
            source = _read(evidence, view)
        except (ObjectNotFound, DataError) as error:
            return answer("", "inconclusive", f"the source of {view.view} is not as it was: {error}")
        expected = _as_of(sample, view, source, evidence.project.event_time)
        for name in view.features.values():
            same = expected[name].eq_missing(sample[name].cast(expected[name].dtype, strict=False))
            checked += len(sample)
            wrong += int((~same).sum())
            for at in np.flatnonzero(~same.to_numpy())[:1]:
                examples.append(
                    {
                        "feature": name,
                        "asked": str(sample[evidence.project.event_time][int(at)]),
                        "in the training set": _plain(sample[name][int(at)]),
                        "known then": _plain(expected[name][int(at)]),
                    }
                )
    facts = {"rows": len(sample), "values": checked, "wrong": wrong, "examples": examples[:5]}
    if not checked:
        return answer("", "pass", "no feature view is joined: the request brings every input", facts)
    if wrong:
        first = examples[0]
        reason = (
            f"{wrong} of {checked} values are not what was known when the question was asked; "
            f"{first['feature']} at {first['asked']} is {first['in the training set']}, "
            f"known was {first['known then']}"
        )
        return answer("", "fail", reason, facts)
    return answer("", "pass", f"{checked:,} values of {len(sample):,} rows, none newer than its row", facts)


def _read(evidence: Evidence, view: ViewSource) -> pl.DataFrame:
    wanted = [*view.join_keys, *view.features, view.event_time]
    if view.created_time:
        wanted.append(view.created_time)
    parts = []
    for file in view.files:
        if not file.uri.startswith("s3://"):
            parts.append(pl.read_parquet(file.uri, columns=wanted))
            continue
        # The tag is the digest where the dataset has one; S3's own tag is no SHA-256.
        digest = file.tag if len(file.tag) == 64 else None
        if digest is None:
            head = evidence.objects.head(file.uri)
            if head is None or head.etag != file.tag:
                raise DataError("it was written again since the snapshot", where=file.uri)
        parts.append(
            pl.read_parquet(io.BytesIO(evidence.objects.get(file.uri, digest=digest)), columns=wanted)
        )
    return pl.concat(parts)


def _as_of(rows: pl.DataFrame, view: ViewSource, source: pl.DataFrame, event_time: str) -> pl.DataFrame:
    """Row by row: of its key's events in order, the last that is not in the future, if the TTL still holds.
    It shares nothing with the offline store that it looks after."""
    columns = list(view.join_keys.values())
    zone = getattr(rows[event_time].dtype, "time_zone", None)
    order = [view.event_time, *([view.created_time] if view.created_time else [])]
    asked = _microseconds(rows[event_time])
    events = source.rename(dict(view.join_keys)).select(*columns, *order).with_row_index(_PLACE)
    # What came after the last question answers none of them; of a whole year it is most, and is not sorted.
    events = events.filter(pl.col(view.event_time).dt.epoch("us") <= asked.max())
    if columns:
        events = events.join(rows.select(columns).unique(), on=columns, how="semi", maintain_order="left")
    events = events.sort(order, maintain_order=True)
    histories = events.partition_by(columns, as_dict=True) if columns else {(): events}
    known = {
        key: (_microseconds(_in_zone(own[view.event_time], zone)), own[_PLACE].to_numpy())
        for key, own in histories.items()
    }
    newest: list[int | None] = []
    for key, moment in zip(rows.select(columns).iter_rows(), asked, strict=True):
        times, places = known.get(key, _NEVER)
        at = int(np.searchsorted(times, moment, side="right")) - 1
        fresh = at >= 0 and (not view.ttl_seconds or times[at] >= moment - view.ttl_seconds * 1e6)
        newest.append(int(places[at]) if fresh else None)
    taken = pl.Series(newest, dtype=pl.UInt32)
    return source.select(
        pl.col(original).gather(taken).alias(name) for original, name in view.features.items()
    )


def _microseconds(times: pl.Series) -> NDArray[np.int64]:
    return times.dt.epoch("us").to_numpy()


def _in_zone(times: pl.Series, zone: str | None) -> pl.Series:
    own = getattr(times.dtype, "time_zone", None)
    if zone is None:
        return times.dt.convert_time_zone("UTC").dt.replace_time_zone(None) if own else times
    return (
        times.dt.convert_time_zone(zone)
        if own
        else times.dt.replace_time_zone("UTC").dt.convert_time_zone(zone)
    )


def _plain(value: Any) -> Any:
    return value if isinstance(value, int | float | str | None) else str(value)


@check("leakage", "single input")
def single_input(evidence: Evidence) -> GateResult:
    """No single input tells the answer by itself: one that does is the answer under another name."""
    test = slice(evidence.test_start, len(evidence.frame))
    label = evidence.label[test]
    if label.min() == label.max():
        return answer("", "inconclusive", "the test rows have one class only")
    plan = evidence.candidate.record.plan
    scores: dict[str, float] = {}
    matrix = assemble(evidence.tensors, plan)
    for place, name in enumerate(plan.features):
        scores[name] = _alone(matrix[test, place].astype(np.float64), label)
    if plan.categories:
        texts = evidence.tensors[CATEGORIES]
        for place, column in enumerate(plan.categories):
            encoded = _means(
                texts[: evidence.learned, place], evidence.label[: evidence.learned], texts[test, place]
            )
            scores[column.name] = _alone(encoded, label)
    best = dict(sorted(scores.items(), key=lambda item: -item[1])[:10])
    name, value = next(iter(best.items()))
    facts = {"roc_auc_alone": {key: round(found, 4) for key, found in best.items()}, "bound": TOO_GOOD}
    if value >= TOO_GOOD:
        told = [key for key, found in best.items() if found >= TOO_GOOD]
        return answer("", "fail", f"{', '.join(told)} alone scores {value:.3f}: it knows the answer", facts)
    return answer("", "pass", f"the best single input, {name}, scores {value:.3f}", facts)


def _alone(values: NDArray[Any], label: NDArray[Any]) -> float:
    """ROC AUC of the value itself, and of whether it is there at all, whichever way round."""
    missing = np.isnan(values)
    filled = np.where(missing, 0.0 if missing.all() else np.nanmedian(values), values)
    found = (Scored(label, filled).ranking(), Scored(label, missing).ranking())
    return max(max(value, 1 - value) for value in found)


def _means(texts: NDArray[Any], label: NDArray[Any], asked: NDArray[Any]) -> NDArray[np.float64]:
    table = (
        pl.DataFrame({"text": texts.astype(str), "label": label}).group_by("text").agg(pl.col("label").mean())
    )
    joined = pl.DataFrame({"text": asked.astype(str)}).join(
        table, on="text", how="left", maintain_order="left"
    )
    answer_column: NDArray[np.float64] = joined["label"].fill_null(float(label.mean())).to_numpy()
    return answer_column


@check("leakage", "shuffled label")
def shuffled_label(evidence: Evidence) -> GateResult:
    """The same training on shuffled answers predicts nothing: else rows or answers cross the split."""
    record = evidence.candidate.record
    draw = np.random.default_rng(record.split.seed)
    shuffled = draw.permutation(evidence.label)
    learned = np.sort(draw.permutation(evidence.learned)[:SHUFFLED_ROWS])
    judged = np.arange(evidence.test_start, len(evidence.frame))
    config = msgspec.structs.replace(record.model, rounds=min(record.model.rounds, SHUFFLED_ROUNDS))
    rows: Tensors = take(evidence.tensors, learned)
    native = fit(config, record.plan, rows, shuffled[learned])
    scored = Scored(shuffled[judged], native.probability(take(evidence.tensors, judged)))
    positives, count = scored.positives, len(scored)
    if positives in (0, count):
        return answer("", "inconclusive", "the test rows have one class only")
    value = scored.ranking()
    # The rank sum's own spread where there is nothing to know; chance passes four of them once in 16,000.
    allowed = 4 * float(np.sqrt((count + 1) / (12 * positives * (count - positives))))
    facts = {
        "roc_auc": round(value, 4),
        "allowed": round(allowed, 4),
        "learned_from": len(learned),
        "judged": count,
    }
    if abs(value - 0.5) > allowed:
        return answer(
            "", "fail", f"shuffled answers are predicted with {value:.3f} where 0.5 is chance", facts
        )
    return answer("", "pass", f"{value:.3f} on shuffled answers, within {allowed:.3f} of chance", facts)
