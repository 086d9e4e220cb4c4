"""What the command line and the pipelines do with the feature store as a whole: apply and materialize."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec

from slipway.clock import now
from slipway.errors import FeatureError, SlipwayError
from slipway.features.store import open_store
from slipway.settings import Settings

if TYPE_CHECKING:
    from feast import FeatureStore

BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
_KINDS = {
    "data_sources": "DataSource",
    "entities": "Entity",
    "feature_views": "FeatureView",
    "on_demand_feature_views": "OnDemandFeatureView",
    "feature_services": "FeatureService",
}


class Applied(msgspec.Struct):
    project: str
    entities: list[str]
    views: list[str]
    services: dict[str, str]
    """Name → digest of the definition, as contracts carry it."""
    removed: list[str]


class Materialized(msgspec.Struct):
    view: str
    rows: int
    """Written; rows older than what was there are not counted."""
    start: datetime
    end: datetime
    seconds: float


def apply_definitions(settings: Settings, definitions: Sequence[Any]) -> Applied:
    """Make the registry and the online store hold exactly these; what is gone from them is removed."""
    from slipway.features.service import describe_service

    store = open_store(settings)
    kept = {(_kind(item), item.name) for item in definitions}
    # Sources come with their views; Feast drops those that no view uses.
    kept |= {("DataSource", item.batch_source.name) for item in definitions if hasattr(item, "batch_source")}
    gone = [item for item in _registered(store) if (_kind(item), item.name) not in kept]
    with _quiet():
        store.apply(list(definitions), objects_to_delete=gone, partial=not gone)
    services = sorted(item.name for item in store.list_feature_services())
    return Applied(
        project=store.project,
        entities=sorted(item.name for item in store.list_entities()),
        views=sorted(item.name for item in store.list_feature_views()),
        services={name: describe_service(store, name).digest for name in services},
        removed=sorted(f"{_kind(item)} {item.name}" for item in gone),
    )


def materialize(
    settings: Settings,
    *,
    views: Sequence[str] = (),
    start: datetime | None = None,
    end: datetime | None = None,
    incremental: bool = False,
    report: Callable[[str, int, int], None] = lambda view, done, total: None,
) -> list[Materialized]:
    """Write the latest values of the views into the online store.

    Without `start`, all that can still be valid at `end`: the view's TTL back from there, or everything for
    a view without one. That is also right after late or rebuilt data, and old events never overwrite later
    ones. `incremental` goes on where the last time ended.
    """
    store = open_store(settings)
    until = end or datetime.fromtimestamp(now(settings.features.clock), UTC)
    known = {view.name: view for view in store.list_feature_views() if view.online}
    unknown = [name for name in views if name not in known]
    if unknown:
        raise FeatureError(
            f"there is no view {', '.join(unknown)} to materialize",
            where=f"project {store.project}",
            fix=f"run `slipway features apply`, or name some of: {', '.join(sorted(known)) or 'none'}",
        )
    if not known:
        raise FeatureError(
            "no views are applied", where=f"project {store.project}", fix="run `slipway features apply`"
        )
    done: list[Materialized] = []
    names = list(views) or sorted(known)
    for number, name in enumerate(names):
        report(name, number, len(names))
        done.append(_materialize_view(store, known[name], start, until, incremental))
    report("", len(names), len(names))
    return done


def _materialize_view(
    store: FeatureStore, view: Any, start: datetime | None, until: datetime, incremental: bool
) -> Materialized:
    import time

    began = time.monotonic()
    since = start
    if since is None:
        since = until - view.ttl if view.ttl else BEGINNING
        if incremental and view.materialization_intervals:
            since = max(since, max(interval[1] for interval in view.materialization_intervals))
    if since >= until:
        since = until - timedelta(microseconds=1)
    provider: Any = store._get_provider()
    engine = provider.batch_engine
    with _quiet():
        try:
            store.materialize(since, until, feature_views=[view.name])
        except SlipwayError:
            raise
        except Exception as error:
            raise FeatureError(f"cannot be materialized: {error}", where=f"view {view.name}") from error
    return Materialized(
        view=view.name,
        rows=int(getattr(engine, "written", {}).get(view.name, 0)),
        start=since,
        end=until,
        seconds=round(time.monotonic() - began, 3),
    )


def _registered(store: FeatureStore) -> Iterator[Any]:
    for kind in _KINDS:
        for item in getattr(store, f"list_{kind}")():
            # Feast's own entity of views without entities is not ours to remove.
            if item.name != "__dummy":
                yield item


def _kind(item: Any) -> str:
    from feast import Entity, FeatureService, OnDemandFeatureView
    from feast.base_feature_view import BaseFeatureView
    from feast.data_source import DataSource

    for kind in (OnDemandFeatureView, BaseFeatureView, Entity, FeatureService, DataSource):
        if isinstance(item, kind):
            return "FeatureView" if kind is BaseFeatureView else kind.__name__
    return type(item).__name__


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Feast prints its progress to stdout, where our answers go."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
