"""Which region AWS's own tools would use."""

from __future__ import annotations

from pathlib import Path

import pytest

from slipway import aws
from slipway.errors import SettingsError
from slipway.settings import load_settings

CONFIG = """
[default]
region = eu-central-1
s3 =
    addressing_style = path

[profile night]
region = ap-south-1

[profile no-region]
output = json
"""


@pytest.mark.parametrize(
    ("variables", "found"),
    [
        ({}, "eu-central-1"),
        ({"AWS_REGION": "us-west-2", "AWS_DEFAULT_REGION": "us-west-1"}, "us-west-2"),
        ({"AWS_DEFAULT_REGION": "us-west-1", "AWS_PROFILE": "night"}, "us-west-1"),
        ({"AWS_REGION": "", "AWS_PROFILE": "night"}, "ap-south-1"),
        ({"AWS_PROFILE": "default"}, "eu-central-1"),
        ({"AWS_PROFILE": "no-region"}, None),
        ({"AWS_PROFILE": "unknown"}, None),
        ({"AWS_CONFIG_FILE": "/nonexistent"}, None),
    ],
)
def test_variables_go_before_the_profile(
    tmp_path: Path, variables: dict[str, str], found: str | None
) -> None:
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "config").write_text(CONFIG)
    environment = {"HOME": str(tmp_path), **variables}
    assert aws.region(environment) == found
    assert load_settings(environment, directory=tmp_path).s3.region == (found or "us-east-1")
    ours = {**environment, "SLIPWAY_S3_REGION": "ours"}
    assert load_settings(ours, directory=tmp_path).s3.region == "ours"


KEYS = """
[default]
aws_access_key_id = day
aws_secret_access_key = secret%1

[night]
aws_access_key_id = night
aws_secret_access_key = dark
aws_session_token = for-an-hour
"""
CONFIG_KEYS = """
[profile old]
aws_access_key_id = old
aws_secret_access_key = worn

[profile role-of-the-machine]
region = eu-west-1

[profile single]
sso_session = corporate
"""


@pytest.mark.parametrize(
    ("variables", "found"),
    [
        ({}, aws.Credentials("day", "secret%1")),
        ({"AWS_PROFILE": "night"}, aws.Credentials("night", "dark", "for-an-hour")),
        ({"AWS_PROFILE": "old"}, aws.Credentials("old", "worn")),
        ({"AWS_ACCESS_KEY_ID": "mine"}, None),
        ({"AWS_PROFILE": "night", "AWS_WEB_IDENTITY_TOKEN_FILE": "/token"}, None),
        ({"AWS_SHARED_CREDENTIALS_FILE": "/nonexistent"}, None),
        ({"AWS_PROFILE": "role-of-the-machine"}, None),
    ],
)
def test_credentials_come_from_the_files_of_aws(
    tmp_path: Path, variables: dict[str, str], found: aws.Credentials | None
) -> None:
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "config").write_text(CONFIG_KEYS)
    (tmp_path / ".aws" / "credentials").write_text(KEYS)
    assert aws.credentials({"HOME": str(tmp_path), **variables}) == found
    assert "secret" not in repr(found)
    assert "hour" not in repr(found)


@pytest.mark.parametrize(("profile", "told"), [("single", "sso_session"), ("nobody", "no such profile")])
def test_a_profile_that_was_named_is_not_passed_over(tmp_path: Path, profile: str, told: str) -> None:
    (tmp_path / "config").write_text(CONFIG_KEYS)
    with pytest.raises(SettingsError, match=told) as caught:
        aws.credentials({"AWS_CONFIG_FILE": str(tmp_path / "config"), "AWS_PROFILE": profile})
    assert "export-credentials" in str(caught.value)


def test_who_has_no_home_has_no_profile() -> None:
    assert aws.region({}) is None


def test_a_damaged_configuration_is_named(tmp_path: Path) -> None:
    (tmp_path / "config").write_text("region = eu-central-1\n")
    with pytest.raises(SettingsError, match="AWS's configuration cannot be read") as caught:
        aws.region({"AWS_CONFIG_FILE": str(tmp_path / "config")})
    assert caught.value.where == str(tmp_path / "config")
