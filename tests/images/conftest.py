"""Real containers of the two images, by docker or podman: `make images test-images`."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from uuid import uuid4

import pytest

TOOL = os.environ.get("IMAGE_TOOL", "docker").split()

# As strict as a cluster's "restricted" profile: what an image needs beyond this, it would not get there.
RESTRICTED = ("--read-only", "--cap-drop=all", "--security-opt=no-new-privileges", "--network=host")


def call(*arguments: str, timeout: float = 300) -> str:
    done = subprocess.run([*TOOL, *arguments], capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, f"{arguments}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout.strip()


Start = Callable[..., str]


@pytest.fixture
def start() -> Iterator[Start]:
    """Containers that end with the test: (image, options, arguments) → the container's name."""
    names: list[str] = []

    def run(image: str, options: list[str], *arguments: str) -> str:
        names.append(f"slipway-test-{uuid4().hex[:12]}")
        call("run", "--detach", f"--name={names[-1]}", *RESTRICTED, *options, image, *arguments)
        return names[-1]

    yield run
    for name in names:
        subprocess.run([*TOOL, "rm", "--force", name], capture_output=True, timeout=60)
