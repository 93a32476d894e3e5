"""logistic: L2-regularised logistic regression, or ridge regression for numbers; exported as one ONNX matrix product."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from pydantic import Field

from components.core.errors import IntegrityError
from components.core.params import Frozen
from components.model.runtime import Float32, load_onnx
from components.train.features import Features, Matrices, prepare
from components.train.learners.base import Progress, Trained
from components.train.learners.tabular import Float64, Target, fits_tables, loss_of, row_weights, target_of
from components.train.onnx_graph import OnnxGraph
from components.train.reproducible import reproducible
from components.train.standard import standard_of

__all__ = ["LEARNER"]

_PATH = (1e-1, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 1e-5)
_USUAL = 1e-3
_UNSEEN = -30.0  # raw score of a class without a training row
_ENOUGH = 1e-5  # largest element of the gradient at which the loss has settled

Line = tuple[Float64, Float64]
"""Weights (S, D) and bias (S,)."""


class Params(Frozen):
    """The recipe's `params`.

    Attributes:
        strength: Of the regularisation, per row; C of scikit-learn is 1 / (strength * rows). 0: the one of a path from 0.1 to
            0.00001 with the least validation loss; 0.001 where there are no rows to judge by.
        balanced: Whether rare classes weigh as much as frequent ones.
        iterations: At most, for each strength.
    """

    strength: float = Field(0.0, ge=0, le=1e3)
    balanced: bool = False
    iterations: int = Field(200, ge=1, le=10_000)


class _Logistic:
    name = "logistic"
    features: type[Frozen] = Features
    params: type[Frozen] = Params
    fits = staticmethod(fits_tables)
    prepare = staticmethod(prepare)

    def fit(self, part: Matrices, params: Params, *, seed: int, progress: Progress) -> Trained:
        target = target_of(part)
        with reproducible():
            standard = standard_of(part.x)
            z, z_validation = standard.apply(part.x), standard.apply(target.x_validation)
            judged = len(target.y_validation) > 0
            path = (params.strength,) if params.strength else _PATH if judged else (_USUAL,)
            lines = _ridges(z, target, path) if not part.classes else _regressions(z, target, path, params, progress)
            best, log = _best(lines, path, z_validation, target, progress)
        weight_KD, bias_K = _unscaled(best, target)
        graph = OnnxGraph(["N", part.x.shape[1]])
        y = graph.dense(standard.write(graph), weight_KD, bias_K)
        weights = graph.to_bytes(graph.add("Softmax", y, axis=1) if part.classes else y, ["N", len(bias_K)])
        return Trained("onnx", weights, load_onnx(weights), None, log)


def _best(lines: Any, path: tuple[float, ...], z: Float32, target: Target, progress: Progress) -> tuple[Line, list[dict[str, Any]]]:
    """Walk along the path as long as the validation loss falls; without validation rows it has one step."""
    kept: Line | None = None
    least, log = math.inf, list[dict[str, Any]]()
    for number, (strength, line) in enumerate(zip(path, lines, strict=True)):
        if not len(z):
            progress(number + 1, math.nan)
            return line, log
        loss = loss_of(_answers(z, line, target), target.y_validation, target.classes)
        log.append({"strength": strength, "loss": round(loss, 9)})
        if not loss < least:
            break
        kept, least = line, loss
        if progress(number + 1, -loss):
            break
    if kept is None:
        raise IntegrityError("the validation loss is no number", do="report this: the model is not saved")
    return kept, log


def _answers(z: Float32, line: Line, target: Target) -> Float64:
    raw: Float64 = z @ line[0].astype(np.float32).T + line[1]
    return _softmax(raw) if target.classes else raw


def _regressions(z: Float32, target: Target, path: tuple[float, ...], params: Params, progress: Progress) -> Any:
    """Yield the logistic regression of each strength; each starts from the one before."""
    from scipy.optimize import minimize

    size, seen = z.shape[1], len(target.seen)
    share = np.bincount(target.y.astype(np.int64)) / len(target.y)
    start = np.concatenate([np.zeros((seen, size)), np.log(share)[:, None]], axis=1).ravel()
    weight = row_weights(target.y, target.classes, params.balanced)
    onehot_NS = np.eye(seen)[target.y.astype(np.int64)]
    weight_N1 = (np.ones(len(z)) if weight is None else weight)[:, None] / len(z)
    done = 0

    def told(_: Any) -> None:
        nonlocal done
        done += 1
        if progress(0, math.nan):
            raise StopIteration

    for strength in path:

        def loss(flat: Float64, strength: float = strength) -> tuple[float, Float64]:
            w = flat.reshape(seen, size + 1)
            chance = _softmax(z @ w[:, :size].astype(np.float32).T + w[:, size])
            error = weight_N1 * (chance - onehot_NS)
            slope = np.concatenate([error.astype(np.float32).T @ z + strength * w[:, :size], error.sum(axis=0)[:, None]], axis=1)
            fit = -(weight_N1[:, 0] * np.log(np.maximum((chance * onehot_NS).sum(axis=1), 1e-300))).sum()
            return float(fit + strength / 2 * (w[:, :size] ** 2).sum()), slope.ravel()

        options = {"maxiter": params.iterations, "gtol": _ENOUGH, "ftol": 1e-9}
        start = minimize(loss, start, jac=True, method="L-BFGS-B", callback=told, options=options).x
        found = start.reshape(seen, size + 1)
        yield found[:, :size], found[:, size]


def _ridges(z: Float32, target: Target, path: tuple[float, ...]) -> Any:
    """Yield the ridge regression of each strength: (X'X / N + strength) w = X'y / N on centred data, by one decomposition."""
    x = z.astype(np.float64)
    center_D, mean = x.mean(axis=0), float(target.y.mean())
    x = x - center_D
    values, vectors = np.linalg.eigh(x.T @ x / len(x))
    turned = vectors.T @ (x.T @ (target.y - mean)) / len(x)
    for strength in path:
        weight_D = vectors @ (turned / (np.maximum(values, 0.0) + strength))
        yield weight_D[None, :], np.array([mean - float(center_D @ weight_D)])


def _unscaled(line: Line, target: Target) -> Line:
    """Turn a number's units back, and give classes without a training row a score that never wins."""
    weight, bias = line
    if not target.classes:
        return weight * target.spread, bias * target.spread + target.center
    weight_KD, bias_K = np.zeros((target.classes, weight.shape[1])), np.full(target.classes, _UNSEEN)
    weight_KD[target.seen], bias_K[target.seen] = weight, bias - bias.mean()
    return weight_KD, bias_K


def _softmax(raw: Float64) -> Float64:
    power = np.exp(raw - raw.max(axis=1, keepdims=True))
    shares: Float64 = power / power.sum(axis=1, keepdims=True)
    return shares


LEARNER = _Logistic()
