"""Serving on this machine: the embedded platform's runtime, with a folder a version.

The runtime answers for the version whose files are the newest, and for every other under its digest. So a
release is staged with the oldest time there is, asked under its digest, and only then made the newest:
whoever asks meanwhile gets the answers of the former one.
"""

from __future__ import annotations

import os
import shutil
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from components.deploy.ask import model_path, request, wait_until
from components.deploy.deployer import Check, Deployment, Release
from slipway.contract import CONTRACT_FILE, MODEL_FILE, prefix_digest
from slipway.errors import DeployError, ObjectCorrupt, ObjectNotFound
from slipway.local import Platform
from slipway.objects import ObjectStore
from slipway.settings import Settings

KEEP = 2
"""Versions that stay at hand: the one that serves, and the one before it."""


class LocalDeployer:
    def __init__(self, settings: Settings, *, ready_within: float = 30.0) -> None:
        self._store = ObjectStore.from_settings(settings)
        self._settings = settings
        self._platform = Platform.of(settings)
        self._ready_within = ready_within

    def current(self, name: str) -> Release | None:
        serving = [path for path in self._versions(name) if _order(path) > 0]
        if not serving:
            return None
        newest = max(serving, key=_order)
        return Release(
            name=name, digest=newest.name, uri=self._settings.uri("models", name, newest.name) + "/"
        )

    def deploy(self, release: Release, check: Check) -> Deployment:
        former = self.current(release.name)
        folder = self._folder(release.name) / release.digest
        fresh = not folder.exists()
        if fresh:
            self._fetch(release, folder)
        serves = former is not None and former.digest == release.digest
        try:
            url = self._serve(release)
            check(url, model_path(release.name, release.digest))
            if not serves:
                _set_times(folder, time.time_ns())
                self._load(url, release)
                check(url, model_path(release.name))
        except BaseException:
            # What served before has newer files again; a version that was never asked for goes altogether.
            if not serves:
                _set_times(folder, 0)
                if fresh:
                    shutil.rmtree(folder, ignore_errors=True)
                self._reload_quietly(release.name)
            raise
        self._prune(release.name)
        return Deployment(release, url, model_path(release.name))

    def _fetch(self, release: Release, folder: Path) -> None:
        """Bring a version here, whole and verified, or not at all."""
        names = [info.uri.removeprefix(release.uri) for info in self._store.list(release.uri)]
        if CONTRACT_FILE not in names or MODEL_FILE not in names:
            raise ObjectNotFound(
                "there is no published model",
                where=release.uri,
                fix="`slipway models show` lists what there is",
            )
        partial = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
        try:
            with ThreadPoolExecutor(4) as pool:
                fetched = pool.map(
                    lambda name: self._store.download(release.uri + name, partial / name), names
                )
                digests = {name: info.digest or "" for name, info in zip(names, fetched, strict=True)}
            if prefix_digest(digests) != release.digest:
                raise ObjectCorrupt(
                    f"its files have the digest {prefix_digest(digests)}",
                    where=release.uri,
                    fix="restore the prefix from the bucket's version history",
                )
            _set_times(partial, 0)
            partial.replace(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _serve(self, release: Release) -> str:
        """The address of a runtime that has loaded this version."""
        self._platform.up()
        url = self._platform.serving_url()
        self._load(url, release)
        return url

    def _load(self, url: str, release: Release) -> None:
        answer = request(url, "POST", f"/v2/repository/models/{release.name}/load", {})
        if answer.status != 200:
            raise DeployError(
                f"the runtime refuses it: {answer.error}",
                where=f"{url}{model_path(release.name, release.digest)}",
            )

        def problem() -> str | None:
            ready = request(url, "GET", f"{model_path(release.name, release.digest)}/ready")
            return None if ready.status == 200 else ready.error

        wait_until(problem, within=self._ready_within, where=url)

    def _reload_quietly(self, name: str) -> None:
        try:
            request(self._platform.serving_url(), "POST", f"/v2/repository/models/{name}/load", {})
        except DeployError:
            return  # it is down; the next up reads the folders as they are now

    def _prune(self, name: str) -> None:
        for path in sorted(self._versions(name), key=_order, reverse=True)[KEEP:]:
            shutil.rmtree(path, ignore_errors=True)

    def _folder(self, name: str) -> Path:
        return self._platform.models / name

    def _versions(self, name: str) -> list[Path]:
        folder = self._folder(name)
        if not folder.is_dir():
            return []
        return [path for path in folder.iterdir() if not path.name.startswith(".")]


def _order(folder: Path) -> int:
    return (folder / CONTRACT_FILE).stat().st_mtime_ns


def _set_times(folder: Path, moment: int) -> None:
    for path in folder.iterdir():
        os.utime(path, ns=(moment, moment))
