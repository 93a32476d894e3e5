"""Other libraries' trees as LightGBM text: the same answers, at thresholds, around zero and without values too."""

from __future__ import annotations

from typing import Any

import catboost
import lightgbm as lgb
import numpy as np
import pytest
import xgboost as xgb
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from components.core.errors import IntegrityError
from components.model.lightgbm_text import check_trees
from components.train.features import Matrices
from components.train.forest import Forest, at_most, below, constant, per_output, to_text
from components.train.learners import learner, never
from components.train.learners.catboost import forest_of as forest_of_catboost
from components.train.learners.extra_trees import forest_of as forest_of_scikit_learn
from components.train.learners.xgboost import forest_of as forest_of_xgboost

TINY = np.float32(1e-45)  # the smallest number above 0
SPECIAL = (0.0, -0.0, TINY, -TINY, np.float32(1.1754944e-38), 1.0, -1.0, 0.1, np.float32(3.4e38), np.float32(-3.4e38))
ZERO = 1e-35  # LightGBM takes what is closer to zero than this for zero
numbers = st.one_of(st.sampled_from(SPECIAL), st.floats(width=32, allow_nan=False, allow_infinity=False))


@st.composite
def forests(draw: Any) -> tuple[Forest, int]:
    """Return T random trees, a multiple of the K outputs, over 3 columns."""
    outputs, iterations = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    left: list[int] = []
    right: list[int] = []
    root: list[int] = []
    for _ in range(outputs * iterations):
        root.append(len(left))
        left.append(-1)
        right.append(-1)
        for _ in range(draw(st.integers(0, 6))):
            leaves = [node for node in range(root[-1], len(left)) if left[node] < 0]
            node = draw(st.sampled_from(leaves))
            left[node], right[node] = len(left), len(left) + 1
            left += [-1, -1]
            right += [-1, -1]
    size = len(left)
    few = st.lists(numbers, min_size=size, max_size=size)
    forest = Forest(
        np.array(root),
        np.array(left),
        np.array(right),
        np.array(draw(st.lists(st.integers(0, 2), min_size=size, max_size=size))),
        np.array(draw(few), dtype=np.float32),
        np.array(draw(st.lists(st.booleans(), min_size=size, max_size=size))),
        np.array(draw(st.lists(st.floats(-1e6, 1e6), min_size=size, max_size=size))),
    )
    return forest, outputs


def walked(forest: Forest, x: NDArray[np.float32], outputs: int) -> NDArray[np.float64]:
    """Return (N, outputs) sums of leaves, node by node, as `Forest` says."""
    total = np.zeros((len(x), outputs))
    for row, values in enumerate(x):
        for tree, node in enumerate(forest.root.tolist()):
            while forest.left[node] >= 0:
                value = values[forest.feature[node]]
                left = forest.missing_left[node] if np.isnan(value) else value <= forest.threshold[node]
                node = int(forest.left[node] if left else forest.right[node])
            total[row, tree % outputs] += forest.value[node]
    return total


def raw(text: bytes, x: NDArray[np.float32], outputs: int) -> NDArray[np.float64]:
    check_trees(text)
    return np.asarray(lgb.Booster(model_str=text.decode()).predict(x, raw_score=True, num_threads=1)).reshape(len(x), outputs)


def around(thresholds: NDArray[np.float32], columns: int, rows: int = 200) -> NDArray[np.float32]:
    """Return rows of values that lie on thresholds, next to them, at ±0, or are missing."""
    with np.errstate(all="ignore"):
        up, down = (np.nextafter(thresholds, np.float32(side)) for side in (np.inf, -np.inf))
    pool = np.concatenate([thresholds, up, down, np.array([0.0, -0.0, np.nan, TINY], dtype=np.float32)])
    pool = np.where(np.abs(pool) < ZERO, np.copysign(np.float32(0), pool), pool)
    pool = pool[np.isnan(pool) | np.isfinite(pool)]
    return np.random.default_rng(0).choice(pool, size=(rows, columns)).astype(np.float32)


@settings(max_examples=150, deadline=None)
@given(forests(), st.lists(st.floats(-1e3, 1e3), min_size=3, max_size=3))
def test_the_text_answers_as_the_trees_do(made: tuple[Forest, int], bias: list[float]) -> None:
    forest, outputs = made
    x = around(forest.threshold, 3, rows=30)
    bias_K = np.array(bias[:outputs])
    expected = walked(forest, x, outputs) + bias_K
    objective = "regression" if outputs == 1 else "mean"
    assert raw(to_text(forest, bias_K, 3, objective), x, outputs) == pytest.approx(expected, rel=1e-9, abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(forests(), st.integers(2, 4))
def test_every_output_has_trees_of_its_own(made: tuple[Forest, int], outputs: int) -> None:
    forest, _ = made
    value = np.round(np.random.default_rng(1).normal(size=(len(forest.left), outputs)), 0)  # many equal leaves
    x = around(forest.threshold, 3, rows=30)
    ones = [Forest(**{**vars(forest), "value": np.ascontiguousarray(value[:, k])}) for k in range(outputs)]
    expected = np.concatenate([walked(one, x, 1) for one in ones], axis=1)
    text = to_text(per_output(forest, value), np.zeros(outputs), 3, "mean")
    assert raw(text, x, outputs) == pytest.approx(expected, abs=1e-9)


@given(numbers, numbers)
def test_rules_of_other_libraries(number: float, threshold: float) -> None:
    x, t = np.float32(number), np.array([threshold], dtype=np.float32)
    assert (x <= below(t)[0]) == (x < t[0])
    double = np.array([threshold * (1 + 1e-9)])
    assert (x <= at_most(double)[0]) == (float(x) <= double[0])


def table(problem: int, rows: int = 400) -> Matrices:
    """Return rows with few distinct values, so that thresholds and values meet; missing ones where they may be."""
    draw = np.random.default_rng(problem)
    x = np.round(draw.normal(size=(rows, 4)), 1).astype(np.float32)
    x[:, 1] = np.where(draw.random(rows) < 0.2, np.nan, x[:, 1])
    signal = x[:, 0] + np.where(np.isnan(x[:, 1]), 2.0, x[:, 1]) * x[:, 2]
    y = {2: (signal > 0.3).astype(np.float64), 3: np.digitize(signal, [-0.5, 0.6]).astype(np.float64), 0: signal * 1000 + 5000.0}[problem]
    return Matrices(x, y, x[:80], y[:80], problem)


@pytest.mark.parametrize("problem", [2, 3, 0])
def test_xgboost(problem: int) -> None:
    m = table(problem)
    kind = {2: "binary:logistic", 3: "multi:softprob", 0: "reg:squarederror"}[problem]
    given = {"objective": kind, "max_depth": 5, "nthread": 1, "base_score": 0.5, **({"num_class": 3} if problem == 3 else {})}
    booster = xgb.train(given, xgb.DMatrix(m.x, m.y, nthread=1), 30)
    outputs = 3 if problem == 3 else 1
    forest = forest_of_xgboost(booster, 30 * outputs)
    x = np.concatenate([m.x, around(forest.threshold, 4)])
    expected = booster.predict(xgb.DMatrix(x, nthread=1), output_margin=True).reshape(len(x), outputs)
    bias = np.full(outputs, 0.0 if problem == 2 else 0.5)
    assert raw(to_text(forest, bias, 4, "mean"), x, outputs) == pytest.approx(expected, rel=1e-6, abs=1e-5)


@pytest.mark.parametrize("problem", [2, 3, 0])
@pytest.mark.parametrize("boosting", ["Plain", "Ordered"])
def test_catboost(problem: int, boosting: str) -> None:
    m = table(problem)
    kind = {2: "Logloss", 3: "MultiClass", 0: "RMSE"}[problem]
    fixed = {"thread_count": 1, "verbose": False, "allow_writing_files": False}
    model = catboost.CatBoost({"loss_function": kind, "iterations": 30, "depth": 5, "boosting_type": boosting, **fixed})
    model.fit(catboost.Pool(m.x, m.y))
    outputs = 3 if problem == 3 else 1
    forest, bias = forest_of_catboost(model, outputs)
    x = np.concatenate([m.x, around(forest.threshold, 4)])
    expected = model.predict(x, prediction_type="RawFormulaVal", thread_count=1).reshape(len(x), outputs)
    assert raw(to_text(forest, bias, 4, "mean"), x, outputs) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("problem", [2, 3, 0])
@pytest.mark.parametrize("kind", ["ExtraTrees", "RandomForest"])
def test_scikit_learn(problem: int, kind: str) -> None:
    from sklearn import ensemble

    m = table(problem)
    model = getattr(ensemble, kind + ("Classifier" if problem else "Regressor"))(20, min_samples_leaf=2, random_state=0, n_jobs=1)
    model.fit(m.x, m.y)
    outputs = 3 if problem == 3 else 1
    forest = forest_of_scikit_learn(model, outputs)
    x = around(forest.threshold, 4)
    x[:, [0, 2, 3]] = np.nan_to_num(x[:, [0, 2, 3]])  # scikit-learn takes missing values where it has learned from some
    x = np.concatenate([m.x, x])
    expected = model.predict_proba(x)[:, -outputs:] if problem else model.predict(x)[:, None]
    assert raw(to_text(forest, np.zeros(outputs), 4, "mean"), x, outputs) == pytest.approx(expected, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("name", ["xgboost", "catboost", "extra_trees"])
def test_equal_fits_give_equal_bytes_whatever_the_layout_of_the_matrix(name: str) -> None:
    m, found = table(3), learner(name)
    other = Matrices(np.asfortranarray(m.x), m.y, m.x_validation, m.y_validation, 3)
    few = found.params.model_validate({"rounds": 10} if name != "extra_trees" else {"trees": 10})
    first, second = (found.fit(part, few, seed=1, progress=never) for part in (m, other))
    assert first.weights == second.weights


def test_a_constant() -> None:
    x = np.zeros((2, 3), dtype=np.float32)
    assert raw(constant([1.5, -2.0], 3, "mean"), x, 2).tolist() == [[1.5, -2.0]] * 2


def test_what_can_not_be_written_is_refused() -> None:
    forest = Forest(*(np.array([value]) for value in (0, -1, -1, 0, np.float32(0), False, np.inf)))
    with pytest.raises(IntegrityError, match="finite"):
        to_text(forest, np.zeros(1), 1, "mean")
    with pytest.raises(IntegrityError, match="iterations"):
        to_text(forest, np.zeros(2), 1, "mean")
