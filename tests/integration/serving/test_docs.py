"""The examples of docs/client.md, as they stand there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.server import Running

pytestmark = pytest.mark.xdist_group("serving")

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
