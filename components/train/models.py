"""The estimators to choose from. Preprocessing is part of each, so that all of it lands in the graph."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from components.inputs import CATEGORIES, InputPlan, Tensors, assemble

Matrix = NDArray[Any]

WIDEST_HESSIAN = 1000
"""Columns, one-hot ones too, up to which Newton's method is the faster: a round costs their square."""


class ModelConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to fit. Fields of the other kind are ignored."""

    kind: Literal["boosting", "logistic"] = "boosting"
    rounds: int = 160
    """Boosting rounds at most; fewer when the validation rows stop getting better."""
    learning_rate: float = 0.08
    leaves: int = 31
    leaf_rows: int = 100
    l2: float = 1.0
    feature_share: float = 0.5
    """Share of the features that each split may choose from."""
    strength: float = 1.0
    """Logistic: the inverse of the regularization."""
    seed: int = 2013

    def __post_init__(self) -> None:
        for names, bound, holds in (
            (("rounds", "leaf_rows"), "at least 1", lambda value: value >= 1),
            (("leaves",), "at least 2", lambda value: value >= 2),
            (("learning_rate", "strength"), "above 0", lambda value: value > 0),
            (("l2",), "at least 0", lambda value: value >= 0),
            (("feature_share",), "above 0 and at most 1", lambda value: 0 < value <= 1),
            # What numpy takes for one.
            (("seed",), "from 0 to 4294967295", lambda value: 0 <= value < 2**32),
        ):
            for name in names:
                if not holds(getattr(self, name)):
                    raise ValueError(f"{name} is {getattr(self, name)}, and must be {bound}")


class Native:
    """A fitted scikit-learn pipeline behind the tensors of the contract."""

    def __init__(self, plan: InputPlan, preparation: Any, estimator: Any) -> None:
        self.plan = plan
        self.preparation = preparation
        self.estimator = estimator

    def probability(self, tensors: Tensors) -> NDArray[np.float64]:
        prepared = self.preparation.transform(_table(tensors, self.plan))
        answer: NDArray[np.float64] = self.estimator.predict_proba(prepared)[:, 1]
        return answer


def fit(
    config: ModelConfig,
    plan: InputPlan,
    tensors: Tensors,
    label: Matrix,
    *,
    validation: tuple[Tensors, Matrix] | None = None,
) -> Native:
    """Fit on these rows; with validation rows, boosting stops when they stop getting better."""
    preparation = _preparation(config, plan)
    prepared = preparation.fit_transform(_table(tensors, plan), label)
    if config.kind == "logistic":
        from sklearn.linear_model import LogisticRegression

        # Features over windows of several lengths go together: lbfgs takes hundreds of rounds over all rows,
        # 15 s of two cores for 55,000 x 180, where Newton's method takes a few, and ends nearer to the least.
        narrow = prepared.shape[1] <= WIDEST_HESSIAN
        estimator = LogisticRegression(
            C=config.strength, max_iter=500, tol=1e-5, solver="newton-cholesky" if narrow else "lbfgs"
        )
        return Native(plan, preparation, estimator.fit(prepared, label))

    from sklearn.ensemble import HistGradientBoostingClassifier

    estimator = HistGradientBoostingClassifier(
        max_iter=config.rounds,
        learning_rate=config.learning_rate,
        max_leaf_nodes=config.leaves,
        min_samples_leaf=min(config.leaf_rows, max(1, len(label) // 20)),
        l2_regularization=config.l2,
        max_features=config.feature_share,
        early_stopping=validation is not None,
        n_iter_no_change=15,
        random_state=config.seed,
    )
    if validation is None:
        estimator.fit(prepared, label)
    else:
        held_out = preparation.transform(_table(validation[0], plan))
        estimator.fit(prepared, label, X_val=held_out, y_val=validation[1])
    _lower_thresholds(estimator)
    return Native(plan, preparation, estimator)


def rounds_used(native: Native, config: ModelConfig) -> int:
    return int(getattr(native.estimator, "n_iter_", config.rounds)) if config.kind == "boosting" else 0


def _preparation(config: ModelConfig, plan: InputPlan) -> Any:
    from skl2onnx.sklapi import CastTransformer
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.model_selection import StratifiedKFold
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import MinMaxScaler, OneHotEncoder, StandardScaler, TargetEncoder

    numbers: Any
    if config.kind == "boosting":
        numbers = "passthrough"
        folds = StratifiedKFold(5, shuffle=True, random_state=config.seed)
        categories: Any = TargetEncoder(target_type="binary", cv=folds)
    else:
        numbers = Pipeline(
            [
                ("impute", SimpleImputer(strategy="median", keep_empty_features=True)),
                # Clips at the ends of what was trained on, so that a wild value cannot drown all others
                # (nor overflow a float inside the graph).
                ("clip", MinMaxScaler(clip=True)),
                ("scale", StandardScaler()),
            ]
        )
        categories = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    width = len(plan.features)
    parts = [("numbers", numbers, list(range(width)))]
    if plan.categories:
        parts.append(("categories", categories, list(range(width, width + len(plan.categories)))))
    # The graph computes in float. With the cast, training sees the very numbers that the graph will see.
    return Pipeline([("columns", ColumnTransformer(parts)), ("cast", CastTransformer(dtype=np.float32))])


def _table(tensors: Tensors, plan: InputPlan) -> Any:
    """One table for ColumnTransformer: floats stay one block and strings another."""
    import pandas as pd

    table = pd.DataFrame(assemble(tensors, plan))
    if not plan.categories:
        return table
    texts = pd.DataFrame(
        tensors[CATEGORIES], columns=range(table.shape[1], table.shape[1] + len(plan.categories))
    )
    return pd.concat([table, texts], axis=1)


def _lower_thresholds(estimator: Any) -> None:
    """Round each split's threshold down to a float.

    For float inputs `x <= t` holds exactly when `x <= (the greatest float not above t)`, so the native model
    answers as before, and the graph, whose thresholds are floats, takes the same branch on every row.
    Rounding to the nearest float, as exporters do, sends rows on the edge to the other side.
    """
    for predictors in estimator._predictors:
        for predictor in predictors:
            exact = predictor.nodes["num_threshold"]
            lowered = exact.astype(np.float32)
            above = lowered.astype(np.float64) > exact
            lowered[above] = np.nextafter(lowered[above], np.float32(-np.inf))
            predictor.nodes["num_threshold"] = lowered
