"""The weights of options, learned in superposition: TangleNAS (Sukthanker et al., AutoML 2024, arXiv 2312.10440, section 3).

Alpha are architecture parameters: a vector for each block's options, and one for the width multipliers where there are several.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from components.automl.nas.problem import Batch, Problem, stream
from components.automl.nas.supernet import Mix, Supernet
from components.automl.nas.training import Fitting, descend, seeded
from components.train.adamw import AdamW
from components.train.spaces.space import Space

__all__ = ["Alphas", "Mixing", "Scores", "train_superposed"]


@dataclass(frozen=True)
class Mixing:
    """How the weights of options are learned.

    Attributes:
        how: `softmax` of alpha (DARTS, arXiv 1806.09055, section 2.2), or a draw from Dirichlet(elu(alpha) + 1) (DrNAS, arXiv 2006.10355,
            section 3.1, without its regulariser), which also visits the corners of the simplex and so trains single options.
        lr: Learning rate of alpha, constant.
        bilevel: Whether alpha follows validation batches in steps of its own. Else it follows training batches, in the same backward pass
            as the weights: half the cost, and a bias to whatever fits the training images.
        every: Training steps for each step of alpha, if bilevel.
        warm_up: Share of the steps before alpha moves.
    """

    how: Literal["softmax", "dirichlet"] = "softmax"
    lr: float = 2e-2
    bilevel: bool = True
    every: int = 1
    warm_up: float = 0.2


@dataclass(frozen=True)
class Scores:
    """How good options are; an architecture's score is the sum of its options' and its width's.

    Attributes:
        blocks: For each block, (options,).
        widths: (widths,).
    """

    blocks: tuple[tuple[float, ...], ...]
    widths: tuple[float, ...]


class Alphas:
    """The architecture parameters of a space, all 0 at first: no option is preferred."""

    def __init__(self, space: Space, how: Literal["softmax", "dirichlet"]) -> None:
        self._how = how
        self._blocks = [torch.zeros(len(block.options), requires_grad=True) for block in space.blocks]
        self._widths = [torch.zeros(len(space.widths), requires_grad=True)] if len(space.widths) > 1 else []

    @property
    def tensors(self) -> list[Tensor]:
        """Every vector."""
        return [*self._blocks, *self._widths]

    def mix(self) -> Mix:
        """Return probabilities, differentiable in alpha; `dirichlet` draws them from torch's global generator."""
        found = [self._probabilities(alpha) for alpha in self.tensors]
        return Mix(found[: len(self._blocks)], found[-1] if self._widths else 0)

    def scores(self) -> Scores:
        """Return the logarithm of each option's mean probability; logarithms add up over blocks."""
        blocks = tuple(self._logarithms(alpha) for alpha in self._blocks)
        return Scores(blocks, self._logarithms(self._widths[0]) if self._widths else (0.0,))

    def _probabilities(self, alpha: Tensor) -> Tensor:
        if self._how == "softmax":
            return torch.softmax(alpha, dim=0)
        return torch.distributions.Dirichlet(functional.elu(alpha) + 1, validate_args=False).rsample()

    def _logarithms(self, alpha: Tensor) -> tuple[float, ...]:
        alpha = alpha.detach()
        logits = alpha if self._how == "softmax" else torch.log(functional.elu(alpha) + 1)
        return tuple(torch.log_softmax(logits, dim=0).tolist())


def train_superposed(
    supernet: Supernet,
    problem: Problem,
    fitting: Fitting,
    seed: int,
    mixing: Mixing,
    watch: Callable[[int, Callable[[], Scores]], bool] | None = None,
) -> Scores:
    """Train the weights of a supernet, in place, and the weights of its options.

    Args:
        watch: Told after each step how many were made, and how to get the scores; true ends the training.

    Returns:
        The scores of the options.
    """
    alphas = Alphas(supernet.space, mixing.how)
    optimiser = AdamW(alphas.tensors, weight_decay=0.0)
    held_out = stream(problem, "validation", torch.Generator().manual_seed(seed + 1))
    waits, made = mixing.warm_up * fitting.steps(problem), 0

    def loss(batch: Batch) -> Tensor:
        return problem.loss(supernet(batch[0], alphas.mix()), batch[1])

    def add_gradients(batch: Batch) -> None:
        nonlocal made
        moves = made >= waits
        made += 1
        if moves and mixing.bilevel and made % mixing.every == 0:
            # Where all options of a decision have the same shape, nothing depends on it.
            _set_gradients(alphas.tensors, torch.autograd.grad(loss(next(held_out)), alphas.tensors, materialize_grads=True))
            optimiser.step(mixing.lr)
        torch.autograd.backward(loss(batch))
        if moves and not mixing.bilevel:
            optimiser.step(mixing.lr)
        _set_gradients(alphas.tensors, [None] * len(alphas.tensors))

    with seeded(seed):
        descend(supernet, problem, fitting, seed, add_gradients, None if watch is None else lambda step: watch(step, alphas.scores))
    return alphas.scores()


def _set_gradients(params: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
    for param, gradient in zip(params, gradients, strict=True):
        param.grad = gradient
