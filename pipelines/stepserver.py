"""The process that the steps of a local run are forked from: it has imported what they need, once.

`python -m pipelines.stepserver DESCRIPTOR`, started by pipelines/warm.py with one end of a socket. For each
byte that comes with a descriptor, it forks a child, at once (NOW) or when all is imported (WARM). The child
reads a Request from that descriptor (a line of JSON), runs kfp's own executor as
`python -m kfp.dsl.executor_main` would, and answers with one byte, the exit code. No answer: it was killed. A
further byte from the runner, or its end, interrupts the child. The process ends when the runner does.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import runpy
import select
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path

import msgspec

from slipway.features.importing import import_feast

# What snapshot needs, the first step of every pipeline, and then the others in their order: the server loads
# them while snapshot works. They only load: none starts work of its own that a fork would lose.
FIRST = ("components.snapshot.step", "kfp.dsl.executor_main")
LATER = (
    "components.train.step",
    "sklearn.ensemble",
    "sklearn.linear_model",
    "sklearn.pipeline",
    "skl2onnx",
    "pandas",
    "mlflow",
    # What MLflow loads when it opens a database costs as much again as its own import.
    "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.store.model_registry.sqlalchemy_store",
    "matplotlib.pyplot",
    "components.evaluate.step",
    "onnxruntime",
    "components.verify.step",
    "components.register.step",
    "components.deploy.step",
    "components.deploy.local",
    "components.sweep.step",
    "components.finish.step",
)


NOW, WARM = b"+", b"."
"""When the child is forked."""

GRACE_SECONDS = 10.0
"""For a step to clean up once it is interrupted."""


class Request(msgspec.Struct, frozen=True):
    module: str
    """Another module to run in place of kfp's executor, as `python -m` would; empty for a step."""
    source: str
    """The component's code, as the compiled pipeline holds it; for a step."""
    arguments: list[str]
    environment: dict[str, str]
    folder: str
    log: str
    """Where the step's output goes."""


def serve(channel: socket.socket) -> None:
    # Before kfp is imported: its runtime needs no compiler and no client, as in a pod.
    os.environ["_KFP_RUNTIME"] = "true"
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    # Ctrl-C reaches the steps themselves, which have cleaning up to do.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import_feast()
    for name in FIRST:
        _load(name)
    patient: list[socket.socket] = []
    for name in LATER:
        _load(name)
        if select.select([channel], [], [], 0)[0] and not _take(channel, patient):
            return
    for connection in patient:
        _fork(channel, connection)
    while _take(channel):
        pass


def _load(name: str) -> None:
    # What is not installed fails in the step that needs it, which then says so.
    with contextlib.suppress(ImportError):
        importlib.import_module(name)


def _take(channel: socket.socket, patient: list[socket.socket] | None = None) -> bool:
    """Take a request and fork its child, or keep it for later; False when the runner is gone."""
    asked, descriptors, _, _ = socket.recv_fds(channel, 1, 1)
    if not asked:
        return False
    connection = socket.socket(fileno=descriptors[0])
    connection.set_inheritable(False)
    if asked == WARM and patient is not None:
        patient.append(connection)
    else:
        _fork(channel, connection)
    return True


def _fork(channel: socket.socket, connection: socket.socket) -> None:
    with connection:
        if os.fork() == 0:
            channel.close()
            _child(connection)


def _child(connection: socket.socket) -> None:
    """Run one step and end the process, without what the server would do at its own end."""
    code = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _interrupted)
        with connection.makefile("rb") as stream:
            request = msgspec.json.decode(stream.readline(), type=Request)
        threading.Thread(target=_listen_to_runner, args=(connection,), daemon=True).start()
        code = _execute(request)
        connection.sendall(bytes([code & 0xFF]))
    finally:
        os._exit(code)


def _interrupted(number: int, frame: object) -> None:
    """Once: a Ctrl-C comes from the terminal and from the runner, and cleaning up must not be cut short."""
    for other in (signal.SIGINT, signal.SIGTERM):
        signal.signal(other, signal.SIG_IGN)
    raise KeyboardInterrupt


def _listen_to_runner(connection: socket.socket) -> None:
    """It says nothing more unless the step is to stop; and nobody waits for the step of one that is gone."""
    with contextlib.suppress(OSError):
        connection.recv(1)
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(GRACE_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


def _execute(request: Request) -> int:
    log = os.open(request.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    os.environ.clear()
    os.environ.update(request.environment, _KFP_RUNTIME="true")
    os.chdir(request.folder)
    # As for `python -m`: a project of one's own lies in the folder from which slipway is called.
    sys.path.insert(0, request.folder)
    try:
        if request.module:
            sys.argv = [request.module, *request.arguments]
            runpy.run_module(request.module, run_name="__main__", alter_sys=True)
            return 0
        with tempfile.TemporaryDirectory() as folder:
            module = Path(folder, "ephemeral_component.py")
            module.write_text(request.source)
            sys.argv = ["executor_main", "--component_module_path", str(module), *request.arguments]
            from kfp.dsl.executor_main import executor_main

            executor_main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        for stream in (sys.stdout, sys.stderr):
            # A module may have closed it.
            with contextlib.suppress(ValueError, OSError):
                stream.flush()
    return 0


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
