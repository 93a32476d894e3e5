"""Challenger against champion on the same rows: every figure that the gate and the report need, from labels and answers only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.core.params import Tabular, TextLine
from components.evaluate.bootstrap import Interval, difference, intervals, once
from components.evaluate.metrics import LOWER_IS_BETTER, Answered, Floats, Measure, correct, divide, measures
from components.evaluate.rows import Mask, Rows

__all__ = ["Comparison", "Figure", "Resampling"]

Positions = NDArray[np.intp]


@dataclass(frozen=True)
class Resampling:
    """How intervals are made: see `components.evaluate.bootstrap.intervals`."""

    times: int
    confidence: float
    seed: int


@dataclass(frozen=True)
class Figure:
    """One metric on some rows, of both models; `champion` and `gain` are None when no champion serves."""

    challenger: Interval
    champion: Interval | None
    gain: Interval | None


@dataclass(frozen=True)
class Comparison:
    """Answers of both models to the evaluated rows.

    Attributes:
        task: The scenario's task.
        rows: The n evaluated rows.
        challenger: (n) its answers.
        champion: (n) its answers; None when none serves.
        closed: Ids of the cases that were closed before this run.
        resampling: How intervals are made.
    """

    task: TextLine | Tabular
    rows: Rows
    challenger: Sequence[Answered]
    champion: Sequence[Answered] | None
    closed: frozenset[str]
    resampling: Resampling

    @cached_property
    def fair(self) -> Mask:
        """(n) test and holdout rows that did not enter the data because this champion failed on them."""
        seen = self.rows.test | self.rows.holdout
        return seen & ~self.rows.is_claimed if self.champion is not None else seen

    @cached_property
    def judged(self) -> Positions:
        """The rows whose metric the gate judges: the fair part of the test split."""
        return np.flatnonzero(self.fair & self.rows.test)

    @cached_property
    def verdict_figures(self) -> dict[str, Figure]:
        """Every metric on the judged rows."""
        return self.figures(self.judged)

    @cached_property
    def after(self) -> Mask:
        """(n) where the challenger is right."""
        return self._right(self.challenger)

    @cached_property
    def before(self) -> Mask | None:
        """(n) where the champion is right."""
        return None if self.champion is None else self._right(self.champion)

    def figures(self, at: Positions, *, only: str | None = None, confidence: float | None = None) -> dict[str, Figure]:
        """Measure the rows at some positions.

        Args:
            at: Positions.
            only: One metric instead of all.
            confidence: Instead of the usual one.
        """
        labels = _take(self.rows.labels, at)
        after = self._measures(labels, _take(self.challenger, at))
        before = None if self.champion is None else self._measures(labels, _take(self.champion, at))
        names = [name for name in after if only in (None, name)]
        wanted: dict[str, Measure] = {f"challenger {name}": after[name] for name in names}
        if before is not None:
            wanted |= {f"champion {name}": before[name] for name in names}
            wanted |= {f"gain {name}": difference(after[name], before[name], lower_is_better=name in LOWER_IS_BETTER) for name in names}
        found = self._intervals(wanted, at, confidence)
        return {name: Figure(found[f"challenger {name}"], found.get(f"champion {name}"), found.get(f"gain {name}")) for name in names}

    def gain(self, at: Positions, confidence: float) -> tuple[float, float | None, Interval | None]:
        """Measure the deciding metric on a slice: (challenger's figure, champion's, gain)."""
        figure = self.figures(at, only=self.task.metric, confidence=confidence)[self.task.metric]
        return figure.challenger.value, figure.champion.value if figure.champion else None, figure.gain

    def holdout(self) -> tuple[int, Interval | None]:
        """Return the champion's mistakes on the case holdout, and the share of them that the challenger gets right."""
        at = np.flatnonzero(self.rows.holdout)
        if self.before is None or not (mistakes := int((~self.before[at]).sum())):
            return 0, None
        wrong = (~self.before[at]).astype(np.float64)
        fixed = wrong * self.after[at]

        def share(weights: Floats) -> Floats:
            return divide(weights @ fixed, weights @ wrong)

        return mistakes, self._intervals({"fixed": share}, at, None)["fixed"]

    def cases(self) -> dict[str, list[str]]:
        """Return sorted case ids: `fixed` (champion wrong, challenger right), `lost` (closed, now wrong), `right` and `wrong` (all)."""
        ids = self.rows.cases
        right = sorted({case for case, ok in zip(ids, self.after, strict=True) if case and ok})
        wrong = sorted({case for case, ok in zip(ids, self.after, strict=True) if case and not ok})
        failed = set() if self.before is None else {case for case, ok in zip(ids, self.before, strict=True) if case and not ok}
        return {
            "fixed": [case for case in right if case in failed],
            "lost": [case for case in wrong if case in self.closed],
            "right": right,
            "wrong": wrong,
        }

    def _measures(self, labels: Sequence[Any], answers: Sequence[Answered]) -> dict[str, Measure]:
        return {name: once(measure) for name, measure in measures(self.task, labels, answers).items()}

    def _intervals(self, wanted: Mapping[str, Measure], at: Positions, confidence: float | None) -> dict[str, Interval]:
        r = self.resampling
        return intervals(wanted, _take(self.rows.groups, at), times=r.times, confidence=confidence or r.confidence, seed=r.seed)

    def _right(self, answers: Sequence[Answered]) -> Mask:
        spread = None
        if isinstance(self.task, Tabular) and self.task.problem == "regression" and len(self.rows):
            spread = float(np.std(np.array(self.rows.labels, dtype=np.float64)))
        return correct(self.task, self.rows.labels, answers, spread=spread).astype(bool)


def _take(values: Sequence[Any], at: Positions) -> list[Any]:
    return [values[i] for i in at]
