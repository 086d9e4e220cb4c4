"""Is the online store what the model was trained on?"""

from __future__ import annotations

import msgspec

from components.verify.checks import Evidence, check
from slipway.contract import GateResult


@check("feature parity", "offline against online", needs=["feature_parity"])
def offline_against_online(evidence: Evidence) -> GateResult:
    """Sampled entities have the same features offline, online and in the server's own lookup."""
    assert evidence.feature_parity is not None  # noqa: S101 - the registry asks for it first
    return msgspec.structs.replace(evidence.feature_parity(), gate="")
