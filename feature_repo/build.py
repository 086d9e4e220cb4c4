"""Compute the feature tables from the current raw dataset and publish them as one."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from slipway.datasets import FEATURES, RAW, Dataset, Manifest, current_dataset, made_from, publish_dataset
from slipway.errors import DataError
from slipway.objects import ObjectStore
from slipway.settings import Settings
from slipway.source_code import code_digest
from slipway.tables import TableWriter, read_table

Report = Callable[[str, int, int], None]
"""Told what is being done now, how many steps are done, and of how many."""
_CODE = ("feature_repo/tables.py", "feature_repo/windows.py")


def build_features(
    settings: Settings,
    *,
    objects: ObjectStore | None = None,
    report: Report = lambda step, done, total: None,
) -> Dataset:
    """Publish all feature tables; a no-op when they were made from the same data by the same code.

    They lie below one prefix that never changes, and one pointer makes all of them current at once: no
    reader ever sees the tables of two builds together.
    """
    store = objects if objects is not None else ObjectStore.from_settings(settings)
    raw = current_dataset(store, settings.uri(RAW))
    if raw is None:
        raise DataError(
            "no data was ingested yet", where=settings.uri(RAW), fix="run `slipway ingest`, then this again"
        )
    inputs = {"raw": raw.digest, "code": code_digest(*_CODE)}
    if (standing := made_from(store, settings.uri(FEATURES), inputs)) is not None:
        return standing

    from feature_repo.tables import TABLES, TIME

    total = len(TABLES) + 2
    report("reading", 0, total)
    sources = {name: read_table(store, raw, name) for name in {table for table, _, _ in TABLES.values()}}
    with tempfile.TemporaryDirectory(prefix="slipway-features-") as folder:
        writer = TableWriter(Path(folder))
        for done, (view, (table, keys, compute)) in enumerate(TABLES.items(), start=1):
            report(view, done, total)
            writer.add(view, compute(sources[table]), time=TIME, order=keys)
        report("publishing", total - 1, total)
        manifest = Manifest(name="features", inputs=inputs, tables=writer.tables)
        return publish_dataset(store, settings.uri(FEATURES), manifest, writer.files)
