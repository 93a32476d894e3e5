"""Training of networks and of supernets by paths. What they learn, and which space they are of, is not known here."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn

from components.automl.nas.problem import Batch, Problem, likelihood, score, stream
from components.automl.nas.supernet import Supernet, recalibrate
from components.train.adamw import AdamW, LazyAdamW
from components.train.spaces.network import network
from components.train.spaces.space import Architecture, Space

__all__ = [
    "Draws",
    "Fitting",
    "Rule",
    "clipped",
    "descend",
    "inherited_score",
    "largest_first",
    "rate",
    "sandwich",
    "seeded",
    "single_path",
    "standalone",
    "train_supernet",
]

_RISE = 0.25  # of the steps, until the learning rate is at its peak


@dataclass(frozen=True)
class Fitting:
    """How long and how fast weights are trained: AdamW, one cycle of the learning rate.

    Attributes:
        epochs: Need not be whole.
        lr: The learning rate's peak.
        weight_decay: As a share of the learning rate.
    """

    epochs: float = 5.0
    lr: float = 4e-3
    weight_decay: float = 1e-2

    def steps(self, problem: Problem) -> int:
        """Return how many steps that is, at least one."""
        return max(1, round(self.epochs * problem.steps()))


class Draws:
    """The architectures that a supernet's training visits.

    Every option of a decision is drawn once before any is drawn again (strict fairness, FairNAS, arXiv 1907.01845, 3.2, but in turn): an
    option must not seem better because it was trained more often, or later, when the learning rate is low.
    """

    def __init__(self, space: Space, seed: int) -> None:
        self.largest, self.smallest = space.largest(), space.smallest()
        self._rng = random.Random(seed)
        self._widths = self._turns(len(space.widths))
        self._options = [self._turns(len(block.options)) for block in space.blocks]

    def one(self) -> Architecture:
        """Draw an architecture; alone, each is as likely as any other."""
        return Architecture(next(self._widths), tuple(next(turns) for turns in self._options))

    def _turns(self, count: int) -> Iterator[int]:
        while True:
            yield from self._rng.sample(range(count), count)


Rule = Callable[[Supernet, Problem, Batch, Draws], None]
"""Adds up the gradients of one step of a supernet."""


def sandwich(supernet: Supernet, problem: Problem, batch: Batch, draws: Draws) -> None:
    """The largest path learns the labels, the smallest and a random one learn what the largest says (BigNAS, arXiv 2003.11142, 3.1)."""
    x, target = batch
    outputs = supernet(x, draws.largest)
    torch.autograd.backward(problem.loss(outputs, target))
    teacher = torch.softmax(outputs.detach(), dim=-1)
    for path in (draws.smallest, draws.one()):
        torch.autograd.backward(_distilled(supernet(x, path), teacher))


def single_path(supernet: Supernet, problem: Problem, batch: Batch, draws: Draws) -> None:
    """One random path learns the labels (single path one-shot, Guo et al., arXiv 1904.00420, 3.2)."""
    torch.autograd.backward(problem.loss(supernet(batch[0], draws.one()), batch[1]))


def largest_first(rule: Rule, steps: int) -> Rule:
    """The largest path learns the labels alone for so many steps, then the rule begins (progressive shrinking, arXiv 1908.09791, 3.3).

    Where a loss has a plateau that small steps in changing directions do not leave, as CTC's has, this is what leaves it.
    """
    made = itertools.count()

    def combined(supernet: Supernet, problem: Problem, batch: Batch, draws: Draws) -> None:
        if next(made) < steps:
            torch.autograd.backward(problem.loss(supernet(batch[0], draws.largest), batch[1]))
        else:
            rule(supernet, problem, batch, draws)

    return combined


def clipped(rule: Rule, norm: float) -> Rule:
    """The rule, its gradients scaled down to a norm that they may have at most."""

    def combined(supernet: Supernet, problem: Problem, batch: Batch, draws: Draws) -> None:
        rule(supernet, problem, batch, draws)
        nn.utils.clip_grad_norm_(supernet.parameters(), norm)

    return combined


def rate(step: int, steps: int, peak: float) -> float:
    """Return the learning rate of a step, from 0: up in a line, down in half a cosine (one cycle, Smith & Topin, arXiv 1708.07120)."""
    rise = _RISE * steps
    if step < rise:
        return peak * (step + 1) / (rise + 1)
    return peak * (1 + math.cos(math.pi * (step - rise) / (steps - rise))) / 2


def standalone(space: Space, architecture: Architecture, problem: Problem, fitting: Fitting, seed: int) -> tuple[nn.Module, float]:
    """Train an architecture from nothing; return its network, in evaluation mode, and its validation score."""
    with seeded(seed):
        net = network(space, architecture)
        descend(net, problem, fitting, seed, lambda batch: torch.autograd.backward(problem.loss(net(batch[0]), batch[1])))
    net.eval()
    return net, score(net, problem.batches("validation"), problem)


def train_supernet(
    supernet: Supernet, problem: Problem, fitting: Fitting, seed: int, *, rule: Rule = sandwich, stop: Callable[[int], bool] | None = None
) -> int:
    """Train a supernet by paths, in place; return the steps made. `stop` is as for `descend`."""
    draws = Draws(supernet.space, seed)
    with seeded(seed):
        optimiser = LazyAdamW(supernet.parameters(), weight_decay=fitting.weight_decay)  # a step trains a path, not the whole
        return descend(supernet, problem, fitting, seed, lambda batch: rule(supernet, problem, batch, draws), stop, optimiser)


def inherited_score(
    supernet: Supernet, architecture: Architecture, problem: Problem, calibration: Sequence[Tensor], batches: int | None = None
) -> float:
    """Return how likely the truth is on validation items to an architecture with the supernet's weights; see `likelihood`.

    Args:
        calibration: Batches of training inputs that the statistics of its batch norms are taken from.
        batches: Validation batches to judge by; None: all.
    """
    recalibrate(supernet, architecture, calibration)
    supernet.eval()
    return likelihood(lambda x: supernet(x, architecture), islice(problem.batches("validation"), batches), problem)


def descend(
    net: nn.Module,
    problem: Problem,
    fitting: Fitting,
    seed: int,
    add_gradients: Callable[[Batch], None],
    stop: Callable[[int], bool] | None = None,
    optimiser: AdamW | LazyAdamW | None = None,
) -> int:
    """Train in place; return the steps made.

    Args:
        seed: Of the order of the items.
        add_gradients: Computes a batch, and adds to the gradients of the parameters.
        stop: Told how many steps were made; true ends the training.
        optimiser: Of the network's parameters; None: AdamW.
    """
    optimiser = optimiser or AdamW(net.parameters(), weight_decay=fitting.weight_decay)
    steps = fitting.steps(problem)
    net.train()
    for step, batch in enumerate(islice(stream(problem, "train", torch.Generator().manual_seed(seed)), steps)):
        add_gradients(batch)
        optimiser.step(rate(step, steps, fitting.lr))
        if stop is not None and stop(step + 1):
            return step + 1
    return steps


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from torch's global generator as if the process had begun with this seed; then give it back as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _distilled(outputs: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean cross-entropy between a path's answers and the teacher's probabilities."""
    return -(teacher * torch.log_softmax(outputs, dim=-1)).sum(dim=-1).mean()
