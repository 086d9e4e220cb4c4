"""The fixture that all integration tests share: its settings reach real servers."""

from __future__ import annotations

import boto3
import pytest
import redis
from botocore.config import Config
from botocore.exceptions import ClientError

from slipway.settings import Settings


def client(settings: Settings, **changed: str):
    keys = {"aws_access_key_id": settings.s3.access_key, "aws_secret_access_key": settings.s3.secret_key}
    return boto3.client(
        "s3",
        endpoint_url=settings.s3.endpoint,
        region_name=settings.s3.region,
        config=Config(connect_timeout=3, read_timeout=60, retries={"total_max_attempts": 1}),
        **{**keys, **changed},
    )


def test_s3_keeps_versions(platform: Settings) -> None:
    s3 = client(platform)
    first = s3.put_object(Bucket=platform.s3.bucket, Key="shared/a", Body=b"one")["VersionId"]
    second = s3.put_object(Bucket=platform.s3.bucket, Key="shared/a", Body=b"two")["VersionId"]
    read = [
        s3.get_object(Bucket=platform.s3.bucket, Key="shared/a", VersionId=version)["Body"].read()
        for version in (first, second)
    ]
    assert read == [b"one", b"two"]


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"aws_secret_access_key": "wrong"}, "SignatureDoesNotMatch"),
        ({"aws_access_key_id": "SLIP0000"}, "InvalidAccessKeyId"),
    ],
)
def test_wrong_s3_credentials_are_refused(platform: Settings, changed: dict[str, str], code: str) -> None:
    with pytest.raises(ClientError) as refused:
        client(platform, **changed).list_objects_v2(Bucket=platform.s3.bucket)
    assert refused.value.response["Error"]["Code"] == code
    with pytest.raises(ClientError):
        client(platform, **changed).put_object(Bucket=platform.s3.bucket, Key="shared/b", Body=b"")


def test_the_online_store_asks_for_its_password(platform: Settings) -> None:
    with redis.Redis.from_url(platform.online.url, socket_timeout=60) as store:
        assert store.set("shared", "value") is True
        assert store.get("shared") == b"value"
    address = platform.online.url.rpartition("@")[2]
    for url in (f"redis://{address}", f"redis://:wrong@{address}"):
        with (
            redis.Redis.from_url(url, socket_timeout=60) as stranger,
            pytest.raises(redis.AuthenticationError),
        ):
            stranger.get("shared")
