"""snapshot: a training set by point-in-time joins, frozen on S3 under the digest of its inputs."""

from components.snapshot.component import take_snapshot, to_parquet
from components.snapshot.manifest import (
    DATA_FILE,
    Manifest,
    SnapshotResult,
    ViewSource,
    Window,
    read_manifest,
    read_rows,
)
from components.snapshot.sources import FeastSource, FeatureSource

__all__ = [
    "DATA_FILE",
    "FeastSource",
    "FeatureSource",
    "Manifest",
    "SnapshotResult",
    "ViewSource",
    "Window",
    "read_manifest",
    "read_rows",
    "take_snapshot",
    "to_parquet",
]
