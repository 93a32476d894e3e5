"""The main effects of a supernet's judgements: what each option adds to the score, by least squares, then the best sum within the limits.

The score of one path is what its options are worth and what this path happens to have got of the shared training; the second part is noise
for whoever trains the network anew. A sum of effects averages it over all paths with an option, and a knapsack maximises it exactly.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from components.automl.nas.mixing import Scores
from components.automl.nas.strategies.base import SearchTask, chosen, drawn
from components.automl.nas.strategies.on_supernet import TRIES, OnSupernet
from components.train.spaces.space import Architecture, Space

__all__ = ["Effects", "main_effects"]

_PRIOR = 1.0  # judgements at the mean that every option begins with


@dataclass(frozen=True)
class Effects(OnSupernet):
    """Architectures within the limits are drawn and judged; found is the one whose options are worth most together, judged or not."""

    name: str = "effects"

    def candidate(self, task: SearchTask, known: Mapping[Architecture, float], rng: random.Random) -> Architecture | None:
        """Draw one that was not judged yet; None when there seems to be none."""
        draws = (drawn(task, rng) for _ in range(TRIES))
        return next((each for each in draws if each not in known), None)

    def answer(self, task: SearchTask, known: Mapping[Architecture, float]) -> Architecture:
        """Return the best sum of effects."""
        return chosen(main_effects(task.space, known), task)


def main_effects(space: Space, known: Mapping[Architecture, float]) -> Scores:
    """Return what each option and each width adds to the mean score (ridge regression on which option an architecture has).

    Args:
        known: Architecture -> score; at least one. An option that none of them has adds nothing.
    """
    counts = [len(space.widths), *(len(block.options) for block in space.blocks)]
    ends = np.cumsum([0, *counts])
    design = np.zeros((len(known), ends[-1]))
    for row, architecture in enumerate(known):
        design[row, ends[:-1] + np.array([architecture.width, *architecture.options])] = 1
    scores = np.fromiter(known.values(), dtype=float)
    found = np.linalg.solve(design.T @ design + _PRIOR * np.eye(ends[-1]), design.T @ (scores - scores.mean()))
    widths, *blocks = (tuple(found[start:end].tolist()) for start, end in pairwise(ends))
    return Scores(tuple(blocks), widths)
