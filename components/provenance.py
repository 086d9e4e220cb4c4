"""What made a thing: commit and libraries."""

from __future__ import annotations

import hashlib
import os
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version

import msgspec

from slipway.source_code import ROOT

_LIBRARIES = (
    "scikit-learn",
    "skl2onnx",
    "onnx",
    "onnxruntime",
    "numpy",
    "polars",
    "pandas",
    "feast",
    "mlflow",
)


@cache
def git_commit() -> str:
    """The commit, with -dirty where files differ from it. An image has no repository: it sets GIT_COMMIT."""
    baked = os.environ.get("GIT_COMMIT")
    if baked:
        return baked
    try:
        commit = _git("rev-parse", "HEAD")
        return f"{commit}-dirty" if _git("status", "--porcelain", "--untracked-files=no") else commit
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _git(*arguments: str) -> str:
    answer = subprocess.run(  # noqa: S603
        ["git", "-C", str(ROOT), *arguments],  # noqa: S607
        capture_output=True,
        text=True,
        check=True,
        timeout=10,
    )
    return answer.stdout.strip()


@cache
def libraries() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def content_key(*parts: object) -> str:
    """One digest of all that decides a result."""
    return hashlib.sha256(msgspec.json.encode(parts, order="sorted")).hexdigest()
