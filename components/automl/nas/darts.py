"""DARTS (Liu, Simonyan & Yang, ICLR 2019, arXiv 1806.09055), the baseline: every option has weights of its own, all are computed each step.

Notation: w weights, alpha architecture parameters (a vector a block), xi the learning rate of the virtual step, L the losses of a training
and of a validation batch. What the released code adds to the paper is kept: momentum and weight decay in the virtual step, gradients cut to
norm 5, batch norms without learned scale or shift while searching.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from components.automl.nas.problem import Batch, Problem
from components.train.spaces.network import network
from components.train.spaces.space import Architecture, Space

__all__ = ["Adam", "Bilevel", "Momentum", "Relaxed", "Steps", "unrolled_gradient"]

Loss = Callable[[], Tensor]
"""The loss of a batch at the present values of weights and alpha."""


class Relaxed(nn.Module):
    """Every block is the mean of its options' outputs, weighted by their probabilities (section 2.2).

    Args:
        width: Number of the width multiplier: DARTS does not search it.
    """

    def __init__(self, space: Space, width: int = 0) -> None:
        super().__init__()
        most = max(len(block.options) for block in space.blocks)
        choices = [tuple(min(number, len(block.options) - 1) for block in space.blocks) for number in range(most)]
        nets = [network(space, Architecture(width, choice)) for choice in choices]
        self.stem, self.head = nets[0].stem, nets[0].head
        self.blocks = nn.ModuleList(
            nn.ModuleList(net.blocks[place] for net in nets[: len(block.options)]) for place, block in enumerate(space.blocks)
        )
        for module in self.blocks.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.requires_grad_(False)  # a learned scale would undo what alpha says

    def forward(self, x: Tensor, mix: Sequence[Tensor]) -> Tensor:
        """Return the head's output.

        Args:
            x: (N, channels, height, width).
            mix: A probability vector a block.
        """
        x = self.stem(x)
        for options, weights in zip(self.blocks, mix, strict=True):
            mixed = [weight * option(x) for weight, option in zip(weights, options.children(), strict=True)]
            x = sum(mixed[1:], mixed[0])
        out: Tensor = self.head(x)
        return out


class Momentum:
    """Stochastic gradient descent with momentum and L2 decay, as `torch.optim.SGD` does it; the direction can be asked for beforehand."""

    def __init__(self, params: Sequence[Tensor], *, momentum: float, weight_decay: float) -> None:
        self.params = list(params)
        self._momentum, self._decay = momentum, weight_decay
        self.velocity = [torch.zeros_like(param) for param in self.params]

    @torch.no_grad()
    def directions(self, gradients: Sequence[Tensor]) -> list[Tensor]:
        """Return what a step would subtract, over its learning rate; nothing is changed."""
        steps = zip(self.params, gradients, self.velocity, strict=True)
        return [self._momentum * velocity + gradient + self._decay * param for param, gradient, velocity in steps]

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor], lr: float) -> None:
        """Make a step."""
        self.velocity = self.directions(gradients)
        _move(self.params, -lr, self.velocity)


class Adam:
    """Adam with L2 decay (Kingma & Ba 2015) for alpha, as `torch.optim.Adam` does it."""

    def __init__(self, params: Sequence[Tensor], *, lr: float, betas: tuple[float, float], weight_decay: float) -> None:
        self.params = list(params)
        self._lr, self._betas, self._decay, self._steps = lr, betas, weight_decay, 0
        self._mean, self._square = ([torch.zeros_like(param) for param in self.params] for _ in range(2))

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor]) -> None:
        """Make a step."""
        self._steps += 1
        first, second = self._betas
        for param, gradient, mean, square in zip(self.params, gradients, self._mean, self._square, strict=True):
            gradient = gradient + self._decay * param
            mean.lerp_(gradient, 1 - first)
            square.mul_(second).addcmul_(gradient, gradient, value=1 - second)
            spread = square.sqrt() / math.sqrt(1 - second**self._steps) + 1e-8
            param.addcdiv_(mean, spread, value=-self._lr / (1 - first**self._steps))


def unrolled_gradient(
    train: Loss,
    validation: Loss,
    weights: Sequence[Tensor],
    alphas: Sequence[Tensor],
    descent: Momentum,
    xi: float,
    radius: float = 0.01,
) -> list[Tensor]:
    """Return alpha's gradient of L_validation(w', alpha), where w' = w - xi * direction(w, alpha) is one step of training (equation 7).

    Its second term, a product with the mixed second derivative, is a central difference of two gradients (equation 8). The weights
    are moved while it works, and are what they were, to the bit, when it returns.
    """
    kept = [weight.detach().clone() for weight in weights]
    try:
        _move(weights, -xi, descent.directions(torch.autograd.grad(train(), weights)))
        found = torch.autograd.grad(validation(), [*alphas, *weights])
        direct, towards = found[: len(alphas)], found[len(alphas) :]
        norm = math.sqrt(sum(float(part.pow(2).sum()) for part in towards))
        if norm == 0:
            return list(direct)
        epsilon = radius / norm
        _put(weights, kept)
        _move(weights, epsilon, towards)
        above = torch.autograd.grad(train(), alphas)
        _put(weights, kept)
        _move(weights, -epsilon, towards)
        below = torch.autograd.grad(train(), alphas)
    finally:
        _put(weights, kept)
    return [d - xi * (a - b) / (2 * epsilon) for d, a, b in zip(direct, above, below, strict=True)]


@dataclass(frozen=True)
class Steps:
    """How DARTS descends; the defaults are the released code's for CIFAR-10.

    Attributes:
        order: 1: alpha's gradient at w (xi = 0); 2: at w' after one virtual step.
        lr: The weights' learning rate at the start.
        alpha_lr: Alpha's learning rate; the released code has 3e-4 for 50 epochs, short searches need more.
        radius: Distance of the two points of the central difference from w (footnote 2 of the paper), second order only.
    """

    order: Literal[1, 2] = 1
    lr: float = 0.025
    momentum: float = 0.9
    weight_decay: float = 3e-4
    clip: float = 5.0
    alpha_lr: float = 3e-4
    alpha_betas: tuple[float, float] = (0.5, 0.999)
    alpha_weight_decay: float = 1e-3
    radius: float = 0.01


class Bilevel:
    """Algorithm 1: alpha follows the validation loss, weights follow the training loss, in turn.

    Args:
        net: Called with a batch's inputs and a probability vector a block.
        options: How many options each block has.
    """

    def __init__(self, net: nn.Module, options: Sequence[int], problem: Problem, steps: Steps) -> None:
        self.net, self._problem, self._steps = net, problem, steps
        self.weights = [param for param in net.parameters() if param.requires_grad]
        like = self.weights[0]
        self.alphas = [torch.zeros(count, dtype=like.dtype, device=like.device, requires_grad=True) for count in options]
        self.descent = Momentum(self.weights, momentum=steps.momentum, weight_decay=steps.weight_decay)
        self._adam = Adam(self.alphas, lr=steps.alpha_lr, betas=steps.alpha_betas, weight_decay=steps.alpha_weight_decay)

    def step(self, train: Batch, validation: Batch, lr: float) -> None:
        """Make a step of alpha, then one of the weights, whose learning rate is given; the virtual step has the same."""
        self._adam.step(self.alpha_gradient(train, validation, lr))
        gradients = torch.autograd.grad(self._loss(train), self.weights)
        norm = torch.sqrt(sum((part.pow(2).sum() for part in gradients), torch.zeros((), dtype=gradients[0].dtype)))
        share = torch.clamp(self._steps.clip / (norm + 1e-6), max=1.0)
        self.descent.step([part * share for part in gradients], lr)

    def alpha_gradient(self, train: Batch, validation: Batch, lr: float) -> list[Tensor]:
        """Return the gradient that alpha follows."""
        if self._steps.order == 1:
            return list(torch.autograd.grad(self._loss(validation), self.alphas))
        losses = (lambda: self._loss(train)), (lambda: self._loss(validation))
        return unrolled_gradient(*losses, self.weights, self.alphas, self.descent, lr, self._steps.radius)

    def scores(self) -> tuple[tuple[float, ...], ...]:
        """Return the logarithm of each option's probability, for each block."""
        return tuple(tuple(torch.log_softmax(alpha.detach(), dim=0).tolist()) for alpha in self.alphas)

    def _loss(self, batch: Batch) -> Tensor:
        x, target = batch
        return self._problem.loss(self.net(x, [torch.softmax(alpha, dim=0) for alpha in self.alphas]), target)


@torch.no_grad()
def _move(params: Sequence[Tensor], by: float, directions: Sequence[Tensor]) -> None:
    for param, direction in zip(params, directions, strict=True):
        param.add_(direction, alpha=by)


@torch.no_grad()
def _put(params: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    for param, value in zip(params, values, strict=True):
        param.copy_(value)
