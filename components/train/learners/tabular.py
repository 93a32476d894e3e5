"""What learners of tables share: usual features, what a fold's targets are, and turning any library's trees into LightGBM text."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from components.core.errors import DataError, IntegrityError
from components.core.params import Task
from components.model.runtime import Scores, scores_of_text
from components.train.features import Dates, Encoding, Features, Fill, Intervals, Log, Matrices, Scale
from components.train.forest import Forest, constant, to_text
from components.train.learners.base import Progress, Trained

__all__ = [
    "Float64",
    "Judge",
    "Loss",
    "NetworkFeatures",
    "Target",
    "TreeFeatures",
    "TreeLoss",
    "constant_model",
    "fits_tables",
    "loss_of",
    "row_weights",
    "target_of",
    "trained",
]

Float64 = NDArray[np.float64]
Loss = Literal["l2", "l1", "huber"]
"""Of a regression: squared error, absolute error, or squared up to one standard deviation and absolute beyond."""
TreeLoss = Literal["l2", "l1", "huber", "poisson"]
"""Those, and the likelihood of Poisson, by which trees learn the logarithm of numbers that are never negative."""

_UNSEEN = -10.0  # raw score of a class without a training row: far below the others, yet other folds may outvote it
_LEAST_SHARE = 1e-9  # of a class without a training row
_LARGEST_DIFFERENCE = 1e-4  # libraries add up leaves in float32, LightGBM in float64
_CHECKED = 256


class TreeFeatures(Features):
    """The recipe's `features`; the defaults leave to the trees what trees do best."""

    dates: Dates = "numbers"
    fill: Fill = "none"
    indicator: bool = False
    scale: Scale = "none"
    bins: Intervals = 0
    category: Encoding = "code"


class NetworkFeatures(Features):
    """The recipe's `features`; skewed numbers are logged by default, because gradients suffer from them. Networks embed numbers
    themselves, so no intervals are cut."""

    log: Log = "auto"
    bins: Intervals = 0


@dataclass(frozen=True)
class Target:
    """What a library is asked to learn: classes without gaps, or a number in units of its spread, or the logarithm of one.

    Attributes:
        x_validation: (V, D) without rows whose class has no training row.
        y: (N,) 0 … S - 1, or (value - center) / spread; never a logarithm, which the library takes itself.
        y_validation: (V,).
        seen: (S,) the classes with a training row; empty for regression.
        classes: K; 0 for regression.
        center: Of a regression's values; 0 for a logarithm.
        spread: Of a regression's values, for a logarithm their mean; 0 when they are all the same.
        logarithmic: Whether the library's raw scores are logarithms.
    """

    x_validation: NDArray[np.float32]
    y: Float64
    y_validation: Float64
    seen: NDArray[np.int64]
    classes: int
    center: float = 0.0
    spread: float = 1.0
    logarithmic: bool = False

    @property
    def outputs(self) -> int:
        """How many raw scores a library gives: S, but 1 for two classes and for a number."""
        return 1 if self.classes == 2 or not self.classes else len(self.seen)

    @property
    def problem(self) -> str:
        """`binary`, `multiclass` or `regression`."""
        return "regression" if not self.classes else "binary" if self.classes == 2 else "multiclass"

    @property
    def objective(self) -> str:
        """A name of `components.train.forest.OBJECTIVES`."""
        return "poisson" if self.logarithmic else self.problem

    @property
    def nothing_to_learn(self) -> bool:
        """Whether every training row has the same target."""
        return len(self.seen) == 1 if self.classes else self.spread == 0.0


class Judge:
    """Tells `progress`, says when to stop, and remembers the best round.

    Attributes:
        best_round: 0 as long as there was no loss to judge by.
        log: Round by round.
    """

    def __init__(self, patience: int, progress: Progress) -> None:
        self._patience, self._progress, self._best = patience, progress, float("inf")
        self.best_round = 0
        self.log: list[dict[str, Any]] = []

    def stops(self, done: int, loss: float | None) -> bool:
        """Whether training ends after round `done`; `loss` is the validation's, None without validation rows."""
        if loss is None:
            return self._progress(done, math.nan)
        self.log.append({"round": done, "loss": round(loss, 9)})
        if loss < self._best:
            self._best, self.best_round = loss, done
        return self._progress(done, -loss) or done - self.best_round >= self._patience


def fits_tables(task: Task) -> bool:
    """Whether the task is a table's."""
    return task.kind == "tabular"


def target_of(m: Matrices, loss: str = "l2") -> Target:
    """Return a fold's targets as libraries want them.

    Args:
        loss: Of a regression; classes have none.

    Raises:
        DataError: It takes a logarithm, and a training label is negative.
    """
    if not m.classes:
        return _number(m, logarithmic=loss == "poisson")
    seen, y = np.unique(m.y.astype(np.int64), return_inverse=True)
    judged = np.isin(m.y_validation, seen)
    known = np.searchsorted(seen, m.y_validation[judged])
    return Target(m.x_validation[judged], y.astype(np.float64), known.astype(np.float64), seen, m.classes)


def _number(m: Matrices, *, logarithmic: bool) -> Target:
    if logarithmic and m.y.min() < 0:
        raise DataError("loss 'poisson' learns a logarithm, and some labels are negative", do="use another loss")
    center, spread = float(m.y.mean()), float(m.y.std())
    varies = spread > 1e-12 * max(1.0, abs(center))
    y_validation = m.y_validation
    if logarithmic:
        center, spread, y_validation = 0.0, center, np.maximum(m.y_validation, 0.0)
    unit = spread if varies else 1.0
    none = np.empty(0, dtype=np.int64)
    given = ((m.y - center) / unit, (y_validation - center) / unit)
    return Target(m.x_validation, *given, none, 0, center, spread if varies else 0.0, logarithmic)


def row_weights(y: Float64, classes: int, balanced: bool) -> Float64 | None:
    """Return (N,) weights under which every class that occurs weighs the same; None: all rows weigh 1."""
    if not balanced or not classes:
        return None
    counts = np.bincount(y.astype(np.int64), minlength=classes)
    weights: Float64 = (len(y) / (np.count_nonzero(counts) * np.maximum(counts, 1)))[y.astype(np.int64)]
    return weights


def loss_of(scores: Float64, y: Float64, classes: int) -> float:
    """Return the log-loss of (N, K) probabilities, or the mean squared error of (N,) values."""
    if not classes:
        return float(np.mean((scores.reshape(len(y)) - y) ** 2))
    return float(-np.log(np.clip(scores[np.arange(len(y)), y.astype(np.int64)], 1e-15, 1.0)).mean())


def trained(
    m: Matrices,
    target: Target,
    forest: Forest,
    bias: Float64,
    native: Scores,
    rounds: int | None,
    log: list[dict[str, Any]],
    *,
    mean: bool = False,
) -> Trained:
    """Turn a library's trees into LightGBM text and check that both answer alike.

    Args:
        m: The fold.
        target: What was learned.
        forest: The trees, in the target's units and classes; S outputs.
        bias: (S,) what is added to the sums of leaves.
        native: The library's own answer to rows: probabilities, or values in the target's units.
        rounds: Of the model; None: it has none.
        log: Of the training.
        mean: Whether the sums already are probabilities.

    Raises:
        IntegrityError: They differ.
    """
    if target.logarithmic:
        bias = bias + math.log(target.spread)
    elif not target.classes:
        forest, bias = replace(forest, value=forest.value * target.spread), bias * target.spread + target.center
    elif target.outputs > 1:
        forest, bias = _widened(forest, bias, target, 0.0 if mean else _UNSEEN)
    objective = "mean" if mean and target.classes else target.objective
    text = to_text(forest, bias, m.x.shape[1], objective)
    scores = scores_of_text(text)
    few = m.x[:_CHECKED]
    ours, theirs = scores(few), native(few)
    if not target.classes:
        theirs = theirs.reshape(len(few)) * target.spread + target.center
    elif target.outputs == 1:
        theirs = theirs if theirs.ndim == 1 else theirs[:, 1]
    else:
        ours = ours[:, target.seen]
    difference = float(np.abs(ours - theirs).max()) / (1.0 if target.classes else max(target.spread, 1e-6 * abs(target.center)))
    if not difference <= _LARGEST_DIFFERENCE:
        raise IntegrityError(f"the exported trees differ from the library's by {difference}", do="report this: the model is not saved")
    return Trained("lightgbm", text, scores, rounds, log)


def constant_model(m: Matrices, target: Target) -> Trained:
    """Return the model that answers every row with the classes' shares or the mean: there is nothing to learn from."""
    values = np.array([m.y.mean()])
    if target.logarithmic:
        values = np.log(np.maximum(values, _LEAST_SHARE))
    if target.classes:
        share = np.bincount(target.seen, weights=np.bincount(target.y.astype(np.int64)), minlength=target.classes) / len(target.y)
        values = np.log(np.maximum(share, _LEAST_SHARE))
        values = values[1:] - values[:1] if target.classes == 2 else values
    text = constant(values.tolist(), m.x.shape[1], target.objective)
    return Trained("lightgbm", text, scores_of_text(text), 1)


def _widened(forest: Forest, bias_S: Float64, target: Target, unseen: float) -> tuple[Forest, Float64]:
    """Give classes without a training row trees of one leaf."""
    size = len(forest.left)
    root = np.full((len(forest.root) // len(bias_S), target.classes), size, dtype=np.int64)
    root[:, target.seen] = forest.root.reshape(-1, len(bias_S))
    bias_K = np.full(target.classes, unseen)
    bias_K[target.seen] = bias_S
    widened = Forest(
        root.ravel(),
        np.append(forest.left, -1),
        np.append(forest.right, -1),
        np.append(forest.feature, 0),
        np.append(forest.threshold, np.float32(0)),
        np.append(forest.missing_left, False),
        np.append(forest.value, 0.0),
    )
    return widened, bias_K
