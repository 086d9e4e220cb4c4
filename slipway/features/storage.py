"""Our S3 settings in the words that Polars understands. Imports neither Polars nor Feast."""

from __future__ import annotations

from typing import Any

from slipway.settings import S3


def storage_options(s3: S3) -> dict[str, Any]:
    """What `polars.scan_parquet(…, storage_options=)` needs to reach this S3.

    Without an access key nothing is said about credentials, and Polars walks the standard AWS chain. Retries
    are bounded by time too: by default Polars tries for 30 s, and a server that is not there should not take
    that long to be told.
    """
    options: dict[str, Any] = {
        "aws_region": s3.region,
        "connect_timeout": f"{s3.connect_timeout}s",
        "timeout": f"{s3.read_timeout}s",
        "max_retries": s3.attempts - 1,
        "retry_timeout_ms": round(s3.read_timeout * 1000),
    }
    if s3.endpoint is not None:
        options["aws_endpoint_url"] = s3.endpoint
        options["aws_allow_http"] = str(s3.endpoint.startswith("http://")).lower()
    if s3.access_key is not None and s3.secret_key is not None:
        options["aws_access_key_id"] = s3.access_key
        options["aws_secret_access_key"] = s3.secret_key
        if s3.session_token is not None:
            options["aws_session_token"] = s3.session_token
    return options
