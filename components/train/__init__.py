"""train: fit on the past, export to ONNX with all preprocessing inside, describe what the model eats."""

from components.train.candidate import Candidate, TrainingRecord, read_candidate
from components.train.component import TrainConfig, fit_parts, take, train
from components.train.graph import PROBABILITY, export, with_contract
from components.train.models import ModelConfig, Native, fit
from components.train.split import Parts, SplitConfig, random_rows, time_ordered

__all__ = [
    "PROBABILITY",
    "Candidate",
    "ModelConfig",
    "Native",
    "Parts",
    "SplitConfig",
    "TrainConfig",
    "TrainingRecord",
    "export",
    "fit",
    "fit_parts",
    "random_rows",
    "read_candidate",
    "take",
    "time_ordered",
    "train",
    "with_contract",
]
