"""The region and the credentials that AWS's own tools would use. botocore knows one variable for the region,
Polars another, and IRSA sets the third: here they are one. botocore reads files of credentials, too; what is
here is for programs that do without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from slipway.errors import SettingsError

if TYPE_CHECKING:
    from configparser import RawConfigParser

OTHER_REGION_FIX = "set SLIPWAY_S3_REGION, or AWS_REGION, to the region of the bucket"
"""Where S3 answers that a bucket is elsewhere; each client learns it in its own way."""


def region(environment: Mapping[str, str]) -> str | None:
    """From AWS_REGION, AWS_DEFAULT_REGION, or the profile in AWS's configuration file; None: nobody says."""
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        if found := environment.get(name):
            return found
    path = _file(environment, "AWS_CONFIG_FILE", "config")
    parser = None if path is None else _read(path)
    if parser is None:
        return None
    section = _section(environment.get("AWS_PROFILE") or "default")
    return parser.get(section, "region", fallback=None) or None


@dataclass(frozen=True)
class Credentials:
    access_key: str
    secret_key: str = field(repr=False)
    token: str | None = field(default=None, repr=False)


_STRONGER = ("AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE")
"""Where they are set, a client finds its credentials by itself, and AWS's tools ask no file."""
_ELSEWHERE = ("sso_session", "sso_start_url", "credential_process", "role_arn")


def credentials(environment: Mapping[str, str]) -> Credentials | None:
    """Of the profile (AWS_PROFILE, else `default`) in AWS's files; None where they have none, or nobody asks.

    A profile that was asked for by name and is unknown, or has its credentials elsewhere, is an error: those
    of the machine would be used in their place.
    """
    if any(environment.get(name) for name in _STRONGER):
        return None
    named = environment.get("AWS_PROFILE")
    profile = named or "default"
    found: dict[str, str] = {}
    known = False
    for path, section in (
        (_file(environment, "AWS_CONFIG_FILE", "config"), _section(profile)),
        (_file(environment, "AWS_SHARED_CREDENTIALS_FILE", "credentials"), profile),
    ):
        parser = None if path is None else _read(path)
        if parser is not None and parser.has_section(section):
            known = True
            found |= dict(parser.items(section))
    key, secret = found.get("aws_access_key_id"), found.get("aws_secret_access_key")
    if key and secret:
        return Credentials(key, secret, found.get("aws_session_token") or None)
    elsewhere = next((name for name in _ELSEWHERE if found.get(name)), None)
    if named and (elsewhere or not known):
        raise SettingsError(
            f"the profile has its credentials elsewhere ({elsewhere})"
            if elsewhere
            else "AWS's files have no such profile",
            where=f"AWS_PROFILE={profile}",
            fix="export them: aws configure export-credentials --format env",
        )
    return None


def _section(profile: str) -> str:
    """As the configuration file calls it; the file of credentials has the name alone."""
    return "default" if profile == "default" else f"profile {profile}"


def _file(environment: Mapping[str, str], variable: str, name: str) -> Path | None:
    named = environment.get(variable)
    home = environment.get("HOME")
    if named:
        return Path(named).expanduser()
    return Path(home, ".aws", name) if home else None


def _read(path: Path) -> RawConfigParser | None:
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return None
    import configparser

    parser = configparser.RawConfigParser()
    try:
        parser.read_string(text)
    except configparser.Error as error:
        raise SettingsError(
            f"AWS's configuration cannot be read: {error.message}",
            where=str(path),
            fix="mend the file; `aws configure` writes one",
        ) from error
    return parser
