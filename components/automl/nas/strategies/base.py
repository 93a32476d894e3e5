"""What a search is given and what it returns. A strategy knows a space only by its decisions, and a problem only by what is right.

Every architecture that a strategy proposes is within the limits: `chosen`, `nearest` and `drawn` solve a knapsack, nothing is rejected.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from components.automl.nas.budget import Latency, Limits
from components.automl.nas.knapsack import best_architecture
from components.automl.nas.mixing import Scores
from components.automl.nas.problem import Problem
from components.automl.nas.supernet import Supernet
from components.automl.nas.training import seeded
from components.train.spaces.space import Architecture, Space

__all__ = ["Budget", "Found", "Meter", "Moment", "SearchTask", "Strategy", "chosen", "drawn", "nearest"]


@dataclass(frozen=True)
class SearchTask:
    """What is searched.

    Attributes:
        problem: What its networks learn; both its parts are seen by the search.
        limits: That the found architecture is within.
        latency: Of layers on the target device; needed where there is a limit of latency.
        seed: Of everything that is drawn.
        start: The state of an earlier supernet of this space, to go on from.

    Raises:
        DataError: No architecture is within the limits.
    """

    space: Space
    problem: Problem
    limits: Limits = field(default_factory=Limits)
    latency: Latency | None = None
    seed: int = 0
    start: Mapping[str, Tensor] | None = None

    def __post_init__(self) -> None:
        chosen(Scores(tuple((0.0,) * len(block.options) for block in self.space.blocks), (0.0,) * len(self.space.widths)), self)

    def supernet(self) -> Supernet:
        """Return the supernet to begin with: the earlier one, or a new one whose weights the seed gives."""
        with seeded(self.seed):
            supernet = Supernet(self.space)
        if self.start is not None:
            supernet.load_state_dict(self.start)
        return supernet


@dataclass(frozen=True)
class Budget:
    """What a search may use; it ends at the first step that finds the budget spent."""

    cpu_s: float = math.inf


class Meter:
    """CPU seconds of a search: of this process since the meter was made, and those charged to it.

    Args:
        spent_s: What was spent before, for example on a supernet that several searches share.
        clock: Seconds.
    """

    def __init__(self, budget: Budget, *, spent_s: float = 0.0, clock: Callable[[], float] = time.process_time) -> None:
        self._budget, self._charged, self._clock, self._began = budget, spent_s, clock, clock()

    @property
    def spent_s(self) -> float:
        """What was spent so far."""
        return self._clock() - self._began + self._charged

    @property
    def over(self) -> bool:
        """Whether the budget is spent."""
        return self.spent_s >= self._budget.cpu_s

    def charge(self, seconds: float) -> None:
        """Add what somebody else worked for this search: a look-up costs what was paid to measure it."""
        self._charged += seconds


@dataclass(frozen=True)
class Moment:
    """What a search would have returned, had it been stopped.

    Attributes:
        cpu_s: Spent until then.
        scores: What the architecture was chosen by, where one can be chosen anew under other limits.
    """

    cpu_s: float
    architecture: Architecture
    scores: Scores | None = None


@dataclass(frozen=True)
class Found:
    """What a search returns.

    Attributes:
        architecture: Within the limits.
        moments: How it came about, in order of time; at least one.
        cpu_s: Of the whole search.
        ranking: Architecture -> score, of those the search has judged, the best first; empty where it judges none.
        supernet: The trained one, where there is one.
    """

    architecture: Architecture
    moments: tuple[Moment, ...]
    cpu_s: float
    ranking: Mapping[Architecture, float] = field(default_factory=dict)
    supernet: Supernet | None = None


class Strategy(Protocol):
    """How a space is searched."""

    @property
    def name(self) -> str:
        """What reports call it."""
        ...

    def search(self, task: SearchTask, budget: Budget) -> Found:
        """Return the best architecture within the task's limits, and how it was found."""
        ...


def chosen(scores: Scores, task: SearchTask) -> Architecture:
    """Return the architecture within the limits whose score is highest."""
    return best_architecture(task.space, scores.blocks, scores.widths, task.limits, latency=task.latency)


def nearest(wanted: Architecture, task: SearchTask, rng: random.Random) -> Architecture:
    """Return an architecture within the limits that shares as many decisions as it can with the one that is wanted."""
    decisions = 1 + len(task.space.blocks)

    def wishes(options: int, kept: int) -> tuple[float, ...]:
        # A kept decision is worth more than all random numbers together: these only break ties.
        return tuple(1.0 if option == kept else 0.9 * rng.random() / decisions for option in range(options))

    blocks = tuple(wishes(len(block.options), kept) for block, kept in zip(task.space.blocks, wanted.options, strict=True))
    return chosen(Scores(blocks, wishes(len(task.space.widths), wanted.width)), task)


def drawn(task: SearchTask, rng: random.Random) -> Architecture:
    """Draw an architecture within the limits: every option's score is random, so without limits all architectures are equally likely."""
    blocks = tuple(tuple(rng.random() for _ in block.options) for block in task.space.blocks)
    return chosen(Scores(blocks, tuple(rng.random() for _ in task.space.widths)), task)
