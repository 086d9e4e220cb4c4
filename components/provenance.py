"""What made a thing: commit, code, libraries."""

from __future__ import annotations

import hashlib
import os
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec

ROOT = Path(__file__).resolve().parent.parent
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
def code_digest(*places: str) -> str:
    """Of the source below these files and folders of the repository: what was cached under other code is
    not found again."""
    files = sorted(
        file
        for place in places
        for file in ([ROOT / place] if (ROOT / place).is_file() else (ROOT / place).rglob("*.py"))
    )
    lines = "".join(
        f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.relative_to(ROOT)}\n" for file in files
    )
    return hashlib.sha256(lines.encode()).hexdigest()


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
