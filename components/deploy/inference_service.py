"""Serving on a cluster: a KServe InferenceService, applied server-side and watched until it is ready."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from components.deploy.ask import model_path
from components.deploy.deployer import Check, Deployment, Release
from slipway.errors import DeployError

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

GROUP = "serving.kserve.io"
VERSION = "v1beta1"
FIELD_MANAGER = "slipway"
DIGEST = "slipway.dev/model-digest"
RUN = "slipway.dev/run-id"
URI = "slipway.dev/model-uri"
RUNTIME = "slipway-onnx"
SERVICE_ACCOUNT = "slipway-serving"

_TIMEOUT = (5.0, 30.0)
_FAILED_TRANSITIONS = {"BlockedByFailedLoad", "InvalidSpec"}


class InferenceServiceDeployer:
    """Owns which model an InferenceService serves, and no other field: scaling stays with the specs."""

    def __init__(
        self,
        namespace: str,
        *,
        api: ApiClient | None = None,
        ready_within: float = 600.0,
        poll_every: float = 2.0,
        progress: Callable[[str], None] | None = None,
    ) -> None:
        self._namespace = namespace
        self._api = api if api is not None else _connect()
        self._ready_within = ready_within
        self._poll_every = poll_every
        self._progress = progress or (lambda message: None)

    def current(self, name: str) -> Release | None:
        found = self._get(name)
        notes = (found or {}).get("metadata", {}).get("annotations", {})
        if DIGEST not in notes:
            return None
        return Release(name=name, digest=notes[DIGEST], uri=notes[URI], run_id=notes.get(RUN, ""))

    def deploy(self, release: Release, check: Check) -> Deployment:
        former = self.current(release.name)
        try:
            deployment = Deployment(release, self._apply(release), model_path(release.name))
            check(deployment.url, deployment.path)
        except BaseException:
            # KServe keeps the old pods until the new ones are ready, so this is quick: it undoes the wish.
            if former is None:
                self._request("DELETE", release.name, missing_ok=True)
            elif former.digest != release.digest:
                self._apply(former)
            raise
        return deployment

    def _apply(self, release: Release) -> str:
        """Ask for this release and wait until it serves; answers its address."""
        applied = self._request(
            "PATCH",
            release.name,
            body=manifest(release, self._namespace),
            # We own these fields by name; another manager that set them meant to point at another model.
            query=[("fieldManager", FIELD_MANAGER), ("force", "true")],
            headers={"Content-Type": "application/apply-patch+yaml"},
        )
        return self._wait(release.name, applied["metadata"]["generation"])

    def _wait(self, name: str, generation: int) -> str:
        deadline = time.monotonic() + self._ready_within
        told = ""
        while True:
            found = self._get(name) or {}
            ready, reason = readiness(found, generation)
            if ready:
                return str(found["status"]["url"])
            if reason.startswith("failed"):
                raise DeployError(
                    reason, where=self._place(name), fix=f"kubectl describe isvc {name} tells more"
                )
            if reason != told:
                self._progress(f"{name}: {reason}")
                told = reason
            if time.monotonic() >= deadline:
                raise DeployError(
                    f"not ready after {self._ready_within:.0f} s: {reason}",
                    where=self._place(name),
                    fix=f"kubectl -n {self._namespace} describe isvc {name}; its pods' events name the cause",
                )
            time.sleep(self._poll_every)

    def _place(self, name: str) -> str:
        return f"InferenceService {self._namespace}/{name}"

    def _get(self, name: str) -> dict[str, Any] | None:
        return self._request("GET", name, missing_ok=True)

    def _request(
        self,
        method: str,
        name: str,
        *,
        body: object = None,
        query: list[tuple[str, str]] | None = None,
        headers: Mapping[str, str] | None = None,
        missing_ok: bool = False,
    ) -> Any:
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        try:
            return self._api.call_api(
                f"/apis/{GROUP}/{VERSION}/namespaces/{self._namespace}/inferenceservices/{name}",
                method,
                query_params=query or [],
                header_params={"Accept": "application/json", **(headers or {})},
                body=body,
                auth_settings=["BearerToken"],
                response_type="object",
                _return_http_data_only=True,
                _request_timeout=_TIMEOUT,
            )
        except ApiException as error:
            if error.status == 404 and missing_ok:
                return None
            raise self._explain(error.status, error.body or error.reason, name) from error
        except HTTPError as error:
            raise DeployError(
                f"the Kubernetes API does not answer: {error}",
                where=self._place(name),
                fix="see that `kubectl version` reaches the cluster",
            ) from error

    def _explain(self, status: int, message: str, name: str) -> DeployError:
        fixes = {
            401: "log in again: the credentials of this kubeconfig or service account are not accepted",
            403: f"let this account get, patch and delete inferenceservices in {self._namespace}",
            404: "install KServe and create the namespace first: manifests/ has both",
            422: "the cluster's KServe does not take this spec: compare its version with docs/serving.md",
        }
        return DeployError(
            f"the Kubernetes API answered {status}: {message.strip()}",
            where=self._place(name),
            fix=fixes.get(status),
        )


def manifest(release: Release, namespace: str) -> dict[str, Any]:
    """The fields that Slipway owns. KServe makes a new revision of every change of storageUri."""
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "InferenceService",
        "metadata": {
            "name": release.name,
            "namespace": namespace,
            "annotations": {DIGEST: release.digest, URI: release.uri, RUN: release.run_id},
        },
        "spec": {
            "predictor": {
                "serviceAccountName": SERVICE_ACCOUNT,
                "model": {
                    "modelFormat": {"name": "onnx"},
                    "protocolVersion": "v2",
                    "runtime": RUNTIME,
                    "storageUri": release.uri,
                },
            }
        },
    }


def readiness(found: Mapping[str, Any], generation: int) -> tuple[bool, str]:
    """Whether this generation serves; if not, why, beginning with `failed` where waiting will not help."""
    status = found.get("status", {})
    if status.get("observedGeneration", 0) < generation:
        return False, "waiting for KServe to take it up"
    model = status.get("modelStatus", {})
    transition = model.get("transitionStatus", "")
    if transition in _FAILED_TRANSITIONS:
        failure = model.get("lastFailureInfo", {})
        return (
            False,
            f"failed ({transition}): {failure.get('reason', '')} {failure.get('message', '')}".rstrip(),
        )
    conditions = {item["type"]: item for item in status.get("conditions", ())}
    ready = conditions.get("Ready", {})
    if ready.get("status") == "True" and transition in ("", "UpToDate"):
        return True, "ready"
    waiting = [
        f"{name}: {item.get('reason') or 'not yet'} {item.get('message', '')}".strip()
        for name, item in conditions.items()
        if item.get("status") != "True" and name != "Ready"
    ]
    return False, "; ".join(waiting) or transition or "waiting for its first condition"


def _connect() -> ApiClient:
    from kubernetes import client, config

    try:
        config.load_config()
    except config.ConfigException as error:
        raise DeployError(
            f"there is no cluster to deploy to: {error}",
            fix="set KUBECONFIG, or use the profile local, which serves on this machine",
        ) from error
    return client.ApiClient()
