"""The answer column of a project, as zeros and ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from slipway.errors import DataError
from slipway.project import Project


def labels(frame: pl.DataFrame, project: Project) -> NDArray[np.int8]:
    name = project.label.column
    if name not in frame.columns:
        raise DataError(f"the rows have no label column {name!r}", fix="take the snapshot with this project")
    column: Any = frame[name]
    if column.null_count():
        raise DataError(f"{column.null_count()} rows have no label in {name!r}", fix="leave them out first")
    if project.label.at_least is not None:
        values = (column >= project.label.at_least).cast(pl.Int8)
    else:
        values = column.cast(pl.Int8, strict=False)
        if values.null_count() or not values.is_in([0, 1]).all():
            raise DataError(
                f"label {name!r} holds more than 0 and 1",
                fix="set the label's `at_least`, or make the column boolean",
            )
    answer: NDArray[np.int8] = values.to_numpy()
    return answer
