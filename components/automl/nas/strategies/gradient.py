"""Search by gradients: the weights of options are trained beside the weights of layers, then a knapsack chooses.

`Gradient` trains one entangled supernet in superposition; `Darts` is the baseline with weights of its own for every option. Both read the
logarithm of an option's probability as its score, so that every budget is kept, and later ones can be asked for without a new search.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from components.automl.nas.darts import Bilevel, Relaxed, Steps
from components.automl.nas.mixing import Mixing, Scores, train_superposed
from components.automl.nas.problem import stream
from components.automl.nas.strategies.base import Budget, Found, Meter, Moment, SearchTask, chosen
from components.automl.nas.training import Fitting, seeded

__all__ = ["Darts", "Gradient"]

_EVERY = 25  # steps between two moments


@dataclass(frozen=True)
class Gradient:
    """Superposition on an entangled supernet."""

    fitting: Fitting = field(default_factory=lambda: Fitting(epochs=4.0))
    mixing: Mixing = field(default_factory=Mixing)
    name: str = "gradient"

    def search(self, task: SearchTask, budget: Budget) -> Found:
        """Train the supernet and choose; see `Strategy`."""
        meter, moments = Meter(budget), list[Moment]()
        supernet = task.supernet()

        def watch(step: int, scores: Callable[[], Scores]) -> bool:
            if step % _EVERY == 0:
                moments.append(_moment(task, meter, scores()))
            return meter.over

        scores = train_superposed(supernet, task.problem, self.fitting, task.seed, self.mixing, watch)
        moments.append(_moment(task, meter, scores))
        return Found(moments[-1].architecture, tuple(moments), meter.spent_s, supernet=supernet)


@dataclass(frozen=True)
class Darts:
    """DARTS, first or second order; the weights' learning rate falls in half a cosine.

    Attributes:
        epochs: Of the training images; alpha sees as many validation batches.
    """

    steps: Steps = field(default_factory=Steps)
    epochs: float = 10.0
    name: str = "darts"

    def search(self, task: SearchTask, budget: Budget) -> Found:
        """Descend and choose; the width multiplier is the smallest one, since DARTS does not search it. See `Strategy`."""
        meter, moments = Meter(budget), list[Moment]()
        widths = (0.0, *[-1e6] * (len(task.space.widths) - 1))
        steps = Fitting(self.epochs).steps(task.problem)
        with seeded(task.seed):
            net = Relaxed(task.space).train()
            bilevel = Bilevel(net, [len(block.options) for block in task.space.blocks], task.problem, self.steps)
            learned = stream(task.problem, "train", torch.Generator().manual_seed(task.seed))
            judged = stream(task.problem, "validation", torch.Generator().manual_seed(task.seed + 1))
            for step in range(steps):
                lr = self.steps.lr * (1 + math.cos(math.pi * step / steps)) / 2
                bilevel.step(next(learned), next(judged), lr)
                over = meter.over
                if (step + 1) % _EVERY == 0 or step == steps - 1 or over:
                    moments.append(_moment(task, meter, Scores(bilevel.scores(), widths)))
                if over:
                    break
        return Found(moments[-1].architecture, tuple(moments), meter.spent_s)


def _moment(task: SearchTask, meter: Meter, scores: Scores) -> Moment:
    return Moment(meter.spent_s, chosen(scores, task), scores)
