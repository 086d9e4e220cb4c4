"""Importing Feast, in a quarter of its time."""

from __future__ import annotations

import sys
from typing import Any


def import_feast() -> None:
    """Import Feast without the run-time type checks that it compiles into itself.

    Feast decorates its classes with typeguard's `typechecked`, which parses, rewrites and compiles every
    method again in each process that imports it: 8 of the 11 s of CPU that the import took. Whoever writes
    definitions has mypy for the same mistakes. Call this before the first import of anything of Feast; later
    it does nothing.
    """
    if "feast" in sys.modules:
        return
    import typeguard

    checked = typeguard.typechecked
    typeguard.typechecked = _as_it_is
    try:
        import feast  # noqa: F401
    finally:
        typeguard.typechecked = checked


def _as_it_is(target: Any = None, **options: Any) -> Any:
    return _as_it_is if target is None else target
