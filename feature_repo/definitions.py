"""Everything that `slipway features apply` puts into the registry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from slipway.datasets import FEATURES, current_dataset
from slipway.errors import FeatureSourceError
from slipway.features.importing import import_feast
from slipway.objects import ObjectStore
from slipway.settings import Settings

if TYPE_CHECKING:
    from feast import FeatureService

SERVICE = "flight_delay"


def definitions(settings: Settings, *, objects: ObjectStore | None = None) -> list[Any]:
    """Entities, views and services over the current features dataset.

    The sources name its immutable prefix, so the registry says which data it means, and data that is built
    later comes into use by the next apply, in all views at once.
    """
    store = objects if objects is not None else ObjectStore.from_settings(settings)
    dataset = current_dataset(store, settings.uri(FEATURES))
    if dataset is None:
        raise FeatureSourceError(
            "no features were built yet",
            where=settings.uri(FEATURES),
            fix="run `slipway ingest` and `slipway features build`, then this again",
        )
    return definitions_at(dataset.uri)


def definitions_at(location: str) -> list[Any]:
    """The same over the tables below a given prefix or folder."""
    import_feast()
    from feature_repo.entities import ENTITIES
    from feature_repo.views import feature_views

    views = feature_views(location)
    return [*ENTITIES.values(), *views, flight_delay(views)]


def flight_delay(views: list[Any]) -> FeatureService:
    from feast import FeatureService

    return FeatureService(
        name=SERVICE,
        features=views,
        description="What is known an hour before its schedule about how late a flight will be.",
    )
