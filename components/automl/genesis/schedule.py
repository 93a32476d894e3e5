"""What to do next: asynchronous successive halving over rungs (Li et al., arXiv 1810.05934), known pipelines before proposed ones.

A pure function of what has settled: nobody coordinates the workers, and one worker does the same things after every restart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from components.automl.genesis.board import Board, Job
from components.automl.genesis.configuration import Configuration

__all__ = ["Ladder", "next_known"]


@dataclass(frozen=True)
class Ladder:
    """How pipelines climb.

    Attributes:
        rungs: How many there are; the last is full fidelity.
        keep: One of so many climbs from a rung to the next.
        trivial: What a constant answer scores; None: no pipeline climbs for variety's sake.
        variety: The best pipeline of each learner climbs too, if it has at least this share of the leader's skill: an ensemble lives
            on members that err differently.
    """

    rungs: int
    keep: int = 3
    trivial: float | None = None
    variety: float = 0.85

    def climbers(self, board: Board, rung: int) -> list[Configuration]:
        """Return who may climb from `rung`, the best first; some of them may have done so."""
        reached = board.done(rung)
        if not reached:
            return []
        chosen = reached[: math.ceil(len(reached) / self.keep)]
        seen = {entry.job.configuration.learner for entry in chosen}
        for entry in reached[len(chosen) :]:
            if entry.job.configuration.learner not in seen and self._skilled(board, reached[0].value, entry.value):
                seen.add(entry.job.configuration.learner)
                chosen.append(entry)
        return [entry.job.configuration for entry in chosen]

    def _skilled(self, board: Board, best: float | None, value: float | None) -> bool:
        if self.trivial is None or best is None or value is None:
            return False
        lead = best - self.trivial if board.maximize else self.trivial - best
        own = value - self.trivial if board.maximize else self.trivial - value
        return lead > 0 and own >= self.variety * lead


def next_known(board: Board, ladder: Ladder, known: Sequence[Configuration]) -> list[Job]:
    """Return the jobs that need no proposal, the most urgent first: the first pipeline to the top, promotions, known pipelines.

    Empty: it is a sampler's turn.
    """
    jobs: list[Job] = []
    if known:
        first = [Job(known[0], rung) for rung in range(ladder.rungs)]
        at = next((job for job in first if job.key not in board.taken), None)
        before = {entry.job.key for entry in board.settled if entry.value is not None}
        if at is not None and all(job.key in before for job in first[: at.rung]):
            jobs.append(at)
    for rung in range(ladder.rungs - 2, -1, -1):
        jobs += [Job(configuration, rung + 1) for configuration in ladder.climbers(board, rung)]
    jobs += [Job(configuration, 0) for configuration in known]
    distinct: dict[tuple[str, int], Job] = {}
    for job in jobs:
        distinct.setdefault(job.key, job)
    return [job for job in distinct.values() if job.key not in board.taken]
