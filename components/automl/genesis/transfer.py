"""What a search takes over from earlier ones, and when it stops to trust them. Every decision comes with a sentence for the report.

The scenario's own past and that of its parents (the scenarios whose data were merged into this one's) come first, however many rows
they had: yesterday's sample tells about today's whole. Other tasks follow by their meta-features' distance.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from components.automl.genesis.configuration import Configuration, PastStudy
from components.automl.genesis.locking import Locked, good, lock, ranked
from components.automl.genesis.metafeatures import distance, spreads
from components.automl.genesis.surrogate import Described

__all__ = ["Near", "Replayed", "Transfer", "Verdict", "agrees", "kendall"]

_OTHERS = 5
"""Tasks of other scenarios that count, at most."""
_OTHERS_TO_LOCK = 3
"""So many of them must agree before the space is narrowed on their word alone."""
_WINNERS = 3
"""A study without an ensemble has so many."""
_ENOUGH, _TAU = 4, 0.3


@dataclass(frozen=True)
class Near:
    """A past task: the searches of one scenario, newest first, and how far it is.

    Attributes:
        related: Whether it is today's own scenario or a parent of it.
    """

    scenario: str
    studies: tuple[PastStudy, ...]
    distance: float
    related: bool


@dataclass(frozen=True)
class Replayed:
    """Old winners to try first."""

    configurations: tuple[Configuration, ...]
    note: str


@dataclass(frozen=True)
class Verdict:
    """Whether the past may go on steering."""

    agrees: bool
    tau: float | None
    note: str


@dataclass(frozen=True)
class Transfer:
    """The past, seen from today's task.

    Attributes:
        past: Earlier searches, newest first; those of other problems are not looked at.
        today: Meta-features.
        problem: Today's.
        scenario: Today's.
        parents: Scenarios whose data are part of today's.
    """

    past: Sequence[PastStudy]
    today: Mapping[str, float]
    problem: str
    scenario: str
    parents: tuple[str, ...] = ()

    @cached_property
    def nearest(self) -> tuple[Near, ...]:
        """Past tasks: the scenario's own, its parents in their order, then others by distance."""
        fits = [study for study in self.past if study.problem == self.problem and any(t.score is not None for t in study.trials)]
        spread = spreads([*(study.meta for study in fits), self.today])
        of: dict[str, list[PastStudy]] = {}
        for study in fits:
            of.setdefault(study.scenario, []).append(study)
        first = {name: at for at, name in enumerate((self.scenario, *self.parents))}
        tasks = [
            Near(name, tuple(studies), min(distance(self.today, study.meta, spread) for study in studies), name in first)
            for name, studies in of.items()
        ]
        tasks.sort(key=lambda task: (first.get(task.scenario, len(first)), task.distance, task.scenario))
        related = [task for task in tasks if task.related]
        return (*related, *tasks[len(related) : len(related) + _OTHERS])

    @property
    def studies(self) -> tuple[tuple[PastStudy, float], ...]:
        """The searches that count, each with how far it is: what `surrogate.learn` takes. Related ones are at distance 0."""
        return tuple((study, 0.0 if task.related else task.distance) for task in self.nearest for study in task.studies)

    def replay(self, limit: int, learners: Sequence[str] = ()) -> Replayed:
        """Return at most `limit` distinct winners: ensembles by weight, of related tasks in turn, then of others; then what was good.

        Args:
            limit: How many fit into today's budget.
            learners: Those that may be used; empty: all.
        """
        distinct: dict[str, Configuration] = {}
        came: dict[str, int] = {}
        for name, entry in self._turns():
            if len(distinct) < limit and entry.identity not in distinct and (not learners or entry.learner in learners):
                distinct[entry.identity] = replace(entry, origin="replay")
                came[name] = came.get(name, 0) + 1
        told = ", ".join(f"{count} of '{name}'{self._how(name)}" for name, count in came.items())
        note = f"Winners of earlier searches are tried first: {told}." if distinct else "No earlier search has winners to try."
        return Replayed(tuple(distinct.values()), note)

    def locked(self, space: Described) -> Locked:
        """Return the learners and bounds that good trials of the nearest tasks leave: their bounding box, widened.

        Nothing is locked on the word of few strangers.

        Args:
            space: Today's, without bounds.
        """
        related = [task for task in self.nearest if task.related]
        tasks = related or list(self.nearest)
        if not related and len(tasks) < _OTHERS_TO_LOCK:
            return Locked(space.learners, {}, ("The search space is whole: no task that is related or alike was searched before.",))
        return lock(space, [study for task in tasks for study in task.studies])

    def expected(self, configuration: Configuration) -> float | None:
        """Return how well a pipeline did in past searches, larger is better, comparable between studies; None if it was never tried.

        Of the nearest tasks the newest search that tried it counts: those of related tasks if there are any.
        """
        related = [task for task in self.nearest if task.related]
        found = []
        for task in related or self.nearest:
            tried = ((entry, score) for study in task.studies for entry, score in ranked(study))
            newest = next((score for entry, score in tried if entry.identity == configuration.identity), None)
            found += [] if newest is None else [newest]
        return float(np.mean(found)) if found else None

    def agrees(self, tried: Sequence[tuple[Configuration, float]], *, higher_is_better: bool) -> Verdict:
        """Say whether today's scores rank what was tried as the past did.

        Args:
            tried: Pipelines, each with today's score, all of one rung.
            higher_is_better: Today's direction.
        """
        known = [(self.expected(configuration), score) for configuration, score in tried]
        return agrees([(before, score) for before, score in known if before is not None], higher_is_better=higher_is_better)

    def _turns(self) -> Iterator[tuple[str, Configuration]]:
        """Yield (scenario, pipeline) in the order of replay."""
        for related, winners in ((True, _members), (False, _members), (True, good)):
            queues = [
                [(task.scenario, entry) for study in task.studies for entry in winners(study)]
                for task in self.nearest
                if task.related == related
            ]
            for turn in itertools.zip_longest(*queues):
                yield from (entry for entry in turn if entry is not None)

    def _how(self, scenario: str) -> str:
        task = next(task for task in self.nearest if task.scenario == scenario)
        if not task.related:
            return f" (distance {task.distance:.2f})"
        rows = f"{task.studies[0].rows} rows"
        return f" (its own past, on {rows})" if scenario == self.scenario else f" (merged into this one, {rows})"


def agrees(pairs: Sequence[tuple[float, float]], *, higher_is_better: bool = True) -> Verdict:
    """The guard against negative transfer: past and present must rank at least four pipelines alike.

    Args:
        pairs: (past score, larger is better; today's score).
        higher_is_better: The direction of today's score.
    """
    if len(pairs) < _ENOUGH:
        return Verdict(True, None, f"{len(pairs)} pipelines were tried before and today, too few to doubt the past.")
    sign = 1.0 if higher_is_better else -1.0
    tau = kendall([before for before, _ in pairs], [sign * today for _, today in pairs])
    if tau is None:
        return Verdict(True, None, f"{len(pairs)} pipelines score the same: they tell nothing about the past.")
    told = f"Past and present rank {len(pairs)} pipelines with Kendall's tau {tau:.2f}"
    if tau < _TAU:
        return Verdict(False, tau, f"{told}, below {_TAU}: the history is dropped.")
    return Verdict(True, tau, f"{told}: the history is used.")


def kendall(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Return Kendall's tau-b; None when one side is constant."""
    x, y = (np.sign(np.subtract.outer(side, side)) for side in (np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)))
    varied = float(np.sqrt((x**2).sum() * (y**2).sum()))
    return float((x * y).sum()) / varied if varied > 0 else None


def _members(study: PastStudy) -> list[Configuration]:
    """Return a study's ensemble by weight; without one, its best few."""
    members = sorted((trial for trial in study.trials if trial.weight > 0), key=lambda trial: -trial.weight)
    return [trial.configuration for trial in members] or good(study)[:_WINNERS]
