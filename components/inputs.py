"""From a table to the tensors that a model eats: its contract's columns, in the contract's order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from slipway.contract import Column, FeatureService, TensorInput
from slipway.errors import DataError, FeatureError
from slipway.project import Elapsed, Kind, Project

NUMBERS = "numbers"
CATEGORIES = "categories"
TIMES = "times"

_NUMBERS = {"Bool", "Int32", "Int64", "Float32", "Float64"}
Tensors = dict[str, NDArray[Any]]


class InputPlan(msgspec.Struct, frozen=True):
    """Which columns fill which input tensor; empty tensors are left out of the graph."""

    numbers: tuple[Column, ...]
    categories: tuple[Column, ...]
    times: tuple[Column, ...]
    elapsed: tuple[Elapsed, ...]

    @property
    def features(self) -> tuple[str, ...]:
        """Numeric columns of the model behind the graph's front: numbers, then elapsed times."""
        return tuple(column.name for column in self.numbers) + tuple(item.name for item in self.elapsed)

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(column.name for column in (*self.numbers, *self.categories, *self.times))

    def tensor_inputs(self) -> tuple[TensorInput, ...]:
        groups = ((NUMBERS, "FP32", self.numbers), (CATEGORIES, "BYTES", self.categories))
        return tuple(
            TensorInput(name, dtype, (-1, len(columns)), columns)  # type: ignore[arg-type]
            for name, dtype, columns in (*groups, (TIMES, "FP64", self.times))
            if columns
        )

    def tensors(self, frame: pl.DataFrame) -> Tensors:
        return tensors_of(self.tensor_inputs(), frame)


def tensors_of(inputs: Sequence[TensorInput], frame: pl.DataFrame) -> Tensors:
    """What the runtime feeds a graph for these rows: defaults filled in, null as NaN or ""."""
    missing = missing_columns(inputs, frame)
    if missing:
        raise DataError(
            f"columns the model eats are missing: {', '.join(missing)}",
            fix="take a snapshot with the same feature service and project as the model's",
        )
    return {
        tensor.name: _texts(frame, tensor.columns)
        if tensor.dtype == "BYTES"
        else _matrix(frame, tensor.columns, pl.Float64 if tensor.dtype == "FP64" else pl.Float32)
        for tensor in inputs
    }


def missing_columns(inputs: Sequence[TensorInput], frame: pl.DataFrame) -> list[str]:
    return [column.name for tensor in inputs for column in tensor.columns if column.name not in frame.columns]


def _texts(frame: pl.DataFrame, columns: tuple[Column, ...]) -> NDArray[Any]:
    texts = frame.select(
        pl.col(column.name).cast(pl.String).fill_null(str(column.default or "")) for column in columns
    )
    return np.column_stack([texts[name].to_numpy() for name in texts.columns]).astype(object)


def _matrix(frame: pl.DataFrame, columns: tuple[Column, ...], dtype: Any) -> NDArray[Any]:
    try:
        wide = frame.select(
            pl.col(column.name)
            .cast(dtype)
            .fill_null(float("nan") if column.default is None else float(column.default))
            for column in columns
        )
    except pl.exceptions.PolarsError as error:
        raise DataError(f"a numeric input holds what is no number: {error}") from error
    return np.ascontiguousarray(wide.to_numpy())


def plan_inputs(project: Project, service: FeatureService) -> InputPlan:
    """Request fields first, then the service's features view by view, in its order."""
    times = {name for item in project.elapsed for name in (item.of, item.since)}
    columns: dict[Kind, list[Column]] = {"number": [], "category": [], "time": []}
    for field in project.request_fields:
        columns[field.kind].append(Column(field.name, default=field.default))
    columns["category"] += [Column(entity) for entity in project.entity_inputs]
    known = {field.name for field in project.request_fields} | set(project.entity_inputs)
    for view in service.views:
        dtypes = {field.name: field.dtype for field in view.fields}
        for feature in view.features if view.features is not None else tuple(dtypes):
            name = f"{view.name}__{feature}"
            known.add(name)
            if name not in project.exclude:
                kind = "time" if name in times else _kind(name, dtypes[feature])
                columns[kind].append(Column(name, view=view.name, feature=feature))
    unknown = sorted((times | set(project.exclude)) - known)
    if unknown:
        raise FeatureError(
            f"project {project.name!r} names inputs that nothing brings: {', '.join(unknown)}",
            where=f"feature service {service.name}",
            fix="name a request field, or a feature of the service as view__feature",
        )
    unused = sorted({column.name for column in columns["time"]} - times)
    if unused:
        raise FeatureError(
            f"times that no Elapsed uses: {', '.join(unused)}",
            where=f"project {project.name}",
            fix="write Elapsed(of=…, since=…) for them, or leave them out",
        )
    if not columns["number"] and not project.elapsed:
        raise FeatureError(
            f"project {project.name!r} has no numeric input",
            where=f"feature service {service.name}",
            fix="add a numeric feature or request field",
        )
    return InputPlan(
        tuple(columns["number"]), tuple(columns["category"]), tuple(columns["time"]), project.elapsed
    )


def _kind(name: str, dtype: str) -> Kind:
    if dtype in _NUMBERS:
        return "number"
    if dtype == "String":
        return "category"
    raise FeatureError(
        f"{name} is a {dtype}, which no model input can hold",
        fix="keep times as Float64 (seconds since the epoch) with an Elapsed in the project; "
        "make other values numbers or strings, or exclude them",
    )


def assemble(tensors: Tensors, plan: InputPlan) -> NDArray[np.float32]:
    """The numeric matrix behind the graph's front; the graph does the same with Sub, Cast and Concat."""
    parts = [tensors[NUMBERS]] if plan.numbers else []
    if plan.elapsed:
        position = {column.name: index for index, column in enumerate(plan.times)}
        of = [position[item.of] for item in plan.elapsed]
        since = [position[item.since] for item in plan.elapsed]
        times = tensors[TIMES]
        parts.append((times[:, of] - times[:, since]).astype(np.float32))
    return np.concatenate(parts, axis=1)
