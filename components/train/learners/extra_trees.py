"""extra_trees: extremely randomised trees (Geurts et al. 2006), or a random forest; exported as LightGBM text."""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import Field
from sklearn import ensemble

from components.core.params import Frozen, Tabular, Task
from components.model.runtime import Float32
from components.train.features import Dates, Features, Fill, Intervals, Matrices, Scale, prepare
from components.train.forest import Forest, at_most, per_output
from components.train.learners.base import Progress, Trained
from components.train.learners.tabular import (
    Float64,
    Target,
    constant_model,
    loss_of,
    row_weights,
    target_of,
    trained,
)
from components.train.reproducible import reproducible

__all__ = ["LEARNER", "forest_of"]

_FOR_CLASSES, _FOR_NUMBERS = 0.35, 0.8  # of the columns
_MOST_CLASSES = 10
_CHUNK = 5  # trees between two calls of `progress`
_DECIMALS = 10  # of a tree's share in the answer: short to write, and the sum is exact to 1e-7


class ForestFeatures(Features):
    """The recipe's `features`; numbers are not scaled."""

    dates: Dates = "numbers"
    fill: Fill = "median"
    scale: Scale = "none"
    bins: Intervals = 0


class Params(Frozen):
    """The recipe's `params`.

    Attributes:
        trees: How many.
        bootstrap: False: extremely randomised trees; True: a random forest, with bootstrap samples and searched thresholds.
        min_samples_leaf: Rows in a leaf, at least.
        max_leaves: Of a tree, at most; together with `trees` it decides how large the model is.
        max_features: Share of the columns that a split may choose from; 0: 0.35 for classes, 0.8 for numbers.
        balanced: Whether rare classes weigh as much as frequent ones.
    """

    trees: int = Field(60, ge=1, le=1000)
    bootstrap: bool = False
    min_samples_leaf: int = Field(4, ge=1)
    max_leaves: int = Field(1000, ge=2, le=65_536)
    max_features: float = Field(0.0, ge=0, le=1)
    balanced: bool = False


class _ExtraTrees:
    name = "extra_trees"
    features: type[Frozen] = ForestFeatures
    params: type[Frozen] = Params
    prepare = staticmethod(prepare)

    def fits(self, task: Task) -> bool:
        """Tables with few classes: exported, every tree becomes one tree a class."""
        return isinstance(task, Tabular) and task.kind == "tabular" and len(task.classes) <= _MOST_CLASSES

    def fit(self, part: Matrices, params: Params, *, seed: int, progress: Progress) -> Trained:
        target = target_of(part)
        if target.nothing_to_learn:
            return constant_model(part, target)
        with reproducible():
            model, log = _grown(part, target, params, seed, progress)
            trees = len(model.estimators_)
            answer = model.predict_proba if target.classes else model.predict

            def native(x: Float32) -> Float64:
                return np.asarray(answer(x), dtype=np.float64)

            return trained(part, target, forest_of(model, target.outputs), np.zeros(target.outputs), native, trees, log, mean=True)


def _grown(m: Matrices, target: Target, params: Params, seed: int, progress: Progress) -> tuple[Any, list[dict[str, Any]]]:
    model = _model(target, params, len(m.y), seed)
    weight = row_weights(target.y, target.classes, params.balanced)
    total: Any = 0.0
    log: list[dict[str, Any]] = []
    for count in [*range(_CHUNK, params.trees, _CHUNK), params.trees]:
        old = len(getattr(model, "estimators_", ()))
        model.n_estimators = count
        model.fit(m.x, target.y, sample_weight=weight)  # warm: grows the new trees only
        score = float("nan")
        if len(target.y_validation):
            for tree in model.estimators_[old:]:
                total = total + (tree.predict_proba if target.classes else tree.predict)(target.x_validation, check_input=False)
            score = -loss_of(total / count, target.y_validation, target.classes)
            log.append({"round": count, "loss": round(-score, 9)})
        if progress(count, score):
            break
    return model, log


def _model(target: Target, params: Params, rows: int, seed: int) -> Any:
    kind = ("RandomForest" if params.bootstrap else "ExtraTrees") + ("Classifier" if target.classes else "Regressor")
    return getattr(ensemble, kind)(
        min_samples_leaf=min(params.min_samples_leaf, max(1, rows // 10)),
        max_leaf_nodes=params.max_leaves,
        max_features=params.max_features or (_FOR_CLASSES if target.classes else _FOR_NUMBERS),
        bootstrap=params.bootstrap,
        random_state=seed,
        warm_start=True,
        n_jobs=1,
    )


def forest_of(model: Any, outputs: int) -> Forest:
    """Return a scikit-learn forest's trees; the leaves of all of them add up to its answer."""
    trees = [found.tree_ for found in model.estimators_]
    sizes = [tree.node_count for tree in trees]
    start = np.cumsum([0, *sizes[:-1]])
    shift = np.repeat(start, sizes)
    left, right = (np.concatenate([getattr(tree, name) for tree in trees]) for name in ("children_left", "children_right"))
    leaf = left < 0
    forest = Forest(
        root=start,
        left=np.where(leaf, -1, left + shift),
        right=np.where(leaf, -1, right + shift),
        feature=np.concatenate([tree.feature for tree in trees]).astype(np.int64),
        threshold=at_most(np.concatenate([tree.threshold for tree in trees])),
        missing_left=np.concatenate([tree.missing_go_to_left for tree in trees]).astype(np.bool_),
        value=np.zeros(len(left)),
    )
    value = np.concatenate([tree.value[:, 0, :] for tree in trees])
    return per_output(
        forest, _shares(value, len(trees), outputs) if hasattr(model, "classes_") else np.round(value / len(trees), _DECIMALS)
    )


def _shares(value_MS: Float64, trees: int, outputs: int) -> Float64:
    """Return what each leaf adds to the classes' probabilities, rounded down, so that no sum exceeds 1; of two classes, the second's."""
    share = (value_MS / value_MS.sum(axis=1, keepdims=True))[:, -outputs:] / trees
    rounded: Float64 = np.maximum(np.floor(share * 10**_DECIMALS - 0.5), 0.0) / 10**_DECIMALS
    return rounded


LEARNER = _ExtraTrees()
