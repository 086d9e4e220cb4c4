"""Feature values put into a real Valkey as materialization puts them, for the contracts of tests.support."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import redis

from slipway.contract import FeatureService
from slipway.features.keys import KeyMaker
from slipway.features.packing import Packing


def write_features(
    port: int, service: FeatureService, values: Mapping[str, Mapping[str, float]], *, age: float = 60.0
) -> None:
    """Entity → feature → value, for a service of one view with one text key and Float32 features."""
    (view,) = service.views
    packing = Packing([(field.name, field.dtype) for field in view.fields], view.key_types, where=view.name)
    names = [field.name for field in view.fields]
    entities = list(values)
    columns: dict[str, Any] = {
        name: (np.array([values[entity][name] for entity in entities], np.float32), None) for name in names
    }
    event = np.full(len(entities), int((time.time() - age) * 1e6))
    blobs = packing.pack(columns, event, event)
    keys = KeyMaker(service.project, view.name, view.join_keys, view.key_types).make(
        {next(iter(view.join_keys)): entities}, len(entities)
    )
    with redis.Redis(port=port) as client:
        client.mset({key: blob for key, blob in zip(keys, blobs, strict=True) if key is not None})
