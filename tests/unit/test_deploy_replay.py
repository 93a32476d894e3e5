"""Replaying: which rows are sent, and what counts as the same answer."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pytest

from components.core.errors import Refused
from components.core.params import Tabular, TextLine
from components.deploy.replay import compare, sample
from components.model import Answer

LINES = TextLine()
LOANS = Tabular(problem="binary", classes=("no", "yes"), features={"income": "number", "grade": "category"})


class Fake:
    """A server that answers from a list, and remembers what it was asked."""

    def __init__(self, *answers: dict[str, Any]) -> None:
        self.answers = list(answers)
        self.asked: list[Mapping[str, Any]] = []

    def predict(self, item: Mapping[str, Any], /) -> dict[str, Any]:
        self.asked.append(item)
        return {"model": "Model/m"} | self.answers[len(self.asked) - 1]


def replayed(server: Fake, *answers: Answer, row: Mapping[str, Any] | None = None) -> float:
    rows = [row or {"income": 1.0, "grade": None}] * len(answers)
    return compare(server, rows, list(answers), model="Model/m", tolerance=1e-4)


def test_rows_are_spread_over_the_test_split_and_missing_numbers_become_null() -> None:
    splits = ["train"] * 5 + ["test"] * 100
    numbers = [math.nan if i == 5 else float(i) for i in range(105)]
    table = pa.table({"_split": splits, "income": numbers, "grade": ["A"] * 105, "_label": ["no"] * 105})
    rows = sample(table, LOANS, 4)
    assert [row["income"] for row in rows] == [None, 38.0, 71.0, 104.0]
    assert set(rows[0]) == {"income", "grade"}


@pytest.mark.parametrize(("splits", "count"), [([], 0), (["train"], 1), (["test", "train"], 1)])
def test_few_rows(splits: list[str], count: int) -> None:
    table = pa.table({"_split": pa.array(splits, pa.string()), "image": pa.array([b"x"] * len(splits), pa.binary())})
    assert len(sample(table, LINES, 16)) == count


def test_equal_answers_pass_and_the_largest_difference_is_told() -> None:
    server = Fake({"label": "yes", "confidence": 0.7}, {"label": "no", "confidence": 0.60005})
    assert replayed(server, Answer("yes", 0.7), Answer("no", 0.6)) == pytest.approx(5e-5)
    assert server.asked[0] == {"features": {"income": 1.0, "grade": None}}


def test_images_travel_as_base64() -> None:
    server = Fake({"label": "12", "confidence": 1.0})
    replayed(server, Answer("12", 1.0), row={"image": b"png"})
    assert base64.b64decode(server.asked[0]["image"]) == b"png"


@pytest.mark.parametrize(
    "said",
    [
        {"label": "no", "confidence": 0.7},
        {"label": "yes", "confidence": 0.7002},
        {"label": "yes", "confidence": math.nan},
        {"label": "yes", "confidence": 0.7, "model": "Model/other"},
    ],
)
def test_another_answer_is_refused(said: dict[str, Any]) -> None:
    with pytest.raises(Refused, match="request 1 of 1: the server"):
        replayed(Fake(said), Answer("yes", 0.7))


def test_numbers_are_compared_by_their_size() -> None:
    assert replayed(Fake({"label": 1_000_000.5, "confidence": 1.0}), Answer(1_000_000.0, 1.0)) < 1e-6
    with pytest.raises(Refused):
        replayed(Fake({"label": 0.501, "confidence": 1.0}), Answer(0.5, 1.0))
