"""What all tests share."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--fuzz-inputs", type=int, default=2000, help="how many random inputs each fuzz test tries"
    )
    parser.addoption("--fuzz-replay", default="", help="folder of inputs to try in place of random ones")
    parser.addoption("--soak-seconds", type=float, default=600.0, help="how long the soak lasts")


@pytest.fixture(scope="session")
def soak_seconds(request: pytest.FixtureRequest) -> float:
    value = request.config.getoption("--soak-seconds")
    assert isinstance(value, float)
    return value


@pytest.fixture(scope="session")
def fuzz_inputs(request: pytest.FixtureRequest) -> int:
    value = request.config.getoption("--fuzz-inputs")
    assert isinstance(value, int)
    return value
