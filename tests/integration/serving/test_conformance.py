"""This server passes the whole conformance suite."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conformance import CHECKS, Target
from tests.conformance.suite import SECTIONS, Check
from tests.support.server import Running

_ORDER = list(SECTIONS)


@pytest.fixture(scope="module")
def target(conformance_server: Running) -> Iterator[Target]:
    target = Target(conformance_server.url, conformance_server.grpc_address)
    yield target
    target.close()


@pytest.mark.parametrize(
    "check",
    [
        pytest.param(check, id=f"{check.section}: {check.name}")
        for check in sorted(CHECKS, key=lambda check: _ORDER.index(check.section))
    ],
)
def test_the_server_conforms(check: Check, target: Target) -> None:
    check.run(target)
