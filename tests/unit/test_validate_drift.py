"""Drift: against SciPy, and what must count as drifted."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.validate.drift import drift, ks, psi_categories, psi_numbers
from components.validate.spec import Drift

LIMITS = Drift(psi=0.25, ks=0.2, stop=False)
numbers = st.lists(st.floats(-10, 10), min_size=1, max_size=60)


def column(expected: Any, actual: Any) -> dict[str, Any]:
    (found,) = drift(pa.table({"c": expected}), pa.table({"c": actual}), ["c"], LIMITS)
    return found


@given(numbers, numbers)
@settings(max_examples=50, deadline=None)
def test_ks_is_scipys(a: list[float], b: list[float]) -> None:
    from scipy.stats import ks_2samp

    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its p-value, which is not used
        theirs = ks_2samp(a, b, method="asymp").statistic
    assert ks(np.array(a), np.array(b)) == pytest.approx(theirs)


@given(numbers)
@settings(max_examples=30, deadline=None)
def test_a_sample_has_not_moved_from_itself(a: list[float]) -> None:
    assert psi_numbers(np.array(a), np.array(a))[0] == 0
    assert ks(np.array(a), np.array(a)) == 0


def test_psi_by_hand() -> None:
    # 10 of 20 against 15 of 20, half a row more in each bin: 10.5/21 and 15.5/21
    e, a = np.array([0.5, 0.5]), np.array([15.5, 5.5]) / 21
    psi, bins = psi_categories(["x"] * 10 + ["y"] * 10, ["x"] * 15 + ["y"] * 5)
    assert bins == 2
    assert psi == pytest.approx(((a - e) * np.log(a / e)).sum())


class TestVerdict:
    def test_equal_distributions_do_not_drift(self) -> None:
        draw = np.random.default_rng(0)
        for size in (5, 20, 100, 2000):
            assert not column(draw.normal(size=2000), draw.normal(size=size))["drifted"]

    def test_a_shift_does(self) -> None:
        draw = np.random.default_rng(0)
        assert column(draw.normal(size=2000), draw.normal(1, 1, size=100))["drifted"]

    def test_a_new_category_does(self) -> None:
        assert column(["a"] * 500 + ["b"] * 500, ["c"] * 200)["drifted"]

    def test_values_that_went_missing_do(self) -> None:
        draw = np.random.default_rng(0)
        assert column(draw.normal(size=1000), pa.array([None] * 300, pa.float64()))["drifted"]

    def test_figures_are_rounded_and_categories_have_no_ks(self) -> None:
        found = column(["a", "b"] * 20, ["a"] * 10 + ["b"] * 12)
        assert found["ks"] is None
        assert found["psi"] == round(found["psi"], 6)
