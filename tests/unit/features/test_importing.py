from __future__ import annotations

import subprocess
import sys

import pytest

INSTRUMENTED = (
    "from feast import Entity; print('TypeCheckMemo' in Entity.__init__.__code__.co_names); "
    "import typeguard; print(typeguard.typechecked.__module__)"
)


def _run(code: str) -> list[str]:
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout.split()


@pytest.mark.parametrize(
    "entry",
    [
        "from slipway.features.importing import import_feast; import_feast()",
        "from feature_repo import definitions_at; definitions_at('/data')",
        "from slipway.features.store import open_store; from slipway.settings import load_settings\n"
        "try: open_store(load_settings())\nexcept Exception: pass",
    ],
)
def test_our_ways_to_feast_leave_its_instrumentation_out_and_typeguard_as_it_was(entry: str) -> None:
    assert _run(f"{entry}\n{INSTRUMENTED}") == ["False", "typeguard"]


def test_feast_by_itself_is_instrumented() -> None:
    """Else the detour has lost its reason."""
    assert _run(INSTRUMENTED) == ["True", "typeguard"]
