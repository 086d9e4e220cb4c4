"""The deploy step: put a registered version to work, prove its answers, and make it the champion."""

from __future__ import annotations

import msgspec

from components.deploy.ask import check_answers
from components.deploy.deployer import Deployer, Release
from components.deploy.inference_service import InferenceServiceDeployer
from slipway.objects import ObjectStore
from slipway.registry import ModelVersion, Registry
from slipway.settings import Settings
from slipway.smoke import SMOKE_FILE, parse_smoke

CLUSTER_TOLERANCE = 1e-5
"""Relative: the nodes' processors may be of another kind than the one that trained."""


class Deployed(msgspec.Struct, frozen=True):
    name: str
    version: int
    digest: str
    url: str
    """Where the model answers: POST `url`/infer."""
    replaced: int | None
    """The version that was champion before; None for the first, and when nothing changed."""


def make_deployer(settings: Settings) -> Deployer:
    """The place where models of this profile serve."""
    if settings.profile == "local":
        from components.deploy.local import LocalDeployer

        return LocalDeployer(settings)
    return InferenceServiceDeployer(settings.serving.namespace)


def deploy(
    settings: Settings,
    version: ModelVersion,
    *,
    who: str | None = None,
    why: str,
    deployer: Deployer | None = None,
) -> Deployed:
    """Serve this version and make it the champion; if anything fails, all is as it was before.

    Outside the profile `local` it takes an approval by name (ApprovalMissing).
    """
    registry = Registry(settings)
    registry.check_approved(version)
    place = deployer if deployer is not None else make_deployer(settings)
    smoke_uri = f"{version.uri}{SMOKE_FILE}"
    smoke = parse_smoke(ObjectStore.from_settings(settings).get(smoke_uri), where=smoke_uri)
    tolerance = 0.0 if settings.profile == "local" else CLUSTER_TOLERANCE
    release = Release(name=version.name, digest=version.digest, uri=version.uri, run_id=version.run_id)
    former = place.current(version.name)

    def check(url: str, path: str) -> None:
        check_answers(url, path, smoke, tolerance=tolerance)

    deployment = place.deploy(release, check)
    try:
        move = registry.promote(version, who=who, why=why)
    except BaseException:
        # A champion that does not serve, or a server that is not champion: neither may stay.
        if former is not None and former.digest != version.digest:
            place.deploy(former, lambda url, path: None)
        raise
    return Deployed(
        name=version.name,
        version=version.version,
        digest=version.digest,
        url=deployment.url + deployment.path,
        replaced=move.source if move is not None else None,
    )
