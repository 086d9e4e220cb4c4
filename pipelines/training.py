"""The pipelines: train, evaluate, sweep, judge.

Caching: only `train` and `trial` may be answered from KFP's cache, because only they depend on nothing but
their arguments (a snapshot's address names its content). The others look at what stands in S3, the registry
or the cluster. Every step also knows by content what it made before, so running one again costs little and
changes nothing.

Retries: a second and third try after a pod was lost; none for verify, whose no is an answer, and none for
deploy, which has put the old version back by then.
"""

# No `from __future__ import annotations`: KFP reads the annotations of pipelines as objects.

from typing import Any

from kfp import dsl, kubernetes

from pipelines import steps

CONFIG_MAP = "slipway-settings"
SECRET = "slipway-credentials"  # noqa: S105 (a name, not a secret)
_SETTINGS = (
    "PROFILE",
    "S3_BUCKET",
    "S3_ENDPOINT",
    "S3_REGION",
    "TRACKING_URI",
    "PIPELINES_IMAGE",
    "SERVING_NAMESPACE",
)
_CREDENTIALS = ("ONLINE_URL", "FEATURES_REGISTRY", "S3_ACCESS_KEY", "S3_SECRET_KEY")

TRAIN_CONFIG = '{"model": {"kind": "boosting"}}'


def _on_cluster(task: Any, *, cpu: str, memory: str, retries: int = 2, cache: bool = False) -> Any:
    """Settings, resources, retries and caching of a step; the local runner heeds the last two."""
    task.set_caching_options(cache)
    task.set_cpu_request(cpu).set_memory_request(memory).set_memory_limit(memory)
    if retries:
        task.set_retry(num_retries=retries, backoff_duration="15s", backoff_factor=2.0)
    kubernetes.use_config_map_as_env(
        task, CONFIG_MAP, {f"SLIPWAY_{name}": f"SLIPWAY_{name}" for name in _SETTINGS}, optional=True
    )
    kubernetes.use_secret_as_env(
        task, SECRET, {f"SLIPWAY_{name}": f"SLIPWAY_{name}" for name in _CREDENTIALS}, optional=True
    )
    return task


def _snapshot(project: str, start: str, end: str) -> Any:
    return _on_cluster(steps.snapshot(project=project, start=start, end=end), cpu="2", memory="8Gi")


def _fitted(project: str, taken: Any, config: Any) -> Any:
    """The candidate's address."""
    fitted = _on_cluster(
        steps.train(project=project, snapshot=taken.outputs["Output"], config=config),
        cpu="4",
        memory="8Gi",
        cache=True,
    )
    return fitted.outputs["Output"]


def _judged(project: str, candidate: Any) -> Any:
    return _on_cluster(steps.evaluate(project=project, candidate=candidate), cpu="4", memory="8Gi")


def _proved(project: str, taken: Any, config: Any, online: bool, why: str) -> Any:
    """Train, judge, prove, register, deploy."""
    candidate = _fitted(project, taken, config)
    judged = _judged(project, candidate)
    proved = _on_cluster(
        steps.verify(
            project=project, candidate=candidate, evaluation=judged.outputs["Output"], online=online
        ),
        cpu="2",
        memory="4Gi",
        retries=0,
    )
    made = _on_cluster(steps.register(verified=proved.outputs["Output"], why=why), cpu="500m", memory="2Gi")
    return _on_cluster(steps.deploy(version=made.output, why=why), cpu="500m", memory="2Gi", retries=0)


def _finish() -> Any:
    return _on_cluster(steps.finish(), cpu="100m", memory="1Gi", retries=0)


@dsl.pipeline(
    name="slipway-train",
    description="Snapshot, train, evaluate, verify, register, deploy. A model that any gate does not pass is "
    "never registered; one that answers wrongly is never left serving.",
)
def train(
    start: str = "2013-01-02",
    end: str = "2013-09-15",
    project: str = "",
    config: str = TRAIN_CONFIG,
    online: bool = True,
    why: str = "scheduled training",
) -> None:
    """Train a model on a window and ship it if it passes every gate.

    Args:
        start: First day of the training window, such as 2013-01-02 (UTC).
        end: Day after the last one; the newest part of the window judges the model.
        project: Which project of the feature repository; empty for its only one.
        config: Model and split as JSON, such as {"model": {"kind": "logistic"}}; see docs/training.md.
        online: Whether the online store must hold what was trained on before the model ships.
        why: The reason for this run; it stands in the registry's record.
    """
    with dsl.ExitHandler(_finish()):
        _proved(project, _snapshot(project, start, end), config, online, why)


@dsl.pipeline(
    name="slipway-evaluate",
    description="Judge any registered version on any window, beside the champion on the same rows.",
)
def evaluate(
    start: str = "2013-09-15", end: str = "2013-11-01", version: str = "champion", project: str = ""
) -> None:
    """Judge a registered version on a window.

    Args:
        start: First day of the window (UTC).
        end: Day after the last one.
        version: A number, an alias (champion, challenger) or a digest.
        project: Which project of the feature repository; empty for its only one.
    """
    with dsl.ExitHandler(_finish()):
        taken = _snapshot(project, start, end)
        _on_cluster(
            steps.evaluate_version(project=project, version=version, snapshot=taken.outputs["Output"]),
            cpu="4",
            memory="8Gi",
        )


@dsl.pipeline(name="slipway-search", description="Try configurations in parallel; the best one.")
def search(project: str, snapshot: str, configs: list) -> str:
    """Part of sweep; a pipeline of its own because kfp's local runner hands the loop's item to every input of
    a loop that is another task's output, where here the snapshot is an input of the whole."""
    with dsl.ParallelFor(configs, parallelism=4) as config:
        tried = _on_cluster(
            steps.trial(project=project, snapshot=snapshot, config=config), cpu="4", memory="8Gi", cache=True
        )
    chosen = _on_cluster(
        steps.choose(trials=dsl.Collected(tried.output)), cpu="100m", memory="1Gi", retries=0
    )
    return chosen.output


@dsl.pipeline(
    name="slipway-sweep",
    description="Try configurations in parallel on the validation rows, then train, prove and ship the best.",
)
def sweep(
    configs: list = [  # noqa: B006 (KFP reads the default)
        '{"model": {"kind": "boosting", "learning_rate": 0.05, "leaves": 31}}',
        '{"model": {"kind": "boosting", "learning_rate": 0.08, "leaves": 31}}',
        '{"model": {"kind": "boosting", "learning_rate": 0.08, "leaves": 63}}',
        '{"model": {"kind": "logistic"}}',
    ],
    start: str = "2013-01-02",
    end: str = "2013-09-15",
    project: str = "",
    online: bool = True,
    why: str = "sweep",
) -> None:
    """Search over hyper-parameters.

    Args:
        configs: What to try: a list of configurations as JSON texts; four run at a time on a cluster.
        start: First day of the training window (UTC).
        end: Day after the last one; the newest part of the window judges the chosen model.
        project: Which project of the feature repository; empty for its only one.
        online: Whether the online store must hold what was trained on before the model ships.
        why: The reason for this run; it stands in the registry's record.
    """
    with dsl.ExitHandler(_finish()):
        taken = _snapshot(project, start, end)
        chosen = search(project=project, snapshot=taken.outputs["Output"], configs=configs)
        _proved(project, taken, chosen.output, online, why)


@dsl.pipeline(
    name="slipway-judge",
    description="Train a definition afresh and judge it by time and at random against what others published. "
    "Nothing is registered. As it stands: the question of the tidymodels tutorial on the same flights, asked "
    "with nothing that is only known later.",
)
def judge(
    start: str = "2013-01-02",
    end: str = "2014-01-01",
    project: str = "LATE_30",
    config: str = '{"split": {"test_from": "2013-09-15T04:00:00Z"}}',
) -> None:
    """Judge a definition against published figures.

    Args:
        start: First day of the window (UTC).
        end: Day after the last one.
        project: Which project of the feature repository; its `published` names the figures to beat.
        config: Model and split as JSON; `test_from` is where learning ends and judging begins.
    """
    with dsl.ExitHandler(_finish()):
        taken = _snapshot(project, start, end)
        fitted = _fitted(project, taken, config)
        judged = _judged(project, fitted)
        _on_cluster(
            steps.published(project=project, evaluation=judged.outputs["Output"]),
            cpu="100m",
            memory="1Gi",
            retries=0,
        )


PIPELINES = {"train": train, "evaluate": evaluate, "sweep": sweep, "judge": judge}
