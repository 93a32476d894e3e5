"""Intervals: right coverage, seeded, paired, by group."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.evaluate.bootstrap import FEW_GROUPS, Interval, difference, intervals, resamples
from components.evaluate.metrics import Floats, Measure, divide


def mean_of(values: list[float] | Floats) -> Measure:
    array = np.asarray(values, dtype=np.float64)
    return lambda weights: divide(weights @ array, weights.sum(axis=1))


def one(measure: Measure, groups: list[str], *, times: int = 1000, confidence: float = 0.95, seed: int = 0) -> Interval:
    return intervals({"m": measure}, groups, times=times, confidence=confidence, seed=seed)["m"]


def names(count: int) -> list[str]:
    return [f"g{i}" for i in range(count)]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from("abcde"), min_size=1, max_size=30), st.integers(1, 50), st.integers(0, 5))
def test_a_group_is_drawn_as_a_whole(groups: list[str], times: int, seed: int) -> None:
    groups = [*groups, *names(FEW_GROUPS)]
    weights = np.concatenate(list(resamples(groups, times=times, seed=seed)))
    assert weights.shape == (times, len(groups))
    members = {g: [i for i, other in enumerate(groups) if other == g] for g in groups}
    for positions in members.values():
        assert (weights[:, positions] == weights[:, positions[:1]]).all()
    drawn = sum(weights[:, positions[0]] for positions in members.values())
    assert (drawn == len(members)).all()


def test_chunks_do_not_change_the_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    groups = names(100)
    whole = np.concatenate(list(resamples(groups, times=60, seed=3)))
    monkeypatch.setattr("components.evaluate.bootstrap._CHUNK_CELLS", 700)
    assert (np.concatenate(list(resamples(groups, times=60, seed=3))) == whole).all()


def test_equal_seeds_give_equal_intervals_and_other_seeds_others() -> None:
    measure = mean_of(np.random.default_rng(0).normal(size=50))
    assert one(measure, names(50), seed=1) == one(measure, names(50), seed=1)
    assert one(measure, names(50), seed=1) != one(measure, names(50), seed=2)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    draw = np.random.default_rng(7)
    hits = 0
    for k in range(200):
        found = one(mean_of((draw.random(80) < 0.7).astype(float)), names(80), times=300, confidence=0.9, seed=k)
        hits += found.low <= 0.7 <= found.high
    assert 0.83 <= hits / 200 <= 0.95


def test_groups_widen_the_interval() -> None:
    values = np.repeat(np.random.default_rng(1).normal(size=20), 10)  # ten equal rows a writer: only 20 facts
    single = one(mean_of(values), names(200))
    grouped = one(mean_of(values), [f"w{i // 10}" for i in range(200)])
    assert grouped.high - grouped.low > 2 * (single.high - single.low)


def test_too_few_groups_count_as_rows() -> None:
    values = np.random.default_rng(1).normal(size=60)
    few = [f"w{i % (FEW_GROUPS - 1)}" for i in range(60)]
    assert one(mean_of(values), few) == one(mean_of(values), [f"r{i:02d}" for i in range(60)])


def test_pairing_narrows_the_difference() -> None:
    draw = np.random.default_rng(2)
    before = draw.normal(size=200)
    after = before + draw.normal(0.1, 0.05, size=200)
    gain = one(difference(mean_of(after), mean_of(before), lower_is_better=False), names(200))
    alone = one(mean_of(after), names(200))
    assert gain.low > 0
    assert gain.high - gain.low < 0.2 * (alone.high - alone.low)
    worse = one(difference(mean_of(after), mean_of(before), lower_is_better=True), names(200))
    assert (worse.value, worse.low, worse.high) == pytest.approx((-gain.value, -gain.high, -gain.low))


def test_a_model_against_itself_gains_exactly_nothing() -> None:
    measure = mean_of(np.random.default_rng(3).normal(size=30))
    assert one(difference(measure, measure, lower_is_better=False), names(30)) == Interval(0.0, 0.0, 0.0)


def test_undefined_resamples_are_dropped_until_too_many_are() -> None:
    def often(share: float) -> Measure:
        return lambda weights: np.where(np.arange(len(weights)) >= (1 - share) * len(weights), np.nan, 1.0)

    assert one(often(0.05), names(5)).known
    lost = one(often(0.5), names(5))
    assert math.isnan(lost.low)
    assert not lost.known


def test_no_rows() -> None:
    found = one(mean_of([]), [])
    assert math.isnan(found.value)
    assert not found.known
