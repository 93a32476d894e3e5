"""Each rule, accepted and refused; and what must hold whatever the numbers are."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.core.params import Tabular, TextLine
from components.evaluate.bootstrap import Interval
from components.evaluate.compare import Comparison, Resampling
from components.evaluate.gate import RULES, Facts, Slice, judge
from components.evaluate.rows import evaluated
from components.evaluate.slices import slice_names, slice_rows
from components.evaluate.spec import Gate

NAN = Interval(math.nan, math.nan, math.nan)
GOOD = Facts(
    metric="exact_match",
    lower_is_better=False,
    rows=200,
    groups=150,
    score=Interval(0.9, 0.86, 0.94),
    gain=Interval(0.05, 0.01, 0.09),
    guards={"cer": Interval(0.01, -0.004, 0.02), "other": Interval(0.3, 0.1, 0.5)},
    mistakes=20,
    fixed=Interval(0.6, 0.4, 0.8),
    closed=50,
    lost=(),
    slices=(Slice("writer", "anna", 40, 40, 0.9, 0.8, Interval(0.1, 0.0, 0.2)),),
    p99_ms=4.0,
    size_bytes=1 << 20,
)
GATE = Gate(
    floor=0.8,
    max_loss=0.02,
    guards={"cer": 0.005, "other": 0.0},
    min_cases_fixed=0.5,
    max_closed_lost=0.02,
    max_slice_loss=0.1,
    max_latency_ms=10,
    max_size_mb=2,
)
FIRST = replace(GOOD, gain=None, guards={}, fixed=None, mistakes=0, closed=0, slices=())


def slice_with(gain: Interval, rows: int = 40) -> tuple[Slice, ...]:
    return (Slice("writer", "anna", rows, rows, 0.5, 0.9, gain),)


def test_a_good_challenger_passes_every_rule() -> None:
    verdicts = judge(GATE, GOOD)
    assert [v.name for v in verdicts] == [rule.__name__ for rule in RULES]
    assert all(v.passed for v in verdicts)
    assert all(v.detail and " -> " not in v.detail for v in verdicts)


@pytest.mark.parametrize(
    ("rule", "facts"),
    [
        ("measurable", replace(GOOD, rows=9, groups=9)),
        ("measurable", replace(GOOD, score=NAN, gain=NAN)),
        ("measurable", replace(GOOD, gain=Interval(0.0, math.nan, math.nan))),
        ("floor", replace(GOOD, score=Interval(0.79, 0.7, 0.9))),
        ("loss", replace(GOOD, gain=Interval(-0.05, -0.08, -0.021))),
        ("loss", replace(GOOD, gain=Interval(0.01, -0.0201, 0.04))),
        ("guards", replace(GOOD, guards={"cer": Interval(0.01, -0.0051, 0.02), "other": Interval(0.3, 0.1, 0.5)})),
        ("cases_fixed", replace(GOOD, fixed=Interval(0.45, 0.2, 0.7))),
        ("closed_lost", replace(GOOD, lost=("a" * 32, "b" * 32))),
        ("slices", replace(GOOD, slices=slice_with(Interval(-0.4, -0.6, -0.11)))),
        ("latency", replace(GOOD, p99_ms=10.1)),
        ("size", replace(GOOD, size_bytes=(2 << 20) + 1024)),
    ],
)
def test_a_rule_refuses_alone_and_says_what_to_do(rule: str, facts: Facts) -> None:
    refused = [v for v in judge(GATE, facts) if not v.passed]
    assert [v.name for v in refused] == [rule]
    assert " -> " in refused[0].detail


@pytest.mark.parametrize(
    "facts",
    [
        replace(GOOD, gain=Interval(0.0, -0.02, 0.02)),
        replace(GOOD, fixed=Interval(0.5, 0.3, 0.7)),
        replace(GOOD, guards={"cer": NAN}),
        replace(GOOD, lost=("a" * 32,)),
        replace(GOOD, slices=slice_with(Interval(-0.4, -0.6, -0.09))),
        replace(GOOD, slices=slice_with(Interval(-0.9, -0.9, -0.9), rows=9)),
        replace(GOOD, slices=slice_with(NAN)),
        replace(GOOD, p99_ms=10.0, size_bytes=2 << 20),
        FIRST,
    ],
)
def test_at_the_limit_or_without_evidence_it_passes(facts: Facts) -> None:
    assert all(v.passed for v in judge(GATE, facts))


def test_a_figure_that_should_be_low_has_a_ceiling() -> None:
    facts = replace(FIRST, metric="rmse", lower_is_better=True, score=Interval(1.2, 1.0, 1.4))
    assert [v.name for v in judge(Gate(floor=1.1), facts) if not v.passed] == ["floor"]
    assert all(v.passed for v in judge(Gate(floor=1.2), facts))


def test_the_first_model_still_needs_floor_latency_and_size() -> None:
    bad = replace(FIRST, score=Interval(0.1, 0.0, 0.2), p99_ms=1e3, size_bytes=1 << 30)
    assert [v.name for v in judge(GATE, bad) if not v.passed] == ["floor", "latency", "size"]


def test_a_small_test_split_is_named_as_the_reason() -> None:
    unsure = replace(GOOD, gain=Interval(0.01, -0.1, 0.12))
    verdict = next(v for v in judge(GATE, unsure) if v.name == "loss")
    assert not verdict.passed
    assert "too small to show it" in verdict.detail


def test_few_groups_are_said_but_not_refused() -> None:
    verdict = judge(GATE, replace(GOOD, groups=2))[0]
    assert verdict.passed
    assert "too narrow" in verdict.detail


def test_the_measured_latency_stays_out_of_the_verdict() -> None:
    def said(p99: float) -> Any:
        return next(v for v in judge(GATE, replace(GOOD, p99_ms=p99)) if v.name == "latency")

    assert said(3.0) == said(4.0)


# From answers on: a real comparison, with real intervals.

LINES = TextLine()
rows_of = st.lists(
    st.tuples(
        st.sampled_from("12"),
        st.sampled_from(["test", "test", "holdout", "train"]),
        st.booleans(),
        st.booleans(),
        st.sampled_from("abcdefghijkl"),
    ),
    min_size=1,
    max_size=40,
)


def comparison(drawn: list[Any], before: list[str], after: list[str], closed: frozenset[str] = frozenset()) -> Comparison:
    table = pa.table(
        {
            "_id": [f"{i:03d}" for i in range(len(drawn))],
            "_group": [group for *_, group in drawn],
            "_label": [label for label, *_ in drawn],
            "_source": ["case" if case else "base" for _, _, case, *_ in drawn],
            "_case": pa.array([f"case{i}" if case else None for i, (_, _, case, *_) in enumerate(drawn)], pa.string()),
            "_split": [split if split != "holdout" or case else "test" for _, split, case, *_ in drawn],
        }
    )
    rows = evaluated(table, [f"case{i}" for i, (_, _, case, claimed, _) in enumerate(drawn) if case and claimed])
    kept = [int(i) for i in rows.table.column("_id").to_pylist()]
    challenger, champion = ([SimpleNamespace(label=said[i], confidence=0.9, scores=None) for i in kept] for said in (after, before))
    return Comparison(LINES, rows, challenger, champion, closed, Resampling(100, 0.95, 0))


def facts_of(compared: Comparison) -> Facts:
    slices = slice_rows(slice_names(LINES, (), ()), compared.rows, np.flatnonzero(compared.fair), 0.95, compared.gain)
    figure = compared.figures(compared.judged, only="exact_match")["exact_match"]
    mistakes, fixed = compared.holdout()
    return replace(
        GOOD,
        rows=len(compared.judged),
        groups=len({compared.rows.groups[i] for i in compared.judged}),
        score=figure.challenger,
        gain=figure.gain,
        guards={},
        mistakes=mistakes,
        fixed=fixed,
        closed=len(compared.closed & set(compared.rows.cases)),
        lost=tuple(compared.cases()["lost"]),
        slices=slices,
    )


@settings(max_examples=60, deadline=None)
@given(rows_of, st.data())
def test_a_challenger_equal_to_the_champion_is_never_refused_for_loss(drawn: list[Any], data: st.DataObject) -> None:
    said = [data.draw(st.sampled_from("12")) for _ in drawn]
    verdicts = {v.name: v for v in judge(Gate(max_loss=0, max_slice_loss=0), facts_of(comparison(drawn, said, said)))}
    assert verdicts["loss"].passed
    assert verdicts["slices"].passed


@settings(max_examples=60, deadline=None)
@given(rows_of, st.floats(0, 1), st.data())
def test_a_challenger_that_loses_closed_cases_beyond_the_budget_is_always_refused(
    drawn: list[Any], budget: float, data: st.DataObject
) -> None:
    right = [label for label, *_ in drawn]
    after = [data.draw(st.sampled_from("12")) for _ in drawn]
    closed = frozenset(f"case{i}" for i, (_, _, case, *_) in enumerate(drawn) if case)
    lost = {f"case{i}" for i in range(len(drawn)) if f"case{i}" in closed and after[i] != right[i]}
    facts = facts_of(comparison(drawn, right, after, closed))
    assert set(facts.lost) == lost
    verdict = next(v for v in judge(Gate(max_closed_lost=budget), facts) if v.name == "closed_lost")
    over = bool(closed) and round(len(lost) / len(closed), 6) > budget
    assert verdict.passed is not over


def test_claimed_cases_do_not_flatter_the_challenger() -> None:
    """The champion is wrong on this run's cases by construction; only other rows say whether the challenger is better."""
    base = [("1", "test", False, False, f"g{i}") for i in range(40)]
    cases = [("2", "test", True, True, f"c{i}") for i in range(40)]
    drawn = [*base, *cases]
    before = ["1"] * 40 + ["1"] * 40
    after = ["2"] * 20 + ["1"] * 20 + ["2"] * 40
    compared = comparison(drawn, before, after)
    assert len(compared.judged) == 40
    gain = compared.figures(compared.judged)["exact_match"].gain
    assert gain is not None
    assert gain.value == -0.5
    assert compared.figures(np.flatnonzero(compared.rows.test))["exact_match"].gain.value == pytest.approx(0.25)  # type: ignore[union-attr]


def test_slices_of_numbers_texts_and_lengths() -> None:
    task = Tabular(problem="binary", classes=("n", "y"), features={"age": "number", "job": "category"})
    count = 100
    table = pa.table(
        {
            "_id": [f"{i:03d}" for i in range(count)],
            "_group": [str(i) for i in range(count)],
            "_label": ["y" if i % 2 else "n" for i in range(count)],
            "_source": ["base"] * count,
            "_case": pa.array([None] * count, pa.string()),
            "_split": ["test"] * count,
            "age": [None if i < 5 else float(i) for i in range(count)],
            "job": [f"job{i % 20:02d}" if i else None for i in range(count)],
        }
    )
    rows = evaluated(table)
    seen: list[int] = []

    def measure(at: Any, confidence: float) -> tuple[float, None, None]:
        seen.append(len(at))
        assert confidence > 0.95, "corrected for the number of slices"
        return 1.0, None, None

    found = slice_rows(slice_names(task, ("age", "job"), ("age", "job")), rows, np.arange(count), 0.95, measure)
    by_column = {c: [s for s in found if s.column == c] for c in ("age", "job", "_source")}
    assert [s.value for s in by_column["age"]] == ["≤ 28.5", "28.5 to 52", "52 to 75.5", "> 75.5", "(missing)"]
    assert len(by_column["job"]) == 12
    assert by_column["job"][-1].value == "(other)"
    assert all(sum(s.rows for s in part) == count for part in by_column.values())
