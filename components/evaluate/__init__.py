"""evaluate: metrics with intervals, group by group, beside the champion, and a report to look at."""

from components.evaluate.component import evaluate, evaluate_version, open_version
from components.evaluate.evaluation import Evaluation, SplitScore, read_evaluation
from components.evaluate.report import render
from components.evaluate.scores import Scores, SliceScore, score

__all__ = [
    "Evaluation",
    "Scores",
    "SliceScore",
    "SplitScore",
    "evaluate",
    "evaluate_version",
    "open_version",
    "read_evaluation",
    "render",
    "score",
]
