"""From Feast's definitions to the contract: what a server needs to read features without Feast."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from slipway.contract import FeatureService, View, ViewField
from slipway.errors import FeatureError

if TYPE_CHECKING:
    import feast
    from feast import FeatureStore, FeatureView


def describe_service(
    store: FeatureStore,
    service: str | feast.FeatureService,
    *,
    on_unavailable: Literal["fail", "default"] = "fail",
) -> FeatureService:
    """The contract's form of an applied feature service, with the digest of its definition."""
    from feast.errors import FeastObjectNotFoundException

    name = service if isinstance(service, str) else service.name
    try:
        applied = store.get_feature_service(name)
    except FeastObjectNotFoundException as error:
        known = ", ".join(sorted(item.name for item in store.list_feature_services())) or "none"
        raise FeatureError(
            f"there is no feature service {name!r} in project {store.project!r}",
            where="the feature registry",
            fix=f"run `slipway features apply`, or name one of: {known}",
        ) from error
    views = tuple(_describe_projection(store, name, item) for item in applied.feature_view_projections)
    return FeatureService(
        name=name,
        project=store.project,
        digest=definition_digest(views),
        views=views,
        on_unavailable=on_unavailable,
    )


def describe_view(store: FeatureStore, view: str | FeatureView) -> View:
    """One applied feature view by its own name, with all its features."""
    applied = store.get_feature_view(view) if isinstance(view, str) else view
    join_keys = entity_types(applied)
    return View(
        name=applied.name,
        join_keys={key: key for key in join_keys},
        key_types=join_keys,
        fields=tuple(ViewField(field.name, str(field.dtype)) for field in applied.features),
        ttl_seconds=applied.ttl.total_seconds() if applied.ttl else 0.0,
    )


def entity_types(view: FeatureView) -> dict[str, str]:
    """Join key → Feast's name of its type; empty for a view without entities."""
    from feast.feature_view import DUMMY_ENTITY_ID

    return {
        column.name: str(column.dtype) for column in view.entity_columns if column.name != DUMMY_ENTITY_ID
    }


def definition_digest(views: tuple[View, ...]) -> str:
    """Of what the features are, not of where they lie: the same service on a laptop and on a cluster
    has the same digest, and so has one whose views or entities were only named in another order.
    """
    canonical = [
        msgspec.structs.replace(view, fields=tuple(sorted(view.fields, key=lambda field: field.name)))
        for view in sorted(views, key=lambda view: view.name)
    ]
    return hashlib.sha256(msgspec.json.encode(canonical, order="sorted")).hexdigest()


def _describe_projection(store: FeatureStore, service: str, projection: Any) -> View:
    from feast import FeatureView

    applied = store.registry.get_any_feature_view(projection.name, store.project)
    if not isinstance(applied, FeatureView):
        raise FeatureError(
            f"{projection.name!r} is a {type(applied).__name__}, which only Feast can compute",
            where=f"feature service {service}",
            fix="move its transformation into the ONNX graph, or materialize it as a feature view",
        )
    if projection.version_tag is not None:
        raise FeatureError(
            f"{projection.name!r} is taken at version {projection.version_tag}; the online store keeps "
            "only the current one",
            where=f"feature service {service}",
            fix="take the view without a version",
        )
    plain = describe_view(store, applied)
    alias = projection.name_alias or projection.name
    return msgspec.structs.replace(
        plain,
        name=alias,
        source=None if alias == projection.name else projection.name,
        join_keys={key: projection.join_key_map.get(key, key) for key in plain.join_keys},
        features=tuple(field.name for field in projection.features),
    )
