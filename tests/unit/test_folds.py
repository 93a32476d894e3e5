"""Folds: stable when rows come and go, groups kept together, time kept in order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from components.train.folds import ALWAYS_TRAINS, INNER, Folds, Validation, hashed_folds, holdout, time_folds

KEYS = st.lists(st.text(max_size=6), min_size=1, max_size=60)


@settings(deadline=None, max_examples=50)
@given(keys=KEYS, more=KEYS, count=st.integers(2, 7))
def test_a_key_keeps_its_fold_whatever_else_is_there(keys: list[str], more: list[str], count: int) -> None:
    alone, together = hashed_folds(keys, count), hashed_folds([*more, *keys], count)
    assert np.array_equal(together.number[len(more) :], alone.number)
    assert np.array_equal(together.place[len(more) :], alone.place)
    assert np.array_equal(together.inner[len(more) :], alone.inner)
    by_key = dict(zip([*more, *keys], together.number, strict=True))
    assert [by_key[key] for key in keys] == alone.number.tolist()


@settings(deadline=None, max_examples=50)
@given(keys=KEYS, count=st.integers(2, 7), fold=st.integers(0, 6), limit=st.integers(1, 70))
def test_nobody_learns_from_what_judges_it(keys: list[str], count: int, fold: int, limit: int) -> None:
    folds = hashed_folds(keys, count)
    learned, judged, few = folds.learned(fold), folds.judged(fold), folds.learned(fold, limit)
    assert sorted([*learned, *judged]) == list(range(len(keys)))
    assert {keys[row] for row in learned}.isdisjoint({keys[row] for row in judged})
    assert set(few) <= set(learned)
    assert len(few) == min(limit, len(learned))
    assert np.array_equal(few, np.sort(few))


def test_folds_samples_and_inner_parts_are_even_and_independent() -> None:
    folds = hashed_folds([str(number) for number in range(20_000)], 5)
    assert np.allclose(np.bincount(folds.number) / 20_000, 0.2, atol=0.02)
    assert np.allclose(np.bincount(folds.inner) / 20_000, 1 / INNER, atol=0.02)
    assert set(folds.inner) == set(range(INNER))
    assert 0 <= folds.place.min() < folds.place.max() < 1
    for other in (folds.place, folds.inner):
        assert abs(np.corrcoef(folds.number, other)[0, 1]) < 0.03
    assert abs(np.corrcoef(folds.place, folds.inner)[0, 1]) < 0.03


def test_a_sample_keeps_its_rows_when_rows_come() -> None:
    keys = [str(number) for number in range(1000)]
    few, more = hashed_folds(keys[:800], 4), hashed_folds(keys, 4)
    kept, sampled = set(few.learned(0, 200)), set(more.learned(0, 200))
    assert sampled - set(range(800, 1000)) <= kept


def test_a_holdout_judges_once() -> None:
    folds = holdout(6, 3, [str(number) for number in range(9)])
    assert folds.number.tolist() == [ALWAYS_TRAINS] * 6 + [0] * 3
    assert folds.learned(0).tolist() == list(range(6))
    assert folds.judged(0).tolist() == [6, 7, 8]


def test_time_folds_learn_from_what_came_before() -> None:
    order = np.array([5.0, 1, 9, 3, 7, 2, 8, 4, 6])
    folds = time_folds(order, 2, [str(number) for number in range(9)])
    assert sorted(order[folds.learned(0)]) == [1, 2, 3]
    assert sorted(order[folds.judged(0)]) == [4, 5, 6]
    assert sorted(order[folds.learned(1)]) == [1, 2, 3, 4, 5, 6]
    assert sorted(order[folds.judged(1)]) == [7, 8, 9]
    assert folds.forward
    unknown = time_folds(np.array([np.nan, 2.0, 1.0, 3.0]), 1, list("abcd"))
    assert 0 in unknown.judged(0)  # without a time: as late as can be


def test_no_rows_are_folds_too() -> None:
    for folds in (hashed_folds([], 3), holdout(0, 0, []), time_folds(np.zeros(0), 2, [])):
        assert isinstance(folds, Folds)
        assert not len(folds.learned(0)) + len(folds.judged(0)) + len(folds.inner)


@pytest.mark.parametrize(
    "given",
    [{"kind": "time"}, {"kind": "hash", "time": "t"}, {"kind": "hash", "folds": 1}, {"kind": "hash", "folds": 21}, {"kind": "leave"}],
)
def test_validation_is_checked(given: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Validation.model_validate(given)
