"""The examples of docs/client.md and docs/grpc.md, as they stand there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.server import Running

_PAGE = Path(__file__).parents[3] / "docs" / "client.md"
_WANTED = [
    r"\[(True|False|0|1), (True|False|0|1)\]\n\(2, 2\)\n[0-9a-f]{64}\n",
    r"64 int64\n",
    r"\(1, 1\)\n",
]
_EXAMPLES = re.findall(r"```python\n(.*?)```", _PAGE.read_text(), re.DOTALL)


def test_every_example_is_run() -> None:
    assert len(_EXAMPLES) == len(_WANTED)


@pytest.mark.parametrize(("example", "wanted"), list(zip(_EXAMPLES, _WANTED, strict=True)))
def test_the_example_works(
    example: str, wanted: str, zoo_server: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    exec(
        compile(example, str(_PAGE), "exec"), {"url": zoo_server.url, "grpc_address": zoo_server.grpc_address}
    )
    assert re.fullmatch(wanted, capsys.readouterr().out)


def test_the_example_of_the_grpc_page_works(zoo_server: Running) -> None:
    """In a process of its own: its generated messages clash with those of other clients."""
    (example,) = re.findall(r"```python\n(.*?)```", (_PAGE.parent / "grpc.md").read_text(), re.DOTALL)
    script = f"grpc_address = {zoo_server.grpc_address!r}\n{example}"
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert (found.stdout, found.returncode) == ("(1, 3)\n", 0), found.stderr
