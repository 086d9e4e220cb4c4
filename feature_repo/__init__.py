"""The flight-delay project's features: what they are, how they are made, and the questions they answer."""

from feature_repo.build import build_features
from feature_repo.definitions import SERVICE, definitions, definitions_at
from feature_repo.labels import LEAD, REQUEST_FIELDS, Labels, label_frame, request_fields

__all__ = [
    "LEAD",
    "REQUEST_FIELDS",
    "SERVICE",
    "Labels",
    "build_features",
    "definitions",
    "definitions_at",
    "label_frame",
    "request_fields",
]
