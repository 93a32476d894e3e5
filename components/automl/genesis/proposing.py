"""From a board to the next proposal: a sampler sees the trials of one rung, BOHB's rule (Falkner et al., arXiv 1807.01774)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import optuna
from optuna.samplers import BaseSampler
from optuna.trial import TrialState

from components.automl.genesis.board import Board
from components.automl.genesis.configuration import Configuration
from components.automl.genesis.samplers import uniform
from components.automl.genesis.space import Space

__all__ = ["MakeSampler", "Proposals"]

MakeSampler = Callable[[Space, int, int], BaseSampler]
"""(space, seed, place) -> a sampler made anew, its randomness a function of seed and place alone."""

_ENOUGH = 8
"""Trials at a rung before it is what a sampler learns from."""
_TRIES = 20


@dataclass(frozen=True)
class Proposals:
    """Proposes pipelines that nobody has tried.

    Attributes:
        name: The sampler's, for the report.
    """

    space: Space
    make: MakeSampler
    name: str
    seed: int
    rungs: int

    def __call__(self, board: Board, learners: Sequence[str]) -> Configuration | None:
        """Return a pipeline of one of `learners`; None: there seems to be none left."""
        seen = {identity for identity, _ in board.taken}
        left = tuple(name for name in self.space.learners if name in learners) or tuple(learners)
        space = replace(self.space, learners=left)
        for attempt in range(_TRIES):
            place = board.started * _TRIES + attempt
            # A sampler that keeps proposing what it knows has converged: what is left of the time goes elsewhere.
            sampler = self.make(space, self.seed, place) if attempt < _TRIES // 2 else uniform(self.seed, place)
            found = self._propose(board, space, sampler)
            if found.identity not in seen:
                return replace(found, origin=self.name if attempt < _TRIES // 2 else "random")
        return None

    def _propose(self, board: Board, space: Space, sampler: BaseSampler) -> Configuration:
        direction = "maximize" if board.maximize else "minimize"
        study = optuna.create_study(direction=direction, sampler=sampler)
        rung = next((rung for rung in range(self.rungs - 1, 0, -1) if len(board.done(rung)) >= _ENOUGH), 0)
        shown: list[tuple[Configuration, float | None]] = [(entry.job.configuration, entry.value) for entry in board.done(rung)]
        shown += [(job.configuration, None) for _, job, _ in board.running]
        study.add_trials([_seen(space, entry, value) for entry, value in shown if entry.learner in space.learners])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return space.suggest(study.ask())


def _seen(space: Space, configuration: Configuration, value: float | None) -> optuna.trial.FrozenTrial:
    flat = space.flatten(configuration)
    known = {name: kind for name, kind in space.distributions(configuration.learner).items() if name in flat}
    state = TrialState.COMPLETE if value is not None else TrialState.RUNNING
    return optuna.create_trial(params={name: flat[name] for name in known}, distributions=known, value=value, state=state)
