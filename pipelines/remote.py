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


class Submitted(msgspec.Struct, frozen=True):
    pipeline: str
    run_id: str
    url: str


def submit(name: str, arguments: Mapping[str, Any], settings: Settings, address: str) -> Submitted:
    """Start a run in the experiment that tracking names; it goes on without us."""
    import kfp
    from kfp_server_api import ApiException
    from urllib3.exceptions import HTTPError

    from pipelines.training import PIPELINES

    try:
        # kfp prints links to stdout, where our own answer goes.
        with redirect_stdout(sys.stderr):
            client = kfp.Client(host=address, namespace=settings.pipelines.namespace)
            _with_timeout(client)
            run = client.create_run_from_pipeline_func(
                PIPELINES[name],
                arguments=dict(arguments),
                experiment_name=settings.tracking.experiment,
                namespace=settings.pipelines.namespace,
            )
    except ApiException as error:
        raise SlipwayError(
            f"KFP answered {error.status}: {error.reason} {error.body or ''}".rstrip(),
            where=address,
            fix="see that the address is KFP's API (http://…:8888 or its gateway) and that you may use it",
        ) from error
    except (HTTPError, OSError) as error:
        raise SlipwayError(
            f"KFP does not answer: {error}",
            where=address,
            fix="see that the address can be reached: kubectl port-forward svc/ml-pipeline 8888:8888",
        ) from error
    return Submitted(name, run.run_id, f"{address.rstrip('/')}/#/runs/details/{run.run_id}")


def _with_timeout(client: Any) -> None:
    """kfp waits for ever, and has no setting for it: give each of its requests a limit."""
    rest = client._run_api.api_client.rest_client
    send = rest.request

    def request(*arguments: Any, _request_timeout: Any = None, **options: Any) -> Any:
        return send(*arguments, _request_timeout=_request_timeout or TIMEOUT, **options)

    rest.request = request
