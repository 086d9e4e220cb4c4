"""What an evaluation found, as it lies on S3 beside its report."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from components.evaluate.scores import Scores
from components.metrics import Interval
from slipway.errors import DataError
from slipway.objects import ObjectStore

EVALUATION_FILE = "evaluation.json"


class SplitScore(msgspec.Struct, frozen=True):
    title: str
    ordered: bool
    """By time; the other one is at random."""
    training_rows: int
    test_rows: int
    roc_auc: Interval


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    schema_version: int = 1
    uri: str
    name: str
    start: str
    """First and last event of the rows that judged."""
    end: str
    challenger: Scores
    champion: Scores | None = None
    champion_note: str
    champion_digest: str = ""
    comparable: bool = True
    """False: there is a champion, but it could not be asked about these rows."""
    splits: tuple[SplitScore, ...] = ()
    made_from: Mapping[str, str] = {}

    def metrics(self) -> dict[str, float]:
        """The plain numbers, for MLflow and the contract; NaN left out."""
        values = {f"test_{name}": found.value for name, found in self.challenger.metrics.items()}
        if self.challenger.at_threshold is not None:
            values["test_cost"] = self.challenger.at_threshold.cost
        for split in self.splits:
            if not split.ordered:
                values["random_split_roc_auc"] = split.roc_auc.value
        return {name: value for name, value in values.items() if value == value}


def read_evaluation(objects: ObjectStore, uri: str) -> Evaluation:
    where = uri + EVALUATION_FILE
    try:
        return msgspec.json.decode(objects.get(where), type=Evaluation)
    except msgspec.MsgspecError as error:
        raise DataError(f"not an evaluation: {error}", where=where, fix="evaluate again") from error
