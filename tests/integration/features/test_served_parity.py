"""The served side of parity, on running servers: one that is right, and ones that are not."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
import pytest

from slipway.contract import Column, ModelContract, TensorInput, TensorOutput
from slipway.errors import ContractError, FeatureError, ServerUnreachable
from slipway.features.manage import apply_definitions, materialize
from slipway.features.parity import Parity, check_parity
from slipway.features.served import ServedModel
from slipway.features.service import describe_service
from slipway.features.store import open_store
from slipway.settings import Settings
from tests.integration.features.test_manage_and_parity import NOW, definitions, settings
from tests.support.contracts import publish
from tests.support.server import running_server
from tests.valkey import ValkeyServer

__all__ = ["settings"]


def contract_of(settings: Settings, *, swapped: bool = False) -> ModelContract:
    """A model that eats both numbers of `delays`, and a distance that the request brings."""
    mean = Column("mean", "delays", default=-1.0)
    flights = Column("flights", "delays", default=-2.0)
    if swapped:
        mean = Column("mean", "delays", feature="flights", default=-1.0)
        flights = Column("flights", "delays", feature="mean", default=-2.0)
    return ModelContract(
        name="late",
        inputs=(TensorInput("features", "FP32", (-1, 3), (mean, flights, Column("distance"))),),
        outputs=(TensorOutput("score", "FP32", (-1,)),),
        feature_service=describe_service(open_store(settings), "delay"),
    )


@contextmanager
def serving(
    settings: Settings, contract: ModelContract, folder: Path, store: str | None = None, **more: str
) -> Iterator[str]:
    publish(folder / "models" / contract.name, contract, version="1", baseline=None)
    environment = {
        "SLIPWAY_ONLINE_URL": store or settings.online.url,
        "SLIPWAY_ONLINE_TIMEOUT": "2",
        "SLIPWAY_FEATURES_CLOCK": settings.features.clock,
        **more,
    }
    with running_server(folder / "models", folder / "run", environment=environment) as running:
        yield running.url


def compare(settings: Settings, url: str, contract: ModelContract) -> Parity:
    return check_parity(settings, "delay", others=ServedModel(url, contract).paths())


def outcomes(parity: Parity, feature: str) -> dict[str, int]:
    return {name: count for name, count in parity.counts[feature]["served"].items() if count}


def test_a_server_that_is_fed_what_the_model_was_trained_on_passes(
    settings: Settings, tmp_path: Path
) -> None:
    apply_definitions(settings, definitions(tmp_path, routes=False))
    materialize(settings)
    contract = contract_of(settings)
    with serving(settings, contract, tmp_path) as url:
        parity = compare(settings, url, contract)
        assert (parity.gate.verdict, parity.paths) == ("pass", ["online", "lookup", "served"])
        assert outcomes(parity, "delays:mean") == {"equal": parity.sampled["delays"]}
        assert outcomes(parity, "delays:flights") == {"equal": parity.sampled["delays"]}

        # The same server goes on, and its store is given other values than those that a model learns from.
        wrong = pd.DataFrame(
            {"carrier": ["UA"], "mean": np.array([99], np.float32), "flights": [7], "ts": [NOW]}
        )
        open_store(settings).write_to_online_store("delays", wrong)
        skewed = compare(settings, url, contract)
        assert skewed.gate.verdict == "fail"
        assert outcomes(skewed, "delays:mean")["different"] == 1
        (example,) = [one for one in skewed.examples if (one.path, one.feature) == ("served", "mean")]
        assert (example.entity, example.found) == ({"carrier": "UA"}, 99.0)


def test_skews_that_only_the_server_has_are_caught(
    settings: Settings, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    apply_definitions(settings, definitions(tmp_path, routes=False))
    materialize(settings)
    contract = contract_of(settings)
    rows = 0
    # Another store, as after a move that nobody told the server of.
    with (
        ValkeyServer(tmp_path_factory.mktemp("other")) as other,
        serving(settings, contract, tmp_path / "moved", other.url) as url,
    ):
        parity = compare(settings, url, contract)
        rows = parity.sampled["delays"]
        assert parity.gate.verdict == "fail"
        assert outcomes(parity, "delays:mean")["missing"] >= rows - 1
        assert parity.counts["delays:mean"]["lookup"]["equal"] == rows

    # A clock that is not that of the features: all is past its TTL.
    with serving(
        settings, contract, tmp_path / "clock", SLIPWAY_FEATURES_CLOCK="2031-01-01T00:00:00Z"
    ) as url:
        assert outcomes(compare(settings, url, contract), "delays:mean")["stale"] >= rows - 1

    # Columns in the wrong places: the contract that the server has is not the one that was verified.
    with serving(settings, contract_of(settings, swapped=True), tmp_path / "swapped") as url:
        parity = compare(settings, url, contract)
        assert outcomes(parity, "delays:mean")["different"] >= 1
        assert outcomes(parity, "delays:flights")["different"] >= 1


def test_what_cannot_be_compared_is_told(settings: Settings, tmp_path: Path) -> None:
    apply_definitions(settings, definitions(tmp_path, routes=False))
    materialize(settings)
    contract = contract_of(settings)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(ServerUnreachable, match="does not answer"):
            compare(settings, nobody, contract)
    with pytest.raises(ContractError, match="no feature service"):
        ServedModel(nobody, msgspec.structs.replace(contract, inputs=(), feature_service=None))
    with serving(settings, contract, tmp_path) as url:
        missing = msgspec.structs.replace(contract, name="nothing")
        with pytest.raises(FeatureError, match=r"answered 404: .*nothing"):
            compare(settings, url, missing)
        assert contract.feature_service is not None
        service = msgspec.structs.replace(contract.feature_service, digest="0" * 64)
        with pytest.raises(FeatureError, match="serves a model of delay@"):
            compare(settings, url, msgspec.structs.replace(contract, feature_service=service))
