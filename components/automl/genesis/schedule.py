"""What to do next: asynchronous successive halving over rungs (Li et al., arXiv 1810.05934), known pipelines before proposed ones.

A pure function of what has settled: nobody coordinates the workers, and one worker does the same things after every restart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from components.automl.genesis.board import Board, Job, Settled
from components.automl.genesis.configuration import Configuration

__all__ = ["Ladder", "error", "next_known"]


@dataclass(frozen=True)
class Ladder:
    """How pipelines climb.

    Attributes:
        rungs: How many there are; the last is full fidelity.
        keep: One of so many climbs from a rung to the next.
        variety: The best pipeline of each learner climbs too, if its error is at most so many times the leader's: an ensemble lives on
            members that err differently. None: no pipeline climbs for variety's sake.
        promising: A learner is proposed again only if its best pipeline's error is at most so many times the leader's.
    """

    rungs: int
    keep: int = 3
    variety: float | None = None
    promising: float = 1.2

    def climbers(self, board: Board, rung: int) -> list[Configuration]:
        """Return who may climb from `rung`, the best first; some of them may have done so."""
        reached = [entry for entry in board.done(rung) if entry.may_climb]
        if not reached:
            return []
        chosen = reached[: math.ceil(len(reached) / self.keep)]
        seen = {entry.job.configuration.learner for entry in chosen}
        for entry in reached[len(chosen) :]:
            near = self.variety is not None and error(board, entry) <= self.variety * error(board, reached[0])
            if near and entry.job.configuration.learner not in seen:
                seen.add(entry.job.configuration.learner)
                chosen.append(entry)
        return [entry.job.configuration for entry in chosen]

    def hopeful(self, board: Board, learners: Sequence[str]) -> list[str]:
        """Return the learners that are not far behind at the lowest rung; those that were never judged are given a chance."""
        best: dict[str, float] = {}
        for entry in board.done(0):
            best.setdefault(entry.job.configuration.learner, error(board, entry))
        leader = min(best.values(), default=0.0)
        return [name for name in learners if best.get(name, leader) <= self.promising * leader]


def error(board: Board, entry: Settled) -> float:
    """Return how far a value is from perfect: 1 - value for shares and AUC, the value itself for losses."""
    loss = board.loss(entry)
    return 1.0 + loss if board.maximize else loss


def next_known(board: Board, ladder: Ladder, known: Sequence[Configuration]) -> list[Job]:
    """Return the jobs that need no proposal, the most urgent first: the first pipeline to the top, promotions, known pipelines.

    Empty: it is a sampler's turn.
    """
    jobs: list[Job] = []
    if known:
        first = [Job(known[0], rung) for rung in range(ladder.rungs)]
        at = next((job for job in first if job.key not in board.taken), None)
        before = {entry.job.key for entry in board.settled if entry.value is not None and entry.may_climb}
        if at is not None and all(job.key in before for job in first[: at.rung]):
            jobs.append(at)
    for rung in range(ladder.rungs - 2, 0, -1):
        jobs += [Job(configuration, rung + 1) for configuration in ladder.climbers(board, rung)]
    up = [Job(configuration, 1) for configuration in ladder.climbers(board, 0)] if ladder.rungs > 1 else []
    fresh = [Job(configuration, 0) for configuration in known]
    # The best of one or two is no choice: others are heard first.
    jobs += up + fresh if len(board.done(0)) >= ladder.keep else fresh + up
    distinct: dict[tuple[str, int], Job] = {}
    for job in jobs:
        distinct.setdefault(job.key, job)
    return [job for job in distinct.values() if job.key not in board.taken]
