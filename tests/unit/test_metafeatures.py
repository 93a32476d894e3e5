"""Meta-features: deterministic, finite on awkward tables, and alike for tables that are alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.automl.genesis.metafeatures import distance, metafeatures, spreads
from components.core.params import Tabular
from components.train.data import Data, Rows

_loader = SourceFileLoader("makers", str(Path(__file__).parents[1] / "makers.py"))
makers = module_from_spec(spec_from_loader("makers", _loader))  # type: ignore[arg-type]
_loader.exec_module(makers)

LOANS = makers.LOANS


def loans(count: int, *, seed: int = 0, task: Tabular = LOANS) -> Data:
    rows = makers.loans(count, seed=seed)
    columns = {"income": np.array([row["income"] for row in rows]), "grade": [row["grade"] for row in rows]}
    labels = [row["_score"] if task.problem == "regression" else task.classes[int(row["_score"] > 0)] for row in rows]
    return whole(task, columns, labels)


def whole(task: Any, columns: dict[str, Any], labels: Sequence[Any]) -> Data:
    """All rows are training rows; the keys are their numbers."""
    keys = [f"k{n}" for n in range(len(labels))]
    return Data(task, Rows(columns, labels, keys=keys), Rows({name: values[:0] for name, values in columns.items()}, []))


def test_equal_rows_give_equal_numbers_in_any_order_of_columns() -> None:
    data = loans(300)
    turned = Data(data.task, Rows(dict(reversed(data.train.columns.items())), data.train.labels, keys=data.train.keys), data.validation)
    assert metafeatures(data) == metafeatures(loans(300)) == metafeatures(turned)
    assert list(metafeatures(data)) == sorted(metafeatures(data))


@pytest.mark.parametrize("task", [LOANS, makers.PRICES])
def test_what_they_say(task: Tabular) -> None:
    found = metafeatures(loans(2000, task=task))
    assert found["rows"] == pytest.approx(math.log(2000))
    assert found["category_share"] == 0.5
    assert found["missing_share"] == 0
    assert found["cardinality"] == pytest.approx(math.log(4))
    assert found["information_most"] > 0.1
    assert found["landmark_linear"] > found["landmark_stump"] > 0.1  # the truth is linear
    assert found["landmark_tree"] > found["landmark_neighbour"]


def test_noise_tells_nothing() -> None:
    draw = np.random.Generator(np.random.PCG64(0))
    noise = whole(
        LOANS, {"income": draw.normal(size=1000), "grade": list(draw.choice(list("ABC"), 1000))}, list(draw.choice(LOANS.classes, 1000))
    )
    found, told = metafeatures(noise), metafeatures(loans(1000))
    assert found["information"] < 0.02 < told["information"]
    assert found["landmark_linear"] < 0.05 < told["landmark_linear"]
    assert found["noise_to_signal"] > told["noise_to_signal"]


@pytest.mark.parametrize(
    ("income", "grade", "labels"),
    [
        ([None] * 30, [None] * 30, ["paid", "default"] * 15),
        ([1.0] * 30, ["A"] * 30, ["paid", "default"] * 15),
        ([math.inf, -math.inf, 1e300, math.nan, 0.0] * 6, [f"v{n}" for n in range(30)], ["paid", "default"] * 15),
        ([float(n) for n in range(30)], ["A", None] * 15, ["paid"] * 30),
        ([1.0], ["A"], ["paid"]),
    ],
)
def test_awkward_tables_give_finite_numbers(income: list[Any], grade: list[Any], labels: list[str]) -> None:
    found = metafeatures(whole(LOANS, {"income": income, "grade": grade}, labels))
    assert set(found) == set(metafeatures(loans(50)))
    assert all(math.isfinite(value) for value in found.values())


def test_a_constant_target_of_a_regression() -> None:
    found = metafeatures(whole(makers.PRICES, {"income": [1.0, 2.0] * 10, "grade": ["A"] * 20}, [7.0] * 20))
    assert all(math.isfinite(value) for value in found.values())
    assert found["landmark_linear"] == 0


def test_lines_of_text() -> None:
    images = [makers.line(f"{n % 10}" * (1 + n % 3), shade=n) for n in range(30)]
    labels = [f"{n % 10}" * (1 + n % 3) for n in range(30)]
    found = metafeatures(whole(makers.DIGITS, {"image": images}, labels))
    assert found["alphabet"] == 10
    assert (found["length"], found["longest"], found["height"]) == (2, 3, 16)
    assert found["aspect"] > 0
    broken = metafeatures(whole(makers.DIGITS, {"image": [b"no image"] * 3}, ["1", "2", "3"]))
    assert (broken["height"], broken["aspect"]) == (0, 0)


def test_a_sample_of_a_table_is_nearer_than_another_table() -> None:
    here, sample, other = metafeatures(loans(2000)), metafeatures(loans(1400, seed=1)), metafeatures(loans(2000, task=makers.PRICES))
    spread = spreads([here, sample, other])
    assert distance(here, here, spread) == 0
    assert distance(here, sample, spread) == distance(sample, here, spread)
    assert distance(here, sample, spread) < distance(here, other, spread)


def test_distances_with_nothing_to_compare() -> None:
    assert spreads([{"rows": 1.0}, {"rows": 1.0}]) == {}
    assert distance({"rows": 1.0}, {"rows": 5.0}, {}) == 0
    assert distance({"rows": 1.0}, {"columns": 5.0}, {"rows": 1.0, "columns": 1.0}) == 0
