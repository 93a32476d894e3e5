"""The main effects of a supernet's judgements: what each option adds to the score, by least squares.

The score of one path is what its options are worth, what they are worth together, and what this path happens to have got of the shared
training; the last part is noise for whoever trains the network anew. A sum of effects averages it over all paths with an option, and a
knapsack maximises it exactly. So half of what a path's score has beyond its effects is believed.
What is judged next is Thompson's draw (1933; for linear models Agrawal & Goyal, arXiv 1209.3352): the best sum of effects that might be the
true ones. So judgements gather where the answer will be, and when there is little doubt left about it, the search ends by itself.

Notation: M judgements, E options of all blocks and widths together.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.automl.nas.mixing import Scores
from components.automl.nas.strategies.base import SearchTask, chosen, drawn
from components.automl.nas.strategies.on_supernet import TRIES, OnSupernet
from components.train.spaces.space import Architecture, Space

__all__ = ["Effects", "main_effects"]

_PRIOR = 1.0  # judgements at the mean that every option begins with
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Effects(OnSupernet):
    """Found is the architecture, among those judged, whose score and whose options' worth together are highest.

    Attributes:
        drawn: Architectures judged before effects say which ones are.
    """

    drawn: int = 8
    name: str = "effects"

    def candidate(self, task: SearchTask, known: Mapping[Architecture, float], rng: random.Random) -> Architecture | None:
        """Return one that might be the best and was not judged yet; None when there seems to be none."""
        draws = (drawn(task, rng) for _ in range(TRIES)) if len(known) < self.drawn else _possible(task, known, rng)
        return next((each for each in islice(draws, TRIES) if each not in known), None)

    def answer(self, task: SearchTask, known: Mapping[Architecture, float]) -> Architecture:
        """Return the best mean of score and effects."""
        effects = _posterior(task.space, known)[0]
        worth = dict(zip(known, _design(task.space, known) @ effects, strict=True))
        return max(known, key=lambda each: known[each] + worth[each])


def main_effects(space: Space, known: Mapping[Architecture, float]) -> Scores:
    """Return what each option and each width adds to the mean score (ridge regression on which option an architecture has).

    Args:
        known: Architecture -> score; at least one. An option that none of them has adds nothing.
    """
    return _scores(space, _posterior(space, known)[0])


def _possible(task: SearchTask, known: Mapping[Architecture, float], rng: random.Random) -> Iterator[Architecture]:
    """Yield architectures, each the best by effects that are drawn from what the judgements leave open."""
    mean, spread = _posterior(task.space, known)
    draw = np.random.default_rng(rng.getrandbits(64))
    while True:
        yield chosen(_scores(task.space, mean + spread @ draw.standard_normal(len(mean))), task)


def _posterior(space: Space, known: Mapping[Architecture, float]) -> tuple[Floats, Floats]:
    """Return the effects' mean (E,) and a root (E, E) of their covariance: Bayesian linear regression, its noise by maximum likelihood."""
    design_ME = _design(space, known)
    scores_M = np.fromiter(known.values(), dtype=float)
    scores_M -= scores_M.mean()
    precision = design_ME.T @ design_ME + _PRIOR * np.eye(design_ME.shape[1])
    mean = np.linalg.solve(precision, design_ME.T @ scores_M)
    noise = (np.square(scores_M - design_ME @ mean).sum() + _PRIOR * np.square(mean).sum()) / len(known)
    return mean, np.sqrt(noise) * np.linalg.inv(np.linalg.cholesky(precision)).T


def _design(space: Space, known: Iterable[Architecture]) -> Floats:
    """Return (M, E) which options an architecture has."""
    ends = _ends(space)
    rows = np.array([[each.width, *each.options] for each in known]) + ends[:-1]
    return np.asarray(np.eye(ends[-1])[rows].sum(axis=1))


def _scores(space: Space, effects: Floats) -> Scores:
    widths, *blocks = (tuple(effects[start:end].tolist()) for start, end in pairwise(_ends(space)))
    return Scores(tuple(blocks), widths)


def _ends(space: Space) -> NDArray[Any]:
    return np.cumsum([0, len(space.widths), *(len(block.options) for block in space.blocks)])
