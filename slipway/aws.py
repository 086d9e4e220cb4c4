"""The region that AWS's own tools would use. botocore knows one variable for it, Polars another, and IRSA
sets the third: here they are one.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from slipway.errors import SettingsError

OTHER_REGION_FIX = "set SLIPWAY_S3_REGION, or AWS_REGION, to the region of the bucket"
"""Where S3 answers that a bucket is elsewhere; each client learns it in its own way."""


def region(environment: Mapping[str, str]) -> str | None:
    """From AWS_REGION, AWS_DEFAULT_REGION, or the profile in AWS's configuration file; None: nobody says."""
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        if found := environment.get(name):
            return found
    path = _configuration(environment)
    return None if path is None else _from_file(path, environment.get("AWS_PROFILE") or "default")


def _configuration(environment: Mapping[str, str]) -> Path | None:
    named = environment.get("AWS_CONFIG_FILE")
    home = environment.get("HOME")
    if named:
        return Path(named).expanduser()
    return Path(home, ".aws", "config") if home else None


def _from_file(path: Path, profile: str) -> str | None:
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
    section = "default" if profile == "default" else f"profile {profile}"
    return parser.get(section, "region", fallback=None) or None
