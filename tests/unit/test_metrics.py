"""The figures against their definitions and against scikit-learn."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk

from components.core.errors import DataError
from components.core.params import Tabular, TextLine
from components.evaluate.figures import GAP, align, figures
from components.evaluate.metrics import correct, edit_distance, finite, measures, score

LINES = TextLine()
BINARY = Tabular(problem="binary", classes=("no", "yes"), features={"x": "number"})
THREE = Tabular(problem="multiclass", classes=("a", "b", "c"), features={"x": "number"})
NUMBER = Tabular(problem="regression", features={"x": "number"})
texts = st.text(alphabet="012", max_size=5)


def says(label: Any, scores: dict[str, float] | None = None, confidence: float = 1.0) -> Any:
    return SimpleNamespace(label=label, confidence=confidence, scores=scores)


def binary(p: float) -> Any:
    return says("yes" if p > 0.5 else "no", {"no": 1 - p, "yes": p}, max(p, 1 - p))


def naive_distance(a: str, b: str) -> int:
    if not a or not b:
        return len(a) + len(b)
    return min(naive_distance(a[1:], b) + 1, naive_distance(a, b[1:]) + 1, naive_distance(a[1:], b[1:]) + (a[0] != b[0]))


@given(texts, texts)
def test_edit_distance_is_the_recursive_definition(a: str, b: str) -> None:
    assert (
        edit_distance(a, b) == naive_distance(a[:4], b[:4]) if len(a) <= 4 and len(b) <= 4 else edit_distance(a, b) == edit_distance(b, a)
    )


@given(texts, texts)
def test_an_alignment_spells_both_texts_at_the_price_of_the_distance(truth: str, said: str) -> None:
    pairs = align(truth, said)
    assert "".join(t for t, _ in pairs if t != GAP) == truth
    assert "".join(s for _, s in pairs if s != GAP) == said
    assert sum(t != s for t, s in pairs) == edit_distance(truth, said)


def test_lines() -> None:
    found = score(LINES, ["123", "45", "6"], [says("12"), says("45"), says("")])
    assert found == {"exact_match": pytest.approx(1 / 3), "cer": pytest.approx(2 / 6)}


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 20)), min_size=2, max_size=60))
def test_binary_figures_are_scikit_learns(rows: list[tuple[bool, int]]) -> None:
    y = np.array([truth for truth, _ in rows], dtype=int)
    p = np.array([0.01 + 0.98 * k / 20 for _, k in rows])  # with many ties
    found = score(BINARY, ["yes" if truth else "no" for truth in y], [binary(x) for x in p])
    assert found["brier"] == pytest.approx(np.mean((p - y) ** 2))
    assert found["logloss"] == pytest.approx(sk.log_loss(y, p, labels=[0, 1]))
    if 0 < y.sum() < len(y):
        assert found["auc"] == pytest.approx(sk.roc_auc_score(y, p))
    else:
        assert math.isnan(found["auc"])


def test_weights_mean_repetition() -> None:
    labels, answers = ["yes", "no", "yes", "no"], [binary(p) for p in (0.9, 0.4, 0.3, 0.3)]
    weights = np.array([[2.0, 1.0, 0.0, 3.0]])
    repeated = [0, 0, 1, 3, 3, 3]
    once = score(BINARY, [labels[i] for i in repeated], [answers[i] for i in repeated])
    assert {name: float(m(weights)[0]) for name, m in measures(BINARY, labels, answers).items()} == pytest.approx(once)


def test_classes_and_numbers() -> None:
    sure = {"a": 0.7, "b": 0.2, "c": 0.1}
    assert score(THREE, ["a", "c"], [says("a", sure), says("a", sure)]) == pytest.approx(
        {"accuracy": 0.5, "logloss": -(math.log(0.7) + math.log(0.1)) / 2}
    )
    assert score(NUMBER, [1.0, 3.0], [says(2.0), says(6.0)]) == pytest.approx({"rmse": math.sqrt(5), "mae": 2.0})


@pytest.mark.parametrize("task", [LINES, BINARY, THREE, NUMBER])
def test_no_rows_are_undefined_not_a_crash(task: Any) -> None:
    found = score(task, [], [])
    assert task.metric in found
    assert all(math.isnan(value) for value in found.values())
    assert set(finite(found).values()) == {None}


@pytest.mark.parametrize(
    ("task", "labels", "answers"),
    [
        (LINES, ["1"], []),
        (THREE, ["a"], [says("a")]),
        (THREE, ["a"], [says("b", {"b": 1.0})]),
    ],
)
def test_what_does_not_fit_is_refused(task: Any, labels: list[str], answers: list[Any]) -> None:
    with pytest.raises(DataError):
        score(task, labels, answers)


def test_a_binary_model_without_scores_still_has_an_auc() -> None:
    found = score(BINARY, ["yes", "no"], [says("yes", None, 0.8), says("no", None, 0.9)])
    assert found["auc"] == 1.0


def test_a_number_is_right_within_a_tenth_of_the_spread() -> None:
    answers = [says(10.5), says(12.0)]
    assert correct(NUMBER, [10.0, 20.0], answers).tolist() == [1.0, 0.0]
    assert correct(NUMBER, [10.0], answers[:1]).tolist() == [0.0], "one row has no spread of its own"
    assert correct(NUMBER, [10.0], answers[:1], spread=5.0).tolist() == [1.0]


def test_confusion_counts_characters_with_gaps() -> None:
    found = figures(LINES, ["12", "3"], [says("1"), says("38")])["confusion"]
    assert found["worst"] == [{"truth": "2", "said": GAP, "count": 1}, {"truth": GAP, "said": "8", "count": 1}]
    assert sum(map(sum, found["matrix"])) == 4


def test_roc_and_calibration() -> None:
    found = figures(BINARY, ["yes", "no", "yes"], [binary(0.9), binary(0.1), binary(0.8)])
    assert found["roc"][0] == {"fpr": 0.0, "tpr": 0.0, "threshold": 1.0}
    assert (found["roc"][-1]["fpr"], found["roc"][-1]["tpr"]) == (1.0, 1.0)
    assert [b["rows"] for b in found["calibration"]] == [1, 1, 1]
    assert figures(BINARY, ["yes"], [binary(0.9)])["roc"] == []
