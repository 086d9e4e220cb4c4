"""Slipway: raw events to an autoscaled ONNX endpoint, with every step proved on the way."""

import os

__version__ = "0.1.0"

# Nothing here reports to anybody. ONNX Runtime (from 1.31) and MLflow send usage to their makers unless told
# not to before they are imported; ONNX Runtime also opens a database in the home folder, which a read-only
# file system has not got, and keeps a thread that tries to send. Who wants either sets the variable to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

# The allocator of Polars reads this when Polars is imported. By default it gives memory back half a second
# after its use, and the next query faults it in again, page by page: 10 % of a point-in-time join's time.
os.environ.setdefault("_RJEM_MALLOC_CONF", "dirty_decay_ms:5000")
