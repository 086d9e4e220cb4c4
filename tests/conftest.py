"""What all tests share."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--fuzz-inputs", type=int, default=2000, help="how many random inputs each fuzz test tries"
    )


@pytest.fixture(scope="session")
def fuzz_inputs(request: pytest.FixtureRequest) -> int:
    value = request.config.getoption("--fuzz-inputs")
    assert isinstance(value, int)
    return value
