"""logistic: L2-regularised logistic regression, or ridge regression for numbers; exported as one ONNX matrix product."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from components.core.params import Frozen, Tabular, Task
from components.model.runtime import load_onnx
from components.train.data import Data
from components.train.features import Features, Matrices, matrices
from components.train.learners.base import Progress, Trained, options
from components.train.onnx_graph import OnnxGraph

__all__ = ["LEARNER"]


class Params(Frozen):
    """The recipe's `params`.

    Attributes:
        strength: Of the regularisation, per row; C of scikit-learn is 1 / (strength * rows).
        balanced: Whether rare classes weigh as much as frequent ones.
        iterations: At most.
    """

    strength: float = Field(1e-3, gt=0, le=1e3)
    balanced: bool = False
    iterations: int = Field(300, ge=1, le=10_000)


class _Logistic:
    name = "logistic"
    features: type[Frozen] = Features
    params: type[Frozen] = Params

    def fits(self, task: Task) -> bool:
        return isinstance(task, Tabular)

    def train(self, data: Data, features: Mapping[str, Any], params: Mapping[str, Any], *, seed: int, progress: Progress) -> Trained:
        given = options(Params, params, "params of logistic")
        m = matrices(data, options(Features, features, "features of logistic"))
        weight_KD, bias_K = _ridge(m, given) if not m.classes else _logistic(m, given, seed)
        graph = OnnxGraph(["N", m.x.shape[1]])
        y = graph.dense("x", weight_KD, bias_K)
        weights = graph.to_bytes(graph.add("Softmax", y, axis=1) if m.classes else y, ["N", len(bias_K)])
        return Trained("onnx", weights, m.plan.model_dump(mode="json"), load_onnx(weights))


def _logistic(m: Matrices, params: Params, seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(
        C=1 / (params.strength * len(m.y)),
        max_iter=params.iterations,
        class_weight="balanced" if params.balanced else None,
        random_state=seed,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # `iterations` is a budget, not an error
        model.fit(m.x.astype(np.float64), m.y)
    coefficients, intercept = model.coef_, model.intercept_
    if len(model.classes_) == 2:  # one score for the second class; softmax wants one for each
        coefficients, intercept = np.concatenate([0 * coefficients, coefficients]), np.concatenate([0 * intercept, intercept])
    weight_KD = np.zeros((m.classes, m.x.shape[1]))
    bias_K = np.full(m.classes, -30.0)  # a class without a training row is never chosen
    seen = model.classes_.astype(np.int64)
    weight_KD[seen], bias_K[seen] = coefficients, intercept
    return weight_KD, bias_K


def _ridge(m: Matrices, params: Params) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Solve (X'X + strength * N) w = X'y on centred data, in float64."""
    x = m.x.astype(np.float64)
    center_D, mean = x.mean(axis=0), float(m.y.mean())
    x = x - center_D
    gram_DD = x.T @ x + params.strength * len(x) * np.eye(x.shape[1])
    weight_D = np.linalg.solve(gram_DD, x.T @ (m.y - mean))
    return weight_D[None, :], np.array([mean - float(center_D @ weight_D)])


LEARNER = _Logistic()
