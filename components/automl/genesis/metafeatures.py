"""What a data set looks like, in numbers that compare it with others: statistical, information-theoretic and landmarking.

After Rivolli et al., "Meta-features for meta-learning" (Knowledge-Based Systems, 2022). Numbers that grow with the size of the data
are logarithms, so that a distance between two data sets is one of proportions.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from components.core.params import Tabular
from components.model.plan import numbers
from components.train.data import Data, Rows
from components.train.folds import Folds, hashed_folds

__all__ = ["distance", "metafeatures", "spreads"]

_SAMPLE = 4000
"""Rows that statistics are taken from."""
_LANDMARK_ROWS = 1000
_LANDMARK_COLUMNS = 60
_LANDMARK_FOLDS = 3
_IMAGES = 100
_BINS = 8
_FURTHEST = 3.0
"""No single meta-feature counts for more spreads than this: one odd number must not hide what is alike."""
Float64 = NDArray[np.float64]
Codes = NDArray[np.int64]


def metafeatures(data: Data) -> dict[str, float]:
    """Describe the rows of train and validation; equal rows give equal numbers, and all are finite.

    Args:
        data: A table, or lines of text. Large data are described by the rows whose group keys hash lowest.

    Returns:
        Name -> number, by name.
    """
    rows = data.pooled()
    folds = hashed_folds(rows.keys, _LANDMARK_FOLDS)
    order = np.argsort(folds.place, kind="stable")
    found = _table(data.task, rows, folds, order) if isinstance(data.task, Tabular) else _lines(rows, order)
    return {name: float(f"{value:.9g}") if math.isfinite(value) else 0.0 for name, value in sorted(found.items())}


def spreads(known: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return meta-feature -> its standard deviation over known studies; what never differs is left out."""
    names = sorted({name for meta in known for name in meta})
    found = {name: float(np.std([meta[name] for meta in known if name in meta])) for name in names}
    return {name: spread for name, spread in found.items() if spread > 1e-9}


def distance(a: Mapping[str, float], b: Mapping[str, float], spread: Mapping[str, float]) -> float:
    """Return the mean difference in the meta-features that both have, each in its spread; 0 when there is nothing to compare."""
    shared = [name for name in spread if name in a and name in b]
    if not shared:
        return 0.0
    return float(np.mean([min(abs(a[name] - b[name]) / spread[name], _FURTHEST) for name in shared]))


def _lines(rows: Rows, order: NDArray[np.intp]) -> dict[str, float]:
    lengths = [len(str(label)) for label in rows.labels]
    shapes = [size for size in (_size(rows.columns["image"][at]) for at in order[:_IMAGES]) if size]
    return {
        "rows": math.log(max(len(rows), 1)),
        "length": float(np.mean(lengths)) if lengths else 0.0,
        "longest": float(max(lengths, default=0)),
        "alphabet": float(len({character for label in rows.labels for character in str(label)})),
        "height": float(np.mean([height for _, height in shapes])) if shapes else 0.0,
        "aspect": float(np.mean([math.log(width / height) for width, height in shapes])) if shapes else 0.0,
    }


def _size(image: bytes) -> tuple[int, int] | None:
    """Return width and height from an image's head; None when it is none, which the learner will say better."""
    try:
        with Image.open(io.BytesIO(image)) as opened:
            return opened.size
    except (UnidentifiedImageError, OSError):
        return None


def _table(task: Tabular, rows: Rows, folds: Folds, order: NDArray[np.intp]) -> dict[str, float]:
    sample = order[:_SAMPLE]
    columns = {name: _taken(rows.columns[name], sample) for name in task.features}
    numeric = {name: numbers(name, columns[name]) for name, kind in task.features.items() if kind == "number"}
    coded = {name: _codes(columns[name]) for name, kind in task.features.items() if kind == "category"}
    y = _target(task, _taken(rows.labels, sample))
    found = {
        "rows": math.log(max(len(rows), 1)),
        "columns": math.log(len(task.features)),
        "rows_per_column": math.log(max(len(rows), 1) / len(task.features)),
        "category_share": len(coded) / len(task.features),
    }
    found |= _missing(numeric, coded) | _numeric(numeric) | _cardinalities(coded) | _labels(task, y)
    found |= _information(task, numeric, coded, y)
    few = min(_LANDMARK_ROWS, len(sample))
    return found | _landmarks(task, _dense(numeric, coded, few), y[:few], folds.number[sample[:few]])


def _taken(values: Sequence[Any] | NDArray[Any], at: NDArray[np.intp]) -> Any:
    return values[at] if isinstance(values, np.ndarray) else [values[number] for number in at.tolist()]


def _codes(values: Sequence[Any]) -> Codes:
    """Number a category's values in the order of their names; 0 is missing."""
    texts = [value if isinstance(value, str) else None for value in values]
    number = {value: at for at, value in enumerate(sorted({text for text in texts if text is not None}), 1)}
    return np.array([0 if text is None else number[text] for text in texts], dtype=np.int64)


def _target(task: Tabular, labels: Sequence[Any]) -> Float64:
    if task.problem == "regression":
        return np.asarray(labels, dtype=np.float64)
    number = {name: at for at, name in enumerate(task.classes)}
    return np.array([number[task.check_label(label)] for label in labels], dtype=np.float64)  # type: ignore[index]


def _missing(numeric: Mapping[str, Float64], coded: Mapping[str, Codes]) -> dict[str, float]:
    shares = [float(np.isnan(values).mean()) for values in numeric.values()] + [float((codes == 0).mean()) for codes in coded.values()]
    return {"missing_share": float(np.mean(shares)), "missing_columns": float(np.mean(np.array(shares) > 0))}


def _numeric(numeric: Mapping[str, Float64]) -> dict[str, float]:
    """Moments by column, and how columns go together."""
    names = ("skewness", "skewness_spread", "kurtosis", "kurtosis_spread", "whole_share", "correlation", "correlation_high")
    scaled, whole = [], []
    for values in numeric.values():
        known = values[np.isfinite(values)]
        center, spread = (float(known.mean()), float(known.std())) if len(known) else (0.0, 0.0)
        if spread > 1e-12 * max(1.0, abs(center)):
            scaled.append(np.where(np.isfinite(values), (values - center) / spread, 0.0))
            whole.append(bool((known == np.round(known)).all()))
    if not scaled:
        return dict.fromkeys(names, 0.0)
    z = np.column_stack(scaled)
    skewness, kurtosis = np.log1p(np.abs((z**3).mean(axis=0))), np.log1p((z**4).mean(axis=0))
    pairs = np.abs(z.T @ z / len(z))[np.triu_indices(z.shape[1], 1)]
    low, high = (float(pairs.mean()), float(np.quantile(pairs, 0.95))) if len(pairs) else (0.0, 0.0)
    moments = (skewness.mean(), skewness.std(), kurtosis.mean(), kurtosis.std(), np.mean(whole))
    return dict(zip(names, (*map(float, moments), low, high), strict=True))


def _cardinalities(coded: Mapping[str, Codes]) -> dict[str, float]:
    counts = [math.log1p(len(np.unique(codes))) for codes in coded.values()] or [0.0]
    return {"cardinality": float(np.mean(counts)), "cardinality_most": max(counts)}


def _labels(task: Tabular, y: Float64) -> dict[str, float]:
    if task.problem == "regression":
        spread = float(y.std()) if len(y) else 0.0
        z = (y - y.mean()) / spread if spread > 0 else np.zeros_like(y)
        distinct = len(np.unique(y)) / max(len(y), 1)
        return {
            "target_skewness": float(np.log1p(abs((z**3).mean()))),
            "target_kurtosis": float(np.log1p((z**4).mean())),
            "distinct": distinct,
        }
    shares = np.bincount(y.astype(np.int64), minlength=len(task.classes)) / max(len(y), 1)
    return {
        "classes": math.log(len(task.classes)),
        "class_entropy": _entropy(shares) / math.log(len(task.classes)),
        "rarest": float(shares.min()),
    }


def _entropy(shares: Float64) -> float:
    some = shares[shares > 0]
    return float(-(some * np.log(some)).sum())


def _information(task: Tabular, numeric: Mapping[str, Float64], coded: Mapping[str, Codes], y: Float64) -> dict[str, float]:
    """What features tell about the target, in nats; numbers are cut at their quantiles."""
    target = _binned(y) if task.problem == "regression" else y.astype(np.int64)
    features = [_binned(values) for values in numeric.values()] + list(coded.values())
    own = _entropy(np.bincount(target) / max(len(target), 1))
    entropies, shared = [], []
    for codes in features:
        joint = np.bincount(codes * (target.max(initial=0) + 1) + target) / max(len(target), 1)
        entropy = _entropy(np.bincount(codes) / max(len(codes), 1))
        entropies.append(entropy)
        # Miller and Madow: what independent variables would seem to share in so few rows is taken off.
        chance = (len(np.unique(codes)) - 1) * (len(np.unique(target)) - 1) / (2 * max(len(codes), 1))
        shared.append(max(0.0, entropy + own - _entropy(joint) - chance))
    mean = float(np.mean(shared))
    return {
        "information": mean,
        "information_most": max(shared),
        "feature_entropy": float(np.mean(entropies)),
        "noise_to_signal": math.log1p((float(np.mean(entropies)) - mean) / max(mean, 1e-3)),
        "features_needed": math.log1p(own / max(mean, 1e-3)),
    }


def _binned(values: Float64) -> Codes:
    """Cut at quantiles; missing values are a bin of their own."""
    known = values[np.isfinite(values)]
    if not len(known):
        return np.zeros(len(values), dtype=np.int64)
    edges = np.unique(np.quantile(known, np.linspace(0, 1, _BINS + 1)[1:-1]))
    return np.where(np.isfinite(values), 1 + np.searchsorted(edges, values, side="left"), 0)


def _dense(numeric: Mapping[str, Float64], coded: Mapping[str, Codes], few: int) -> Float64:
    """Return (few, D) standardised numbers and codes, for landmarkers."""
    columns = [np.where(np.isfinite(values[:few]), values[:few], np.nan) for values in numeric.values()]
    columns += [codes[:few].astype(np.float64) for codes in coded.values()]
    scaled = []
    for column in columns[:_LANDMARK_COLUMNS]:
        known = column[~np.isnan(column)]
        spread = float(known.std()) if len(known) else 0.0
        if spread > 0 and math.isfinite(spread):
            scaled.append(np.where(np.isnan(column), 0.0, (column - known.mean()) / spread))
    return np.column_stack(scaled) if scaled else np.zeros((few, 1))


def _landmarks(task: Tabular, x: Float64, y: Float64, fold: NDArray[np.int64]) -> dict[str, float]:
    """Cross-validated scores of four cheap learners: 0 is guessing, 1 is perfect."""
    from sklearn.neighbors import KNeighborsRegressor
    from sklearn.tree import DecisionTreeRegressor

    # Classes are one column each, so one regressor serves every problem.
    wide = y[:, None] if task.problem == "regression" else (y[:, None] == np.arange(len(task.classes))).astype(np.float64)
    learners: Mapping[str, Callable[[], Any]] = {
        "stump": lambda: DecisionTreeRegressor(max_depth=1, random_state=0),
        "tree": lambda: DecisionTreeRegressor(max_depth=5, min_samples_leaf=5, random_state=0),
        "neighbour": lambda: KNeighborsRegressor(1, algorithm="brute"),
    }
    scores: dict[str, list[float]] = {name: [] for name in (*learners, "linear")}
    for judge in range(_LANDMARK_FOLDS):
        learned, judged = np.flatnonzero(fold != judge), np.flatnonzero(fold == judge)
        if len(learned) < 2 or not len(judged):
            continue
        for name, make in learners.items():
            told = make().fit(x[learned], wide[learned]).predict(x[judged])
            scores[name].append(_explained(wide[learned], wide[judged], np.asarray(told).reshape(len(judged), -1)))
        scores["linear"].append(_explained(wide[learned], wide[judged], _ridge(x[learned], wide[learned], x[judged])))
    return {f"landmark_{name}": float(np.mean(found)) if found else 0.0 for name, found in scores.items()}


def _ridge(x: Float64, y: Float64, at: Float64) -> Float64:
    center = y.mean(axis=0)
    weights = np.linalg.solve(x.T @ x + 0.01 * len(x) * np.eye(x.shape[1]), x.T @ (y - center))
    return np.asarray(center + at @ weights)


def _explained(learned: Float64, judged: Float64, told: Float64) -> float:
    """Return the share of the variance around the learned mean that the answers explain, at least -1."""
    whole = float(((judged - learned.mean(axis=0)) ** 2).sum())
    return max(-1.0, 1.0 - float(((judged - told) ** 2).sum()) / whole) if whole > 0 else 0.0
