"""The boto3 client, and its errors in our words."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import boto3
from botocore import exceptions as boto
from botocore.config import Config

from slipway.aws import OTHER_REGION_FIX
from slipway.errors import (
    ObjectConflict,
    ObjectDenied,
    ObjectError,
    ObjectNotFound,
    ObjectStoreUnavailable,
)
from slipway.settings import S3

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_NOT_FOUND = {"NoSuchKey", "NoSuchBucket", "NoSuchVersion", "NotFound", "404"}
_DENIED = {
    "AccessDenied",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "InvalidToken",
    "RequestTimeTooSkewed",
    "403",
    "401",
}
_OTHER_REGION = {"AuthorizationHeaderMalformed", "PermanentRedirect", "IllegalLocationConstraintException"}
_CONFLICT = {"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}
_UNREACHABLE = (
    boto.EndpointConnectionError,
    boto.ConnectionError,
    boto.HTTPClientError,
    boto.ConnectTimeoutError,
    boto.ReadTimeoutError,
)


def make_client(settings: S3) -> S3Client:
    """The client for these settings: one a process, shared by its threads.

    Making one reads and compiles the description of S3, 0.2 s of CPU, and each would have connections of its
    own. A forked child gets another, for connections do not bear to be shared.
    """
    with _one_at_a_time:
        return _client(settings, os.getpid())


_one_at_a_time = threading.Lock()


@functools.lru_cache(maxsize=16)
def _client(settings: S3, process: int) -> S3Client:
    return boto3.session.Session().client(
        "s3",
        endpoint_url=settings.endpoint,
        region_name=settings.region,
        aws_access_key_id=settings.access_key,
        aws_secret_access_key=settings.secret_key,
        aws_session_token=settings.session_token,
        config=Config(
            connect_timeout=settings.connect_timeout,
            read_timeout=settings.read_timeout,
            retries={"mode": "standard", "total_max_attempts": settings.attempts},
            max_pool_connections=32,
            # Other endpoints than AWS seldom have a DNS name per bucket, and not all of them read the
            # trailing checksums that boto3 adds by default. We verify SHA-256 ourselves.
            s3={"addressing_style": "path" if settings.endpoint else "auto"},
            request_checksum_calculation="when_required" if settings.endpoint else "when_supported",
            response_checksum_validation="when_required" if settings.endpoint else "when_supported",
        ),
    )


@contextmanager
def translated(uri: str, endpoint: str | None) -> Iterator[None]:
    """Raise what boto3 raises as one of ours, with the address and the remedy."""
    try:
        yield
    except boto.ClientError as error:
        raise _from_answer(error, uri, endpoint) from error
    except (boto.NoCredentialsError, boto.PartialCredentialsError) as error:
        raise ObjectDenied(
            f"no credentials: {error}",
            where=uri,
            fix="set SLIPWAY_S3_ACCESS_KEY and SLIPWAY_S3_SECRET_KEY, or use an AWS profile or role",
        ) from error
    except _UNREACHABLE as error:
        raise ObjectStoreUnavailable(
            f"S3 does not answer: {error}",
            where=uri,
            fix=f"see that {endpoint or 'AWS'} can be reached from here"
            + ("; `slipway status` shows the embedded server" if endpoint else ""),
        ) from error
    except boto.BotoCoreError as error:
        raise ObjectError(str(error), where=uri) from error


def error_code(error: boto.ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _from_answer(error: boto.ClientError, uri: str, endpoint: str | None) -> ObjectError:
    code = error_code(error)
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    message = error.response.get("Error", {}).get("Message") or code
    if code == "NoSuchBucket":
        return ObjectNotFound(
            "there is no such bucket",
            where=uri,
            fix="create it, or set SLIPWAY_S3_BUCKET to one that is there",
        )
    if code in _NOT_FOUND or status == 404:
        return ObjectNotFound("there is no such object", where=uri)
    if code in _CONFLICT or status in (409, 412):
        return ObjectConflict(f"somebody else wrote it first ({code})", where=uri)
    if code in _OTHER_REGION:
        return ObjectError(
            f"the bucket is in another region: {message} ({code})",
            where=uri,
            fix=OTHER_REGION_FIX,
        )
    if code in _DENIED or status in (401, 403):
        return ObjectDenied(
            f"{endpoint or 'AWS'} refuses us: {message} ({code})",
            where=uri,
            fix="check the access key, the secret key and the rights of this bucket",
        )
    if status >= 500 or code in ("SlowDown", "RequestTimeout", "Throttling"):
        return ObjectStoreUnavailable(
            f"S3 answered {status} {code}: {message}", where=uri, fix="try again later"
        )
    return ObjectError(f"S3 answered {status} {code}: {message}", where=uri)
