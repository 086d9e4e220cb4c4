"""One store, one shape, in a process of its own: prints its times and its peak memory as JSON.

Runs in our environment and in that of the peers, so it imports nothing of ours there.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from datetime import timedelta
from typing import Any

FEATURES = [f"f{number}" for number in range(10)]


def bare_polars(task: dict[str, Any]) -> Any:
    """The limit: read all, sort, join; no TTL, no ties, no Feast."""
    import polars as pl

    options = {
        "aws_endpoint_url": task["endpoint"],
        "aws_access_key_id": task["access_key"],
        "aws_secret_access_key": task["secret_key"],
        "aws_region": "us-east-1",
        "aws_allow_http": "true",
    }

    def ask(rows: Any) -> Any:
        history = pl.scan_parquet(task["path"], storage_options=options).collect().sort("ts")
        return (
            pl.from_pandas(rows)
            .sort("event_timestamp")
            .join_asof(history, left_on="event_timestamp", right_on="ts", by="key", check_sortedness=False)
            .to_pandas()
        )

    return ask


def feast_store(task: dict[str, Any]) -> Any:
    if task["store"].startswith("slipway."):
        # As all of Slipway does; the check of types at run time is Feast's.
        from slipway.features.importing import import_feast

        import_feast()
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
    from feast.types import Float64, Int64

    if task["store"] == "duckdb":
        _reach_s3_from_duckdb(task)
    folder = tempfile.mkdtemp()
    store = FeatureStore(
        config=RepoConfig(
            project="bench",
            registry=f"{folder}/registry.db",
            provider="local",
            offline_store={"type": task["store"]},
            online_store={"type": "sqlite", "path": f"{folder}/online.db"},
            entity_key_serialization_version=3,
        )
    )
    key = Entity(name="key", join_keys=["key"], value_type=ValueType.INT64)
    view = FeatureView(
        name="v",
        entities=[key],
        ttl=timedelta(days=365),
        schema=[Field(name="key", dtype=Int64)]
        + [Field(name=name, dtype=Float64 if number < 7 else Int64) for number, name in enumerate(FEATURES)],
        source=FileSource(path=task["path"], timestamp_field="ts", s3_endpoint_override=task["endpoint"]),
        online=False,
    )
    store.apply([key, view])

    def ask(rows: Any) -> Any:
        return store.get_historical_features(rows, [f"v:{name}" for name in FEATURES]).to_df()

    return ask


def _reach_s3_from_duckdb(task: dict[str, Any]) -> None:
    """Feast's duckdb store ignores the endpoint and downloads an extension: put right from outside."""
    import ibis

    site = next(path for path in sys.path if path.endswith("site-packages"))
    connection = ibis.duckdb.connect(extension_directory=f"{site}/duckdb_ext/extensions")
    connection.raw_sql(
        f"LOAD httpfs; SET s3_endpoint='{task['endpoint'].removeprefix('http://')}'; SET s3_use_ssl=false; "
        f"SET s3_url_style='path'; SET s3_region='us-east-1'; "
        f"SET s3_access_key_id='{task['access_key']}'; SET s3_secret_access_key='{task['secret_key']}'"
    )
    ibis.set_backend(connection)


def main() -> None:
    task = json.loads(sys.stdin.read())
    os.environ.update(
        AWS_ACCESS_KEY_ID=task["access_key"],
        AWS_SECRET_ACCESS_KEY=task["secret_key"],
        AWS_DEFAULT_REGION="us-east-1",
        SLIPWAY_S3_ENDPOINT=task["endpoint"],
        SLIPWAY_S3_ACCESS_KEY=task["access_key"],
        SLIPWAY_S3_SECRET_KEY=task["secret_key"],
    )
    import pandas as pd

    ask = bare_polars(task) if task["store"] == "bare polars" else feast_store(task)
    rows = pd.read_parquet(task["entities"])
    seconds, answered = [], 0
    for _ in range(task["repeats"]):
        fresh = rows.copy()
        began = time.perf_counter()
        answered = len(ask(fresh))
        seconds.append(time.perf_counter() - began)
        if seconds[-1] > 20:
            break  # once is enough
    print(json.dumps({"seconds": seconds, "rows": answered, "peak_mib": peak_mib()}))


def peak_mib() -> float:
    """Of this program alone: `ru_maxrss` begins with that of the process which started it."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")) / 1024


if __name__ == "__main__":
    main()
