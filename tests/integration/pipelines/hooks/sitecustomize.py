"""Loaded by the process that steps are forked from: lets a test kill a step at a point of its choosing.

KILL_AT="train write 5" sends SIGKILL to the step `train` before its fifth write to S3; "move" is a move of an
alias in the registry. Without it nothing happens.
"""

import functools
import os
import signal
from contextlib import contextmanager

from components import stepping
from slipway.objects import ObjectStore
from slipway.registry import Registry

running = ""
seen = 0


def killed_before(what, function):
    @functools.wraps(function)
    def call(*arguments, **options):
        global seen
        if os.environ.get("KILL_AT", "").startswith(f"{running} {what} "):
            seen += 1
            if seen == int(os.environ["KILL_AT"].split()[2]):
                os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)

    return call


def named(step):
    @contextmanager
    def call(name):
        global running
        running = name
        with step(name) as this:
            yield this

    return call


stepping.step = named(stepping.step)
ObjectStore._write = killed_before("write", ObjectStore._write)
Registry.move = killed_before("move", Registry.move)
