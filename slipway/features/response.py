"""One view's part of Feast's get_online_features: its keys, and its answer from their blobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from feast import FeatureView
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus, GetOnlineFeaturesResponse
from feast.protos.feast.types.Value_pb2 import Value
from google.protobuf.timestamp_pb2 import Timestamp

from slipway.errors import FeatureError
from slipway.features.keys import NOBODY, join_parts
from slipway.features.packing import Packing
from slipway.features.protos import NULL, entity_part, member, unpack_values

_value: Any = Value
"""Its keyword is known at run time only."""


class ViewRead:
    """Duplicate entities are asked for once; `slots` says which key each row of the request has."""

    def __init__(
        self, packing: Packing, table: FeatureView, features: Sequence[str], rows: Sequence[bytes | None]
    ) -> None:
        self.packing = packing
        self.table = table
        self.features = features
        unique = {key: at for at, key in enumerate(dict.fromkeys(key for key in rows if key is not None))}
        self.keys: list[bytes] = list(unique)
        self.slots = np.array([unique.get(key, -1) if key is not None else -1 for key in rows], np.int64)

    def answer_clean(
        self, blobs: Sequence[bytes | None], clock: float, response: Any, full_feature_names: bool
    ) -> bool:
        """The answer where all is as it mostly is: each entity found, in time, of our schema and without a
        null. False, and nothing done: something is not. For few entities `answer` takes longer, since it is
        made of numpy calls.
        """
        packing = self.packing
        rows = packing.clean_rows(blobs)
        ttl = ttl_micros(self.table)
        oldest = round(clock * 1e6) - ttl
        if not rows or -1 in self.slots or (ttl and any(event < oldest for event, _ in rows)):
            return False
        if not all(name in packing.types for name in self.features):
            return False
        slots = self.slots.tolist()
        times = [_timestamp(event) for event, _ in rows]
        event_timestamps = [times[slot] for slot in slots]
        statuses = [FieldStatus.PRESENT] * len(slots)
        records = [rows[slot][1] for slot in slots]
        projection: Any = self.table.projection
        view = projection.name_to_use()
        for name in self.features:
            at, attribute = packing.bit[name], member(packing.types[name])
            values = [_value(**{attribute: record[at]}) for record in records]
            response.metadata.feature_names.val.append(f"{view}__{name}" if full_feature_names else name)
            response.results.append(
                GetOnlineFeaturesResponse.FeatureVector(
                    values=values, statuses=statuses, event_timestamps=event_timestamps
                )
            )
        return True

    def answer(
        self, blobs: Sequence[bytes | None], clock: float, response: Any, full_feature_names: bool
    ) -> None:
        packing = self.packing
        # One more for the rows without an entity: slot -1 is the last.
        blobs = [*blobs, None]
        records = packing.read(blobs)
        found = records["digest"] != 0
        ttl = ttl_micros(self.table)
        stale = found & ((round(clock * 1e6) - records["event"] > ttl) if ttl else False)
        usable = found & ~stale
        slots = self.slots.tolist()
        identity = slots == list(range(len(slots)))
        times = [_timestamp(event) for event in records["event"].tolist()]
        event_timestamps = [times[slot] for slot in slots]
        state = np.where(stale, FieldStatus.OUTSIDE_MAX_AGE, FieldStatus.NOT_FOUND)
        present = usable[:, None] & ~packing.nulls(records)
        plain = [FieldStatus.PRESENT] * len(slots) if present[self.slots].all() else None
        state = np.where(usable, FieldStatus.NULL_VALUE, state)
        projection: Any = self.table.projection
        view = projection.name_to_use()
        for name in self.features:
            response.metadata.feature_names.val.append(f"{view}__{name}" if full_feature_names else name)
            if name in packing.types:
                kept = present[:, packing.bit[name]]
                values = unpack_values(packing, name, records, blobs, kept)
                statuses = plain or np.where(kept, FieldStatus.PRESENT, state)[self.slots].tolist()
            else:
                values, statuses = [NULL] * len(blobs), [FieldStatus.NOT_FOUND] * len(slots)
            values = values[:-1] if identity else [values[slot] for slot in slots]
            response.results.append(
                GetOnlineFeaturesResponse.FeatureVector(
                    values=values, statuses=statuses, event_timestamps=event_timestamps
                )
            )

    def add_version(self, response: Any) -> None:
        name = self.table.projection.name_alias or self.table.projection.name
        if name not in [known.name for known in response.metadata.feature_view_metadata]:
            added = response.metadata.feature_view_metadata.add()
            added.name = name
            added.version = getattr(self.table, "current_version_number", 0) or 0


def ttl_micros(table: FeatureView) -> int:
    """0: its values never age, as those of on-demand views that are stored, which know no TTL."""
    ttl = getattr(table, "ttl", None)
    return round(ttl.total_seconds() * 1e6) if ttl else 0


def plan_view(
    packing: Packing,
    prefix: bytes,
    table: FeatureView,
    features: Sequence[str],
    entity_values: Mapping[str, Sequence[Value]],
) -> ViewRead:
    missing = sorted(packing.key_types.keys() - entity_values.keys())
    if missing:
        raise FeatureError(
            f"entity values are missing: {', '.join(missing)}",
            where=packing.where,
            fix="bring a column for each join key of the views that you ask for",
        )
    if not packing.key_types:
        count = len(next(iter(entity_values.values()), ()))
        return ViewRead(packing, table, features, [prefix + NOBODY + b"}"] * count)
    columns = [
        [entity_part(value, where=packing.where) for value in entity_values[name]]
        for name in sorted(packing.key_types)
    ]
    rows = [
        None if None in parts else prefix + join_parts(parts) + b"}" for parts in zip(*columns, strict=True)
    ]
    return ViewRead(packing, table, features, rows)


def _timestamp(micros: int) -> Timestamp:
    return Timestamp(seconds=micros // 1_000_000, nanos=micros % 1_000_000 * 1000) if micros else Timestamp()
