"""A Feast online store on Valkey or Redis: one packed blob per entity and view.

What it does that Feast's Redis store does not: it reads all views of a request in one MGET, keeps the time
of every value, answers NOT_FOUND for an unknown entity and OUTSIDE_MAX_AGE past the view's TTL, never lets
an older event overwrite a later one, and refuses values that were written under another schema.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from itertools import chain
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from feast import Entity, FeatureView, RepoConfig
from feast.infra.online_stores.online_store import OnlineStore
from feast.infra.supported_async_methods import SupportedAsyncMethods
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import FeastConfigBaseModel

from slipway.clock import now
from slipway.errors import FeatureError, FeatureSchemaError, FeatureSourceError
from slipway.features.arrow import column_of, microseconds, pack_table, table_keys
from slipway.features.keys import project_prefix, refuse_key_types, schemas_key, view_prefix
from slipway.features.packing import Packing
from slipway.features.protos import entity_bytes, pack_rows, unpack_values
from slipway.features.response import ViewRead, plan_view, ttl_micros
from slipway.features.server import Server
from slipway.features.service import entity_types
from slipway.settings import load_settings

BLOCK_ROWS = 25_000
"""Rows of a table that are packed, then written, at a time."""

Row = tuple[EntityKey, Mapping[str, Value], datetime, datetime | None]
ReadRow = tuple[datetime | None, dict[str, Value] | None]


class PackedOnlineStoreConfig(FeastConfigBaseModel):
    type: Literal["slipway.features.online.PackedOnlineStore"] = "slipway.features.online.PackedOnlineStore"
    url: str | None = None
    """redis:// or rediss://, with user and password in it; TLS options as redis-py takes them in a URL.
    None: this and the timeout, the cluster mode and the clock are those of Slipway's settings.
    """
    timeout: float = 0.25
    """Seconds for one read."""
    write_timeout: float = 30.0
    """Seconds for one step of materialization or deletion."""
    cluster: bool = False
    clock: str = "wall"
    """`wall`, or the RFC 3339 time that is the now of TTLs."""


class PackedOnlineStore(OnlineStore):
    # Feast would import six other stores to find out.
    _versioned_read_supported = False

    def __init__(self) -> None:
        self._servers: dict[tuple[Any, ...], Server] = {}
        self._packings: dict[tuple[Any, ...], Packing] = {}
        self._announced: set[tuple[str, int]] = set()
        self._of_process: PackedOnlineStoreConfig | None = None

    @property
    def async_supported(self) -> SupportedAsyncMethods:
        return SupportedAsyncMethods(read=True, write=True)

    # Writing

    def online_write_batch(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: Sequence[Row],
        progress: Callable[[int], Any] | None,
    ) -> None:
        packing = self.packing(table)
        prefix = view_prefix(config.project, table.name)
        keyed = [(entity_bytes(row[0], where=packing.where), row) for row in data]
        kept = [(prefix + entity + b"}", row) for entity, row in keyed if entity is not None]
        event = np.array([_micros(row[2]) for _, row in kept], np.int64)
        created = np.array([_micros(row[3]) if row[3] else 0 for _, row in kept], np.int64)
        blobs = packing.pack(pack_rows(packing, [row[1] for _, row in kept]), event, created)
        self._announce(config, table, packing)
        self._server(config).write([key for key, _ in kept], blobs, progress)

    async def online_write_batch_async(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: Sequence[Row],
        progress: Callable[[int], Any] | None,
    ) -> None:
        import asyncio

        await asyncio.to_thread(self.online_write_batch, config, table, data, progress)

    def write_arrow(
        self, config: RepoConfig, view: FeatureView, table: pa.Table, progress: Callable[[int], Any] | None
    ) -> int:
        """Write a table with a column for each join key, field and timestamp; returns the rows written.
        Rows without an entity are left out: there is nobody whom they could be asked for.
        """
        packing = self.packing(view)
        source = view.batch_source
        if source is None:
            raise FeatureSourceError("the view has no batch source", where=packing.where)
        where = f"{packing.where}, column {source.timestamp_field}"
        times = column_of(table, source.timestamp_field, packing.where)
        if times.null_count:
            raise FeatureSourceError(f"{times.null_count} rows have no event time", where=where)
        event = microseconds(times, where=where)
        created = np.zeros(len(event), np.int64)
        if source.created_timestamp_column:
            created = microseconds(
                column_of(table, source.created_timestamp_column, packing.where),
                where=f"{packing.where}, column {source.created_timestamp_column}",
            )
        self._announce(config, view, packing)
        server = self._server(config)
        written: list[Future[int]] = []
        # Block by block: a row as Python's bytes takes several times what it takes in Arrow. One is packed
        # while the server works on the one before.
        with ThreadPoolExecutor(1, "slipway-write") as writer:
            for start in range(0, table.num_rows, BLOCK_ROWS):
                block = slice(start, start + BLOCK_ROWS)
                rows = table.slice(start, BLOCK_ROWS)
                keys = table_keys(config.project, view.name, packing.key_types, rows, where=packing.where)
                blobs = packing.pack(pack_table(packing, rows), event[block], created[block])
                if None in keys:
                    named = [(key, blob) for key, blob in zip(keys, blobs, strict=True) if key is not None]
                    keys, blobs = [key for key, _ in named], [blob for _, blob in named]
                if written:
                    written[-1].result()
                written.append(writer.submit(server.write, keys, blobs, progress))  # type: ignore[arg-type]
        return sum(count.result() for count in written)

    # Reading

    def online_read(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: Sequence[EntityKey],
        requested_features: Sequence[str] | None = None,
    ) -> list[ReadRow]:
        keys = self._keys(config, table, entity_keys)
        blobs = self._server(config).read([key for key in keys if key is not None])
        return self._rows(config, table, _spread(keys, blobs), requested_features)

    async def online_read_async(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: Sequence[EntityKey],
        requested_features: Sequence[str] | None = None,
    ) -> list[ReadRow]:
        keys = self._keys(config, table, entity_keys)
        blobs = await self._server(config).read_async([key for key in keys if key is not None])
        return self._rows(config, table, _spread(keys, blobs), requested_features)

    def _read_features_per_fv(self, config: RepoConfig, grouped_refs: Any, *rest: Any) -> None:
        reads, finish = self._plan(config, grouped_refs, *rest)
        finish(self._server(config).read(list(chain.from_iterable(read.keys for read in reads))))

    async def _read_features_per_fv_async(self, config: RepoConfig, grouped_refs: Any, *rest: Any) -> None:
        reads, finish = self._plan(config, grouped_refs, *rest)
        finish(await self._server(config).read_async(list(chain.from_iterable(read.keys for read in reads))))

    def _plan(
        self,
        config: RepoConfig,
        grouped_refs: Sequence[tuple[FeatureView, list[str]]],
        join_key_values: dict[str, list[Value]],
        entity_name_to_join_key_map: Mapping[str, str],
        response: Any,
        full_feature_names: bool,
        include_feature_view_version_metadata: bool,
    ) -> tuple[list[ViewRead], Callable[[Sequence[bytes | None]], None]]:
        """All views of the request as one read; Feast offers this step to its stores for that purpose."""
        reads = []
        for table, requested in grouped_refs:
            packing = self.packing(table)
            prefix = view_prefix(config.project, table.name)
            entities = _entity_values(table, packing.key_types, join_key_values)
            reads.append(plan_view(packing, prefix, table, requested, entities))
        clock = now(self._settings(config).clock)

        def finish(blobs: Sequence[bytes | None]) -> None:
            start = 0
            for read in reads:
                end = start + len(read.keys)
                found = blobs[start:end]
                if not read.answer_clean(found, clock, response, full_feature_names):
                    self._refuse_other_schema(config, read.packing, found, read.table.name)
                    read.answer(found, clock, response, full_feature_names)
                if include_feature_view_version_metadata:
                    read.add_version(response)
                start = end

        return reads, finish

    def _keys(
        self, config: RepoConfig, table: FeatureView, entity_keys: Sequence[EntityKey]
    ) -> list[bytes | None]:
        prefix = view_prefix(config.project, table.name)
        where = f"view {table.name}"
        parts = [entity_bytes(key, where=where) for key in entity_keys]
        return [None if part is None else prefix + part + b"}" for part in parts]

    def _rows(
        self,
        config: RepoConfig,
        table: FeatureView,
        blobs: Sequence[bytes | None],
        requested: Sequence[str] | None,
    ) -> list[ReadRow]:
        """Feast's form of an answer knows found and not found only: a stale row is not found, and its
        time says why.
        """
        packing = self.packing(table)
        self._refuse_other_schema(config, packing, blobs, table.name)
        records = packing.read(blobs)
        found = records["digest"] != 0
        names = [name for name in (requested or packing.order) if name in packing.types]
        present = found[:, None] & ~packing.nulls(records)
        columns = [
            unpack_values(packing, name, records, blobs, present[:, packing.bit[name]]) for name in names
        ]
        stale = stale_rows(table, records["event"], now(self._settings(config).clock))
        rows: list[ReadRow] = []
        for at, (known, old, event) in enumerate(
            zip(found.tolist(), stale.tolist(), records["event"].tolist(), strict=True)
        ):
            values = {name: column[at] for name, column in zip(names, columns, strict=True)}
            moment = datetime.fromtimestamp(event // 1_000_000, UTC).replace(microsecond=event % 1_000_000)
            rows.append((None, None) if not known else (moment, None if old else values))
        return rows

    def _refuse_other_schema(
        self, config: RepoConfig, packing: Packing, blobs: Sequence[bytes | None], view: str
    ) -> None:
        records = packing.read(blobs)
        digests = records["digest"]
        strange = int(np.count_nonzero((digests != packing.digest) & (digests != 0)))
        if strange:
            raise FeatureSchemaError(
                f"{strange} of {len(blobs)} values were written under another schema: "
                + self._differences(config, packing, blobs),
                where=f"view {view}, online store",
                fix="run `slipway features materialize`, which writes them anew; what was pushed "
                "with a later event time than the rows of the source is to be pushed again",
            )

    def _differences(self, config: RepoConfig, packing: Packing, blobs: Sequence[bytes | None]) -> str:
        known = self._server(config).recall(schemas_key(config.project))
        digests = {blob[:8] for blob in blobs if blob is not None}
        parts = []
        for digest in sorted(digests - {packing.digest.to_bytes(8, "little")}):
            schema = known.get(digest.hex().encode())
            parts.append(_difference(json.loads(schema), packing) if schema else f"unknown ({digest.hex()})")
        return "; ".join(parts) or "the values are damaged"

    # Infrastructure

    def update(
        self,
        config: RepoConfig,
        tables_to_delete: Sequence[FeatureView],
        tables_to_keep: Sequence[FeatureView],
        entities_to_delete: Sequence[Entity],
        entities_to_keep: Sequence[Entity],
        partial: bool,
    ) -> None:
        """Refuses at apply time what cannot be kept, and removes the values of deleted views."""
        for table in tables_to_keep:
            if hasattr(table, "entity_columns"):
                self._announce(config, table, self.packing(table))
        self._delete(config, [view_prefix(config.project, table.name) for table in tables_to_delete])

    def teardown(self, config: RepoConfig, tables: Sequence[FeatureView], entities: Sequence[Entity]) -> None:
        # All that is the project's: Feast names neither its stream views here nor on-demand ones.
        self._delete(config, [project_prefix(config.project)])

    def _delete(self, config: RepoConfig, prefixes: Sequence[bytes]) -> None:
        if prefixes:
            self._announced.clear()
            self._server(config).delete(prefixes, project_prefix(config.project))

    async def initialize(self, config: RepoConfig) -> None:
        self._server(config)

    async def close(self) -> None:
        for server in self._servers.values():
            await server.close()
        self._servers.clear()

    # Shared

    def packing(self, table: FeatureView) -> Packing:
        types = entity_types(table)
        fields = tuple((field.name, str(field.dtype)) for field in table.features)
        key = (table.name, fields, tuple(types.items()))
        if key not in self._packings:
            where = f"view {table.name}"
            refuse_key_types(types, where=where)
            self._packings[key] = Packing(fields, types, where=where)
        return self._packings[key]

    def _announce(self, config: RepoConfig, table: FeatureView, packing: Packing) -> None:
        """Leave the schema beside the values, so that a reader with another can name the difference."""
        if (config.project, packing.digest) not in self._announced:
            schema = {"view": table.name, "fields": packing.types, "keys": packing.key_types}
            self._server(config).remember(
                schemas_key(config.project),
                packing.digest.to_bytes(8, "little").hex().encode(),
                json.dumps(schema, sort_keys=True).encode(),
            )
            self._announced.add((config.project, packing.digest))

    def _settings(self, config: RepoConfig) -> PackedOnlineStoreConfig:
        settings = config.online_store
        if not isinstance(settings, PackedOnlineStoreConfig):
            raise FeatureError(f"the online store is configured as {type(settings).__name__}")
        if settings.url is not None:
            return settings
        if self._of_process is None:
            ours = load_settings()
            self._of_process = settings.model_copy(
                update={
                    "url": ours.online.url,
                    "timeout": ours.online.timeout,
                    "cluster": ours.online.cluster,
                    "clock": ours.features.clock,
                }
            )
        return self._of_process

    def _server(self, config: RepoConfig) -> Server:
        settings = self._settings(config)
        key = (settings.url, settings.timeout, settings.write_timeout, settings.cluster)
        if key not in self._servers:
            self._servers[key] = Server(
                settings.url or "",
                timeout=settings.timeout,
                write_timeout=settings.write_timeout,
                cluster=settings.cluster,
            )
        return self._servers[key]


def stale_rows(table: FeatureView, event: Any, clock: float) -> Any:
    """Which event times lie further back than the view's TTL; one exactly as old as it is not stale."""
    ttl = ttl_micros(table)
    return round(clock * 1e6) - event > ttl if ttl else np.zeros(len(event), np.bool_)


def _entity_values(
    table: FeatureView, join_keys: Collection[str], given: Mapping[str, Sequence[Value]]
) -> Mapping[str, Sequence[Value]]:
    """The values of the view's join keys, each under the name that its alias has in the request. Feast's own
    function takes a column of the plain name as well, if another view asks for it, and whichever comes last.
    """
    if not join_keys:
        return given
    aliases = table.projection.join_key_map
    return {key: given[aliases.get(key, key)] for key in join_keys if aliases.get(key, key) in given}


def _micros(moment: datetime) -> int:
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    seconds, micros = divmod(aware.astimezone(UTC).replace(tzinfo=UTC).timestamp(), 1)
    return int(seconds) * 1_000_000 + round(micros * 1e6)


def _spread(keys: Sequence[bytes | None], blobs: Sequence[bytes | None]) -> list[bytes | None]:
    left = iter(blobs)
    return [None if key is None else next(left) for key in keys]


def _difference(schema: Mapping[str, Any], packing: Packing) -> str:
    old, new = {**schema["fields"], **schema["keys"]}, {**packing.types, **packing.key_types}
    parts = [f"without {name}" for name in sorted(new.keys() - old.keys())]
    parts += [f"with {name}" for name in sorted(old.keys() - new.keys())]
    parts += [
        f"{name} as {old[name]}, not {new[name]}"
        for name in sorted(old.keys() & new.keys())
        if old[name] != new[name]
    ]
    return f"{', '.join(parts)}"
