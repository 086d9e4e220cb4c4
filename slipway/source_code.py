"""A digest of source code: what other code made is made again."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
"""Where `slipway`, `components` and the other packages lie: the repository, or site-packages."""


@cache
def code_digest(*places: str | Path) -> str:
    """Of the Python files at and below these places, given in full or from ROOT."""
    files = sorted(
        {
            file
            for place in places
            for file in ([ROOT / place] if (ROOT / place).is_file() else (ROOT / place).rglob("*.py"))
        }
    )
    lines = "".join(f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {_name(file)}\n" for file in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def _name(file: Path) -> str:
    # Wherever the repository lies, its files have the same names.
    return str(file.relative_to(ROOT)) if file.is_relative_to(ROOT) else file.name
