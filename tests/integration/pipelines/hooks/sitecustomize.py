"""Loaded by the process that steps are forked from: lets a test stop a step at a point of its choosing.

KILL_AT="train write 5" sends SIGKILL to the step `train` before its fifth write to S3; "move" is a move of an
alias in the registry. HOLD_AT does no more than wait there, once the file HOLD_FILE is written. Without them
nothing happens.
"""

import functools
import os
import signal
import time
from contextlib import contextmanager
from pathlib import Path

from components import stepping
from slipway.objects import ObjectStore
from slipway.registry import Registry

running = ""
seen = 0


def stopped_before(what, function):
    @functools.wraps(function)
    def call(*arguments, **options):
        global seen
        for name, stop in (("KILL_AT", kill), ("HOLD_AT", hold)):
            if os.environ.get(name, "").startswith(f"{running} {what} "):
                seen += 1
                if seen == int(os.environ[name].split()[2]):
                    stop()
        return function(*arguments, **options)

    return call


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def hold():
    Path(os.environ["HOLD_FILE"]).write_text(str(os.getpid()))
    time.sleep(120)


def named(step):
    @contextmanager
    def call(name):
        global running
        running = name
        with step(name) as this:
            yield this

    return call


stepping.step = named(stepping.step)
ObjectStore._write = stopped_before("write", ObjectStore._write)
Registry.move = stopped_before("move", Registry.move)
