"""What is applied, and what an entity has online, for a person to look at."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from slipway.contract import FeatureService
from slipway.errors import FeatureError, InvalidRequest
from slipway.features.answer import Status
from slipway.features.lookup import FeatureLookup
from slipway.features.service import describe_service, describe_view, entity_types
from slipway.features.store import open_store
from slipway.settings import Settings


class ShownView(msgspec.Struct):
    view: str
    keys: dict[str, str]
    features: dict[str, str]
    ttl_seconds: float
    materialized_to: datetime | None
    services: list[str]


class ShownValue(msgspec.Struct):
    feature: str
    value: Any
    status: str
    age: float | None


def list_features(settings: Settings, name: str | None = None) -> list[ShownView]:
    """All applied views, or one by name, or those of one service."""
    store = open_store(settings)
    services = {
        service.name: {projection.name for projection in service.feature_view_projections}
        for service in store.list_feature_services()
    }
    shown = []
    for view in sorted(store.list_feature_views(), key=lambda view: view.name):
        if name is not None and name != view.name and view.name not in services.get(name, ()):
            continue
        intervals = view.materialization_intervals
        shown.append(
            ShownView(
                view=view.name,
                keys=entity_types(view),
                features={field.name: str(field.dtype) for field in view.features},
                ttl_seconds=view.ttl.total_seconds() if view.ttl else 0.0,
                materialized_to=max(interval[1] for interval in intervals) if intervals else None,
                services=sorted(service for service, views in services.items() if view.name in views),
            )
        )
    if name is not None and not shown:
        raise FeatureError(
            f"there is no view or service {name!r}",
            where=f"project {store.project}",
            fix="run `slipway features show` for what there is",
        )
    return shown


def only_service(settings: Settings) -> str:
    names = sorted(service.name for service in open_store(settings).list_feature_services())
    if len(names) == 1:
        return names[0]
    raise FeatureError(
        f"there are {len(names)} feature services: {', '.join(names) or 'none'}",
        fix="name one" if names else "run `slipway features apply`",
    )


def read_entity(settings: Settings, name: str, entity: Mapping[str, str]) -> list[ShownValue]:
    """Through the lookup, so that what is shown is what a model would be fed."""
    store = open_store(settings)
    if name in {service.name for service in store.list_feature_services()}:
        service = describe_service(store, name)
    else:
        list_features(settings, name)
        view = describe_view(store, name)
        service = FeatureService(name=name, project=store.project, digest="", views=(view,))
    lookup = FeatureLookup.of_service(service, settings)
    types: dict[str, str] = {}
    for view in service.views:
        types |= {view.join_keys[key]: dtype for key, dtype in view.key_types.items()}
    values = {column: [_typed(column, entity.get(column), types[column])] for column in types}
    answer = lookup.read_now(values, rows=1)
    lookup.close_now()
    shown = []
    for number, column in enumerate(lookup.columns):
        status = Status(int(answer.status[0, number]))
        age = float(answer.age[0, lookup.views.index(column.rpartition("__")[0])])
        value = answer.tensors[column][0] if status is Status.PRESENT else None
        shown.append(
            ShownValue(column, _plain(value), status.name.lower(), None if age != age else round(age, 3))
        )
    return shown


def _typed(column: str, text: str | None, dtype: str) -> Any:
    if text is None:
        return None
    try:
        if dtype in ("Int32", "Int64"):
            return int(text)
        if dtype == "UnixTimestamp":
            return datetime.fromisoformat(text)
        if dtype == "Bool":
            return {"true": True, "false": False}[text.lower()]
    except (ValueError, KeyError) as error:
        raise InvalidRequest(f"{column}={text!r} is no {dtype}") from error
    return text.encode() if dtype == "Bytes" else text


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else value
