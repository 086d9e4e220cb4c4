"""What a project predicts, from what, and what a mistake costs: the one object that makes the components fit.

A repository of feature definitions (`settings.features.repository`, `feature_repo` here) holds its projects
in `<repository>/project.py`. To predict something else is to write another one; no component changes.
"""

from __future__ import annotations

import importlib
from typing import Literal

import msgspec

from slipway.errors import SettingsError
from slipway.settings import Settings

Kind = Literal["number", "category", "time"]
"""`time`: seconds since the epoch in double precision; a model sees it through Elapsed only."""


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class RequestField(_Part, frozen=True, kw_only=True):
    """A model input that the caller brings, because it is known when the question is asked."""

    name: str
    kind: Kind = "number"
    default: float | str | None = None


class Elapsed(_Part, frozen=True, kw_only=True):
    """A model input computed inside the graph: seconds from one time to another, subtracted in double.

    Seconds since the epoch do not fit the 24 bits of a float: the difference would be off by a minute.
    """

    name: str
    of: str
    """Inputs of kind time: request fields, or `view__feature` with the type Float64."""
    since: str


class Label(_Part, frozen=True, kw_only=True):
    """What is predicted: a column that is true or false, or a number that reaches a bound."""

    column: str
    at_least: float | None = None
    """Positive are values at or above it. None: the column itself is boolean, or 0 and 1."""
    meaning: str = "positive"
    """One word for the positive class, as reports say it: late."""
    known_after_hours: float = 0.0
    """How long after the event time the answer is known. Rows nearer than that to a split are left out of
    training, because at the time of the split nobody could have learned from them."""


class Slice(_Part, frozen=True, kw_only=True):
    """Groups of rows that are looked at one by one: a good average must not hide a bad carrier."""

    column: str
    title: str = ""
    bins: tuple[float, ...] = ()
    """Inner edges for a numeric column with many values; empty: each value is a group."""


class Costs(_Part, frozen=True, kw_only=True):
    """What a wrong answer costs, in any unit; the threshold is where the sum is least."""

    false_alarm: float = 1.0
    miss: float = 1.0


class Floors(_Part, frozen=True, kw_only=True):
    """Below these a model does not ship."""

    roc_auc: float = 0.6
    slice_roc_auc: float = 0.5
    """A group whose whole interval lies below has collapsed."""
    calibration_error: float = 0.1
    rows: int = 1000
    """Fewer training rows, or fewer test rows than a tenth of it, prove nothing."""


class Budget(_Part, frozen=True, kw_only=True):
    """What serving can afford."""

    model_bytes: int = 20_000_000
    milliseconds: float = 5.0
    """Median of one answer for one row, in this process."""


class Published(_Part, frozen=True, kw_only=True):
    """A figure from elsewhere for the same question, which the report sets beside ours."""

    title: str
    roc_auc: float


class Project(_Part, frozen=True, kw_only=True):
    name: str
    """The model's name in the registry and on S3."""
    title: str
    """The question, as a person would ask it."""
    feature_service: str
    """Feast's name of the features that the model eats."""
    rows: str
    """Where the labelled rows lie as Parquet, below the bucket: a folder, or `dataset/table`."""
    prepare: str = ""
    """`module:function` that makes the labelled rows of what lies there: it takes the table and the window's
    two ends, and answers the rows and a count of those left out, by reason. Empty: they lie there ready."""
    key: tuple[str, ...]
    """Columns that name a row; they make the order of rows the same every time."""
    entities: tuple[str, ...]
    """Join keys that the caller brings."""
    label: Label
    event_time: str = "event_timestamp"
    """When the question is asked: nothing newer may enter the answer."""
    request_fields: tuple[RequestField, ...] = ()
    entity_inputs: tuple[str, ...] = ()
    """Entities that are model inputs themselves, as categories."""
    elapsed: tuple[Elapsed, ...] = ()
    exclude: tuple[str, ...] = ()
    """Features of the service that this model leaves out, as `view__feature`."""
    slices: tuple[Slice, ...] = ()
    costs: Costs = Costs()
    floors: Floors = Floors()
    budget: Budget = Budget()
    published: tuple[Published, ...] = ()

    def __post_init__(self) -> None:
        unknown = sorted(set(self.entity_inputs) - set(self.entities))
        if unknown:
            raise ValueError(f"entity_inputs names {', '.join(unknown)}, which entities does not")
        names = [field.name for field in self.request_fields] + list(self.entity_inputs)
        doubles = sorted({name for name in names if names.count(name) > 1})
        if doubles:
            raise ValueError(f"inputs named twice: {', '.join(doubles)}")


def load_project(settings: Settings, name: str = "") -> Project:
    """The repository's PROJECT; or another by `NAME` from the same module, or by `module:NAME`."""
    module_name, _, attribute = name.rpartition(":")
    module_name = module_name or f"{settings.features.repository.replace('/', '.')}.project"
    attribute = attribute or "PROJECT"
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if not module_name.startswith(error.name or "\0"):
            raise
        raise SettingsError(
            f"there is no module {module_name}, which should hold the project",
            where="features.repository",
            fix="start from a folder that holds it, or name the project as `package.module:NAME`",
        ) from error
    project = getattr(module, attribute, None)
    if not isinstance(project, Project):
        known = sorted(name for name, value in vars(module).items() if isinstance(value, Project))
        raise SettingsError(
            f"{module_name} holds no project {attribute!r}",
            where=module_name,
            fix=f"use one of: {', '.join(known)}" if known else f"write {attribute} = Project(...) there",
        )
    return project
