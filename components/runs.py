"""MLflow runs that end: with their work, or, where that was killed, by whoever comes next.

A process that is killed cannot say so, and MLflow would show its run as running for ever. So each run says
who works on it, and the next training, or the exit handler of the pipeline, ends those whose owner is surely
gone: a process of this very machine that is no more, or a pod of the pipeline run that has just ended.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import msgspec

from slipway.local.launch import identity

if TYPE_CHECKING:
    from mlflow import MlflowClient

OWNER = "slipway.owner"
AT_ONCE = 1000


class Owner(msgspec.Struct, frozen=True):
    """The process that works on a run."""

    host: str
    processes: str
    """Which processes it can see: a container has numbers of its own."""
    pid: int
    identity: str

    @classmethod
    def here(cls) -> Owner:
        return cls(socket.gethostname(), _numbering(), os.getpid(), identity(os.getpid()) or "")

    def surely_gone(self, pipeline_run: str = "") -> bool:
        """False for whatever cannot be told from here."""
        if pipeline_run and self.host.startswith(f"{pipeline_run}-"):
            return True
        if (self.host, self.processes) != (socket.gethostname(), _numbering()):
            return False
        return identity(self.pid) != self.identity


def _numbering() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


@contextmanager
def working_on(client: MlflowClient, experiment_id: str, name: str, tags: Mapping[str, str]) -> Iterator[Any]:
    """A run of our own; however the body ends, the run ends with it."""
    owner = msgspec.json.encode(Owner.here()).decode()
    run = client.create_run(experiment_id, run_name=name, tags={**tags, OWNER: owner})
    try:
        yield run
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit)
        # The error that is on its way says more than that MLflow does not answer any more.
        with suppress(Exception):
            client.set_terminated(run.info.run_id, "KILLED" if stopped else "FAILED")
        raise
    client.set_terminated(run.info.run_id)


def end_abandoned(client: MlflowClient, experiment_id: str, pipeline_run: str = "") -> list[str]:
    """End the runs whose owner is surely gone, and answer their ids.

    `pipeline_run` is the name of a KFP run whose steps have all ended: its pods are named after it.
    """
    found = client.search_runs([experiment_id], "attributes.status = 'RUNNING'", max_results=AT_ONCE)
    ended = []
    for run in found:
        with suppress(KeyError, msgspec.MsgspecError):
            if msgspec.json.decode(run.data.tags[OWNER], type=Owner).surely_gone(pipeline_run):
                client.set_terminated(run.info.run_id, "KILLED")
                ended.append(run.info.run_id)
    return ended
