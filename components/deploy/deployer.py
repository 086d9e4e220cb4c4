"""What a place that serves models must be able to do."""

from __future__ import annotations

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


class Deployer(Protocol):
    """Local runtime or cluster: the deploy step knows no difference."""

    def current(self, name: str) -> Release | None:
        """What serves under this name now; None: nothing does."""

    def deploy(self, release: Release) -> Deployment:
        """Put a release to work and come back when it answers; DeployError if it does not get ready.

        Deploying what serves already is a no-op.
        """

    def withdraw(self, name: str) -> None:
        """Take the name out of service: the way back from a first deployment that failed."""
