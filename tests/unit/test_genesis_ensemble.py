"""Choosing members: never worse than the best alone, always within the limits, in units that evaluate uses too."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss, roc_auc_score

from components.automl.genesis.ensemble import Candidate, Judge, Limits, select
from components.automl.genesis.scoring import as_matrix, mean_over_folds, measure, trivial
from components.core.params import Tabular

METRICS = {"auc": True, "accuracy": True, "logloss": False, "rmse": False, "mae": False}


def a_judge(metric: str, rows: int, seed: int) -> Judge:
    draw = np.random.default_rng(seed)
    numeric = metric in ("rmse", "mae")
    y = draw.normal(size=rows) if numeric else (draw.random(rows) < 0.4).astype(np.float64)
    return Judge(metric, METRICS[metric], y, np.arange(rows) % 3, 3)


def a_candidate(judge: Judge, number: int, noise: float, **cost: float) -> Candidate:
    draw = np.random.default_rng(number)
    raw = judge.y + noise * draw.normal(size=len(judge.y))
    answers = as_matrix(raw, 0) if judge.metric in ("rmse", "mae") else as_matrix(1 / (1 + np.exp(1 - 2 * raw)), 2)
    return Candidate(f"c{number}", f"learner{number % 2}", answers, **cost)


@given(metric=st.sampled_from(sorted(METRICS)), seed=st.integers(0, 50), count=st.integers(1, 7))
@settings(max_examples=40, deadline=None)
def test_the_ensemble_is_never_worse_than_the_best_alone_and_is_what_its_weights_say(metric: str, seed: int, count: int) -> None:
    judge = a_judge(metric, 90, seed)
    candidates = [a_candidate(judge, n, 0.5 + 0.3 * n) for n in range(count)]
    found = select(candidates, judge, Limits())
    alone = [judge.loss(candidate.answers) for candidate in candidates]
    by_name = {candidate.name: candidate for candidate in candidates}
    mean = sum(weight * by_name[name].answers.astype(np.float64) for name, weight in found.weights.items())
    assert judge.loss(np.asarray(mean, dtype=np.float32)) <= min(alone) + 1e-6
    assert found.value == pytest.approx(-judge.loss(np.asarray(mean)) if judge.maximize else judge.loss(np.asarray(mean)), abs=1e-4)
    assert sum(found.weights.values()) == pytest.approx(1)
    assert list(found.weights.values()) == sorted(found.weights.values(), reverse=True)


@given(metric=st.sampled_from(sorted(METRICS)), seed=st.integers(0, 50))
@settings(max_examples=40, deadline=None)
def test_the_ensemble_is_never_worse_than_the_one_that_serves(metric: str, seed: int) -> None:
    judge = a_judge(metric, 90, seed)
    candidates = [a_candidate(judge, n, 0.8) for n in range(24)]
    draw = np.random.default_rng(seed)
    chosen = draw.choice(24, 3, replace=False)
    serving = {f"c{number}": share for number, share in zip(chosen, draw.dirichlet(np.ones(3)), strict=True)}
    mean = sum(share * candidates[int(name[1:])].answers.astype(np.float64) for name, share in serving.items())
    found = select(candidates, judge, Limits(), start=serving)
    value = -judge.loss(np.asarray(mean, dtype=np.float32)) if judge.maximize else judge.loss(np.asarray(mean, dtype=np.float32))
    assert (found.value >= value - 1e-6) if judge.maximize else (found.value <= value + 1e-6)


@given(megabytes=st.floats(0.5, 10), microseconds=st.floats(1, 60), members=st.integers(1, 5))
@settings(max_examples=30, deadline=None)
def test_limits_hold_for_the_whole_ensemble(megabytes: float, microseconds: float, members: int) -> None:
    judge = a_judge("rmse", 60, 0)
    candidates = [a_candidate(judge, n, 1.0, megabytes=0.4 + n / 2, microseconds=1.0 + 7 * n) for n in range(8)]
    found = select(candidates, judge, Limits(megabytes, microseconds), members=members)
    chosen = [candidate for candidate in candidates if candidate.name in found.weights]
    assert sum(candidate.megabytes for candidate in chosen) <= megabytes
    assert sum(candidate.microseconds for candidate in chosen) <= microseconds
    assert len(chosen) <= members


def test_the_smallest_is_taken_when_none_is_within_the_limits() -> None:
    judge = a_judge("auc", 60, 0)
    candidates = [a_candidate(judge, n, 1.0, megabytes=9.0 - n) for n in range(3)]
    assert list(select(candidates, judge, Limits(megabytes=1.0)).weights) == ["c2"]


def test_equal_candidates_give_equal_ensembles() -> None:
    judge = a_judge("logloss", 200, 1)
    candidates = [a_candidate(judge, n, 1.0) for n in range(6)]
    assert select(candidates, judge, Limits()) == select(candidates[::-1], judge, Limits())


@given(seed=st.integers(0, 1000), ties=st.booleans())
@settings(max_examples=40, deadline=None)
def test_metrics_are_scikit_learns(seed: int, ties: bool) -> None:
    draw = np.random.default_rng(seed)
    y = np.concatenate([[0.0, 1.0], (draw.random(50) < 0.3).astype(np.float64)])
    p = draw.random(52)
    p = np.round(p, 1) if ties else p
    both = as_matrix(p, 2)
    assert measure("auc", y, both) == pytest.approx(roc_auc_score(y, p.astype(np.float32)), abs=1e-6)
    assert measure("logloss", y, both) == pytest.approx(log_loss(y, np.clip(p, 1e-7, 1 - 1e-7)), rel=1e-4)


def test_a_fold_with_one_class_does_not_count() -> None:
    y, p = np.array([0.0, 1.0, 1.0, 1.0]), as_matrix(np.array([0.1, 0.9, 0.2, 0.3]), 2)
    assert mean_over_folds("auc", y, p, np.array([0, 0, 1, 1]), 2) == 1.0
    assert np.isnan(mean_over_folds("auc", y[1:], p[1:], np.array([0, 0, 1]), 2))


@pytest.mark.parametrize(
    ("problem", "metric", "expected"), [("binary", "auc", 0.5), ("binary", "accuracy", 0.75), ("regression", "mae", 0.4)]
)
def test_a_constant_answer_is_the_zero_of_skill(problem: str, metric: str, expected: float) -> None:
    given: dict[str, Any] = {"problem": problem, "metric": metric, "features": {"a": "number"}}
    task = Tabular.model_validate(given if problem == "regression" else {**given, "classes": ("a", "b")})
    y = np.array([0.0, 1.0, 1.0, 2.0, 1.0]) if problem == "regression" else np.array([0.0, 0.0, 0.0, 1.0])
    assert trivial(task, y) == pytest.approx(expected)
