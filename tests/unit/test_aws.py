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


def test_who_has_no_home_has_no_profile() -> None:
    assert aws.region({}) is None


def test_a_damaged_configuration_is_named(tmp_path: Path) -> None:
    (tmp_path / "config").write_text("region = eu-central-1\n")
    with pytest.raises(SettingsError, match="AWS's configuration cannot be read") as caught:
        aws.region({"AWS_CONFIG_FILE": str(tmp_path / "config")})
    assert caught.value.where == str(tmp_path / "config")
