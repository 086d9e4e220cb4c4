"""Submitting a pipeline to a KFP API, with the parameters that a local run takes."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from typing import Any

import msgspec

from slipway.errors import SlipwayError
from slipway.settings import Settings

TIMEOUT = (5.0, 60.0)
"""Seconds to connect, and to wait for an answer: KFP stores the run before it answers."""
_FIXES = {
    400: "compare KFP's version with that of the package kfp here, and the parameters with the pipeline's",
    401: "set SLIPWAY_PIPELINES_TOKEN, or SLIPWAY_PIPELINES_COOKIES with those of a session at its gateway",
    403: "ask for the right to create runs in the namespace that SLIPWAY_PIPELINES_NAMESPACE names",
    404: "see that the address is KFP's API (http://…:8888 or its gateway)",
}


class Submitted(msgspec.Struct, frozen=True):
    pipeline: str
    run_id: str
    url: str


def submit(name: str, arguments: Mapping[str, Any], settings: Settings, address: str) -> Submitted:
    """Start a run in the experiment that tracking names; it goes on without us."""
    from kfp_server_api import ApiException
    from urllib3.exceptions import HTTPError

    from pipelines.training import PIPELINES

    try:
        # kfp prints links to stdout, where our own answer goes.
        with redirect_stdout(sys.stderr):
            client = _connect(settings, address)
            namespace = _namespace(client, settings)
            run = client.create_run_from_pipeline_func(
                PIPELINES[name],
                arguments=dict(arguments),
                experiment_name=settings.tracking.experiment,
                namespace=namespace,
            )
    except ApiException as error:
        raise SlipwayError(
            f"KFP answered {error.status}: {error.reason} {_message(error.body)}".rstrip(),
            where=address,
            fix=_FIXES.get(error.status, "its own log says more: kubectl logs deployment/ml-pipeline"),
        ) from error
    except (HTTPError, OSError) as error:
        raise SlipwayError(
            f"KFP does not answer: {error}",
            where=address,
            fix="see that the address can be reached: kubectl port-forward svc/ml-pipeline 8888:8888",
        ) from error
    return Submitted(name, run.run_id, f"{address.rstrip('/')}/#/runs/details/{run.run_id}")


def _connect(settings: Settings, address: str) -> Any:
    import kfp

    own = settings.pipelines
    client = kfp.Client(
        host=address,
        # Without one it would ask the API itself, five times, and wait for ever each time.
        namespace=own.namespace or "none",
        existing_token=own.token,
        cookies=own.cookies,
        ssl_ca_cert=own.ca_file,
    )
    # It waits for ever, and has no setting for it: give each of its requests a limit.
    rest = client._run_api.api_client.rest_client
    send = rest.request

    def request(*arguments: Any, _request_timeout: Any = None, **options: Any) -> Any:
        return send(*arguments, _request_timeout=_request_timeout or TIMEOUT, **options)

    rest.request = request
    return client


def _namespace(client: Any, settings: Settings) -> str | None:
    """Ours where KFP tells users apart. Where it does not, it refuses requests that name any."""
    if client._healthz_api.healthz_service_get_healthz().multi_user:
        return settings.pipelines.namespace
    client._context_setting["namespace"] = ""
    return None


def _message(body: object) -> str:
    """What the server says, out of gRPC's envelope."""
    try:
        return str(msgspec.json.decode(body or "")["message"])  # type: ignore[arg-type]
    except (msgspec.MsgspecError, KeyError, TypeError):
        return str(body or "")[:500]
