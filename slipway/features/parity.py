"""What was trained on = what the online store holds = what a model is fed, entity by entity.

The offline side is the point-in-time join that makes training sets, asked as of now by the clock. Against
it stand the online store through Feast, the lookup that servers use, and whatever else the caller brings
(`slipway.features.served`: what a running server fed its model). A feature of an entity is

    equal      the same value, or no value on both sides
    stale      online says it is past its TTL, though offline has a newer one
    missing    online does not have it
    different  any other answer, and values written under another schema
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np

from slipway.clock import now
from slipway.contract import FeatureService, GateResult, Verdict, View
from slipway.errors import FeatureSchemaError
from slipway.features.answer import Status
from slipway.features.lookup import FeatureLookup
from slipway.features.packing import is_message
from slipway.features.service import describe_service, describe_view
from slipway.features.store import open_store
from slipway.settings import Settings

if TYPE_CHECKING:
    from feast import FeatureStore

OUTCOMES = ("equal", "stale", "missing", "different")
EXAMPLES = 3
"""Kept of each outcome, feature and path: enough to see a pattern, few enough to read."""


class Found(NamedTuple):
    """What one side has of a feature, entity by entity."""

    values: Sequence[Any]
    status: Sequence[str]
    """Of each value: present, null, not_found, stale, unreadable or unavailable."""
    rounding: Callable[[Any], Any] | None = None
    """What this side makes of a value that it is right about, such as a float of fewer bits."""


Keys = Mapping[str, Sequence[Any]]
Reading = Mapping[str, Found]
"""Feature → what was found of it."""
Path = Callable[[View, Keys], Reading]


class Example(msgspec.Struct):
    view: str
    feature: str
    path: str
    outcome: str
    entity: dict[str, Any]
    offline: Any
    found: Any
    status: str


class Parity(msgspec.Struct):
    service: str
    digest: str
    as_of: datetime
    seed: int
    sampled: dict[str, int]
    """View → entities."""
    paths: list[str]
    counts: dict[str, dict[str, dict[str, int]]]
    """view:feature → path → outcome → how many."""
    examples: list[Example]
    gate: GateResult


def check_parity(
    settings: Settings,
    service: str,
    *,
    sample: int = 200,
    seed: int = 0,
    tolerance: float = 0.0,
    others: Mapping[str, Path] | None = None,
    store: FeatureStore | None = None,
) -> Parity:
    """Compare a sample of each view's entities; at most `tolerance` of the values may not be equal."""
    feast = store or open_store(settings)
    described = describe_service(feast, service)
    moment = datetime.fromtimestamp(now(settings.features.clock), UTC)
    paths: dict[str, Path] = {
        "online": lambda view, keys: _read_online(feast, view, keys),
        "lookup": lambda view, keys: _read_lookup(settings, described, view, keys),
        **(others or {}),
    }
    sampled: dict[str, int] = {}
    counts: dict[str, dict[str, Counter[str]]] = {}
    examples: list[Example] = []
    known = False
    for view in _stored_views(feast, described):
        keys = _sample_keys(feast, view, moment, sample, seed)
        rows = len(next(iter(keys.values()), ())) if view.join_keys else 1
        sampled[view.name] = rows
        if not rows:
            continue
        expected = _read_offline(feast, view, keys, moment)
        known |= any(value is not None for values in expected.values() for value in values)
        for path, read in paths.items():
            found = read(view, keys)
            for feature in view.features or ():
                if feature in found:
                    tally = counts.setdefault(f"{view.name}:{feature}", {}).setdefault(path, Counter())
                    _compare(view, feature, path, keys, expected[feature], found[feature], tally, examples)
    return Parity(
        service=service,
        digest=described.digest,
        as_of=moment,
        seed=seed,
        sampled=sampled,
        paths=list(paths),
        counts={
            name: {path: {outcome: tally[outcome] for outcome in OUTCOMES} for path, tally in by_path.items()}
            for name, by_path in counts.items()
        },
        examples=examples,
        gate=_judge(sampled, known, counts, examples, tolerance, moment, seed, list(paths)),
    )


def _stored_views(store: FeatureStore, service: FeatureService) -> list[View]:
    """Each stored view once, with the features that the service takes under any of its aliases."""
    taken: dict[str, set[str]] = {}
    for view in service.views:
        names = view.features if view.features is not None else [field.name for field in view.fields]
        taken.setdefault(view.source or view.name, set()).update(names)
    return [
        msgspec.structs.replace(describe_view(store, name), features=tuple(sorted(features)))
        for name, features in taken.items()
    ]


def _sample_keys(store: FeatureStore, view: View, moment: datetime, sample: int, seed: int) -> Keys:
    """Entities that offline knows at that moment, drawn by the seed from all of them."""
    from feast.utils import _get_column_names

    if not view.join_keys:
        return {}
    applied = store.get_feature_view(view.name)
    source: Any = applied.batch_source
    entities = [store.get_entity(name) for name in applied.entities]
    columns, _, event, created = _get_column_names(applied, entities)
    provider = store._get_provider()
    job = provider.offline_store.pull_latest_from_table_or_query(
        config=store.config,
        data_source=source,
        join_key_columns=columns,
        feature_name_columns=[],
        timestamp_field=event,
        created_timestamp_column=created,
        start_date=datetime(1970, 1, 1, tzinfo=UTC),
        end_date=moment,
    )
    table = job.to_arrow()
    mapping = source.field_mapping or {}
    names = [mapping.get(name, name) for name in columns]
    rows = list(zip(*(table.column(name).to_pylist() for name in columns), strict=True))
    known = sorted({row for row in rows if None not in row}, key=repr)
    drawn = random.Random(seed).sample(known, min(sample, len(known)))
    return {name: [row[at] for row in drawn] for at, name in enumerate(names)}


def _read_offline(
    store: FeatureStore, view: View, keys: Keys, moment: datetime
) -> Mapping[str, Sequence[Any]]:
    import pandas as pd

    rows = len(next(iter(keys.values()))) if keys else 1
    asked = pd.DataFrame({**{name: list(values) for name, values in keys.items()}})
    asked["event_timestamp"] = pd.to_datetime([moment] * rows, utc=True)
    references = [f"{view.name}:{name}" for name in view.features or ()]
    table = store.get_historical_features(asked, references, full_feature_names=False).to_arrow()
    # Maps as what they are online; Arrow's are pairs otherwise.
    return {name: table.column(name).to_pylist(maps_as_pydicts="strict") for name in view.features or ()}


def _read_online(store: FeatureStore, view: View, keys: Keys) -> Reading:
    from feast.protos.feast.serving.ServingService_pb2 import FieldStatus

    features = [f"{view.name}:{name}" for name in view.features or ()]
    rows = {name: list(values) for name, values in keys.items()} or {"nobody": [0]}
    words = {
        FieldStatus.PRESENT: "present",
        FieldStatus.NULL_VALUE: "null",
        FieldStatus.NOT_FOUND: "not_found",
        FieldStatus.OUTSIDE_MAX_AGE: "stale",
    }
    try:
        response = store.get_online_features(features, rows)
    except FeatureSchemaError:
        count = len(next(iter(rows.values())))
        return {name: Found([None] * count, ["unreadable"] * count) for name in view.features or ()}
    values = response.to_dict()
    names = list(response.proto.metadata.feature_names.val)
    return {
        name: Found(
            values[name],
            [words.get(code, "unreadable") for code in response.proto.results[names.index(name)].statuses],
        )
        for name in view.features or ()
    }


def _read_lookup(settings: Settings, service: FeatureService, view: View, keys: Keys) -> Reading:
    only = msgspec.structs.replace(service, views=(view,))
    lookup = FeatureLookup.of_service(only, settings)
    try:
        answer = lookup.read_now(keys, rows=None if keys else 1)
    finally:
        lookup.close_now()
    types = {field.name: field.dtype for field in view.fields}
    return {
        name: Found(
            answer.tensors[f"{view.name}__{name}"].tolist(),
            [
                Status(code).name.lower()
                for code in answer.status[:, lookup.columns.index(f"{view.name}__{name}")].tolist()
            ],
        )
        for name in view.features or ()
        if not is_message(types[name])
    }


def _compare(
    view: View,
    feature: str,
    path: str,
    keys: Keys,
    expected: Sequence[Any],
    found: Found,
    tally: Counter[str],
    examples: list[Example],
) -> None:
    dtype = next(field.dtype for field in view.fields if field.name == feature)
    for at, (offline, value, status) in enumerate(zip(expected, found.values, found.status, strict=True)):
        left = plain(offline, dtype)
        if found.rounding is not None and left is not None:
            left = found.rounding(left)
        right = plain(value, dtype) if status == "present" else None
        outcome = _outcome(left, right, status)
        tally[outcome] += 1
        if outcome != "equal" and tally[outcome] <= EXAMPLES:
            entity = {name: values[at] for name, values in keys.items()}
            examples.append(Example(view.name, feature, path, outcome, entity, left, right, status))


def _outcome(offline: Any, found: Any, status: str) -> str:
    if status == "unreadable":
        return "different"
    if offline == found:
        return "equal"
    if found is None:
        return "stale" if status == "stale" else "missing"
    return "different"


def plain(value: Any, dtype: str) -> Any:
    """One form for what Arrow, Feast and the lookup call the same value."""
    if value is None:
        return None
    if isinstance(value, datetime):
        moment = value if value.tzinfo else value.replace(tzinfo=UTC)
        return int(moment.timestamp() // 1)
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, set | frozenset) or dtype.startswith("Set("):
        return sorted((plain(item, "") for item in value), key=repr)
    if isinstance(value, list | tuple):
        return [plain(item, dtype.removeprefix("Array(").removesuffix(")")) for item in value]
    if isinstance(value, float):
        if value != value:
            return None
        return float(np.float32(value)) if dtype == "Float32" else value
    if dtype == "Json" and isinstance(value, str):
        return msgspec.json.decode(value)
    return value if isinstance(value, bool | int | str | dict) else str(value)


def _judge(
    sampled: Mapping[str, int],
    known: bool,
    counts: Mapping[str, Mapping[str, Counter[str]]],
    examples: Sequence[Example],
    tolerance: float,
    moment: datetime,
    seed: int,
    paths: Sequence[str],
) -> GateResult:
    total: Counter[str] = Counter()
    for by_path in counts.values():
        for tally in by_path.values():
            total.update(tally)
    compared = total.total()
    wrong = compared - total["equal"]
    empty = sorted(view for view, rows in sampled.items() if not rows)
    verdict: Verdict
    if compared and wrong > tolerance * compared:
        verdict, reason = "fail", f"{wrong} of {compared} values are not equal offline and online"
    elif empty or not compared:
        verdict, reason = "inconclusive", f"no entities to compare in: {', '.join(empty) or 'any view'}"
    elif not known:
        verdict, reason = "inconclusive", f"no entity has a value as of {moment.isoformat()}: all are too old"
    else:
        verdict, reason = "pass", f"{compared} values of {sum(sampled.values())} entities are equal"
        if wrong:
            reason = f"{wrong} of {compared} values are not equal, within the tolerance of {tolerance:g}"
    return GateResult(
        gate="parity",
        verdict=verdict,
        reason=reason,
        evidence={
            "as_of": moment.isoformat(),
            "seed": seed,
            "tolerance": tolerance,
            "paths": list(paths),
            "sampled": dict(sampled),
            "compared": compared,
            **{outcome: total[outcome] for outcome in OUTCOMES},
            "worst": _worst(counts),
            "examples": [msgspec.to_builtins(example) for example in examples[:10]],
        },
    )


def _worst(counts: Mapping[str, Mapping[str, Counter[str]]]) -> dict[str, int]:
    wrong = {
        name: sum(tally.total() - tally["equal"] for tally in by_path.values())
        for name, by_path in counts.items()
    }
    return dict(sorted(((n, w) for n, w in wrong.items() if w), key=lambda item: -item[1])[:10])
