"""What MLflow keeps of a training: parameters, metrics, pictures and the environment."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from components.provenance import git_commit, libraries
from components.train.candidate import TrainingRecord

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from components.train.component import Fitted


def log_training(client: MlflowClient, record: TrainingRecord, fitted: Fitted, label: Any, size: int) -> None:
    from mlflow.entities import Metric, Param, RunTag
    from mlflow.utils.time import get_current_time_millis

    now = get_current_time_millis()
    parameters = {f"model.{name}": value for name, value in msgspec.structs.asdict(record.model).items()}
    parameters |= {f"split.{name}": value for name, value in msgspec.structs.asdict(record.split).items()}
    parameters |= {"snapshot": record.snapshot_digest, "inputs": len(record.plan.columns)}
    metrics = dict(record.metrics) | {"threshold": record.threshold, "rounds": record.rounds, "bytes": size}
    metrics |= {f"rows_{name}": count for name, count in record.rows.items()}
    tags = {
        "slipway.model": record.name,
        "mlflow.source.git.commit": git_commit(),
    }
    client.log_batch(
        record.run_id,
        metrics=[Metric(name, float(value), now, 0) for name, value in metrics.items() if value == value],
        params=[Param(name, str(value)) for name, value in parameters.items()],
        tags=[RunTag(name, value) for name, value in tags.items()],
    )
    with tempfile.TemporaryDirectory() as folder:
        environment = "".join(f"{name}=={version}\n" for name, version in sorted(libraries().items()))
        Path(folder, "environment.txt").write_text(environment)
        Path(folder, "training.json").write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=1))
        _pictures(Path(folder), fitted, label)
        client.log_artifacts(record.run_id, folder)


def _pictures(folder: Path, fitted: Fitted, label: Any) -> None:
    """Validation answers by class, and how the thresholds would do; evaluate draws the rest."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for value, name, colour in ((0, "negative", "#6b7280"), (1, "positive", "#c2410c")):
        axes.hist(
            fitted.held_out[label == value], bins=40, range=(0, 1), alpha=0.65, label=name, color=colour
        )
    axes.axvline(fitted.threshold, color="#111827", linestyle="--", linewidth=1)
    axes.annotate(
        f"threshold {fitted.threshold:.3f}",
        (fitted.threshold, 1),
        xycoords=("data", "axes fraction"),
        xytext=(4, -12),
        textcoords="offset points",
    )
    axes.set(xlabel="predicted probability", ylabel="validation rows", title="Answers on the validation rows")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(folder / "validation.png", dpi=120)
    plt.close(figure)
