"""What a place that serves models must be able to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec


class Release(msgspec.Struct, frozen=True):
    """One model version, as it is put to work."""

    name: str
    digest: str
    uri: str
    """The immutable prefix that holds it."""
    run_id: str = ""


class Deployment(msgspec.Struct, frozen=True):
    """A release that serves, and where it can be asked."""

    release: Release
    url: str
    path: str
    """Where the model answers below `url`."""


Check = Callable[[str, str], None]
"""Asks the server at an address and path; raises where the answers are not those of the release."""


class Deployer(Protocol):
    """Local runtime or cluster: the deploy step knows no difference."""

    def current(self, name: str) -> Release | None:
        """What serves under this name now; None: nothing does."""

    def deploy(self, release: Release, check: Check) -> Deployment:
        """Put a release to work and come back when it serves and its check has passed.

        If anything fails, what served before serves again, and the failure is raised. Deploying what serves
        already only checks it.
        """
