"""What an inference answers: arrays by name, and where they came from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from serving.client.tensors import Array


@dataclass(frozen=True)
class Receipt:
    """Which model answered, and what it was made from. None: the server did not say."""

    model_digest: str | None = None
    run_id: str | None = None
    feature_service: str | None = None
    snapshot: str | None = None


@dataclass(frozen=True)
class Answer(Mapping[str, Array]):
    """`answer["probabilities"]` is an array; `answer.receipt` says which model and data made it."""

    outputs: Mapping[str, Array]
    model_name: str = ""
    model_version: str = ""
    id: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """All that the server said beside the tensors: the receipt, and the freshness of features."""

    def __getitem__(self, name: str) -> Array:
        return self.outputs[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.outputs)

    def __len__(self) -> int:
        return len(self.outputs)

    @property
    def receipt(self) -> Receipt:
        said = self.parameters
        return Receipt(**{name: said.get(name) for name in Receipt.__dataclass_fields__})
