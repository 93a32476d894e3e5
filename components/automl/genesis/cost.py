"""What a job will cost, told from what jobs cost before: nothing is started that can't be finished.

Seconds only decide what still fits into the time; under a trial budget they change nothing.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from components.automl.genesis.board import Board, Job
from components.automl.genesis.configuration import Configuration, PastStudy

__all__ = ["PRIOR", "Costs"]

PRIOR: Mapping[str, float] = {
    "lightgbm": 31.0,
    "xgboost": 36.0,
    "catboost": 86.0,
    "extra_trees": 140.0,
    "logistic": 23.0,
    "mlp": 255.0,
    "resnet": 1163.0,
    "arcface": 850.0,
    "sage": 2125.0,
}
"""Microseconds a row and a fit of one class or two, before anything was measured: medians over the jobs in the results of `atlas bench
automl --cases cold --budgets 20 --seed 2`, 12 tables (resnet: 3), 2026-11-30. arcface and sage are not in it, and are to mlp as before."""
_UNKNOWN = 200.0
_TREES, _TREES_MOST = ("lightgbm", "xgboost", "catboost", "extra_trees"), 4
"""Every class costs a tree, or its export; of more classes `space.suited` leaves fewer rounds."""
_STEPS = ("logistic",)
"""Every class is a column of the loss, and takes more steps to settle."""
_WIDTH, _GROWTH = {"resnet": 192}, 1.3
"""The width of the prior's networks, and the power of it that seconds grow by: twice the width took 2.3 to 2.7 times as long (`letter`)."""
_START_S = 0.05
_UNSURE = 1.5


@dataclass(frozen=True)
class Costs:
    """A cost model of one search.

    Attributes:
        rows: (rungs,) rows that a rung's fits learn from, those left out that lower rungs fitted already.
        data_rows: Rows of the data.
        classes: Of the task; 0 for a number.
        past: Earlier searches, whose seconds a row are used until today's are known, and whose peaks of memory count.
        limit_mb: What a worker may use; None: no limit.
        margin: A job is expected to cost this many times the estimate; of a learner that nothing is known of today, half as much again.
    """

    rows: Sequence[int]
    data_rows: int = 0
    classes: int = 0
    past: Sequence[PastStudy] = ()
    limit_mb: float | None = None
    margin: float = 1.3
    prior: Mapping[str, float] = field(default_factory=lambda: PRIOR)

    def seconds(self, board: Board, job: Job) -> float:
        """Return the seconds that a job is expected to take."""
        known = any(entry.job.configuration.learner == job.configuration.learner for entry in board.settled)
        return _START_S + (1.0 if known else _UNSURE) * self.margin * self._a_row(board, job) * self.rows[job.rung]

    def fits_memory(self, board: Board, job: Job) -> bool:
        """Whether the job's learner has stayed within the memory limit so far: today, and on no more rows than today's in the past."""
        if self.limit_mb is None:
            return True
        name = job.configuration.learner
        today = (entry.memory_mb for entry in board.settled if entry.job.configuration.learner == name)
        before = (
            trial.memory_mb
            for study in self.past
            for trial in study.trials
            if study.rows <= self.data_rows and trial.configuration.learner == name and trial.memory_mb is not None
        )
        return all(peak <= self.limit_mb for peak in (*today, *before))

    def _a_row(self, board: Board, job: Job) -> float:
        """Seconds a row: of this pipeline, else of its learner today, else in the past, else the prior, corrected by what is known."""
        return self._a_unit(board, job.configuration) * _size(job.configuration)

    def _a_unit(self, board: Board, configuration: Configuration) -> float:
        """Seconds a row of a pipeline of the usual size."""
        name = configuration.learner
        same = [entry for entry in board.settled if entry.job.configuration.identity == configuration.identity]
        if same:
            return sum(entry.wall for entry in same) / max(sum(self.rows[entry.job.rung] for entry in same), 1) / _size(configuration)
        measured: dict[str, list[float]] = {}
        for entry in board.settled:
            each = entry.wall / max(self.rows[entry.job.rung], 1) / _size(entry.job.configuration)
            measured.setdefault(entry.job.configuration.learner, []).append(each)
        if name in measured:
            return statistics.median(measured[name])
        fits = sum(self.rows) / max(self.data_rows, 1)  # how often a row is learned from on the way to the top
        before = [
            trial.seconds / max(study.rows * fits, 1) / _size(trial.configuration)
            for study in self.past
            for trial in study.trials
            if trial.configuration.learner == name and trial.seconds is not None and trial.rung == study.rungs - 1
        ]
        if before:
            return statistics.median(before)
        # Many columns or a slow machine cost every learner more.
        found = [statistics.median(each) / self._expected(other) for other, each in measured.items() if self._expected(other) > 0]
        return self._expected(name) * (statistics.median(found) if found else 1.0)

    def _expected(self, name: str) -> float:
        """Seconds a row before anything was measured."""
        times = 1
        if self.classes > 2:
            times = min(self.classes, _TREES_MOST) if name in _TREES else self.classes if name in _STEPS else 1
        return times * self.prior.get(name, _UNKNOWN) * 1e-6


def _size(configuration: Configuration) -> float:
    """Return how many times as much a row costs as in a network of the prior's width."""
    usual = _WIDTH.get(configuration.learner)
    return 1.0 if usual is None else float((configuration.params.get("width", usual) / usual) ** _GROWTH)
