"""A rank that runs the whole model on its rows: what single, DDP and FSDP2 have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.optim import Optimizer

from components.train.parallel.clip import clip_gradient
from components.train.parallel.state import full_model_state, load_state, state_of
from components.train.parallel.strategies.base import Batch, State, Work, base_rates, mean_loss, parts_of, set_rate

__all__ = ["Whole"]


@dataclass
class Whole:
    """The common part. `strategies.base.Strategy` says what the methods do.

    Attributes:
        model: As the strategy wrapped it.
        optimiser: Over its parameters.
        work: What is trained.
        device: This rank's.
        place: Which slice of a batch it takes.
        places: Slices; gradients are averaged over as many ranks.
        group: The ranks with other slices; None: there are none.
        synchronise: Called before each micro-batch: whether its backward pass is the one that shares gradients.
        parts: Micro-batches.
    """

    model: nn.Module
    optimiser: Optimizer
    work: Work
    device: torch.device
    place: int = 0
    places: int = 1
    group: dist.ProcessGroup | None = None
    synchronise: Callable[[bool], None] = lambda last: None
    parts: int = 1
    rates: list[list[float]] = field(init=False)

    def __post_init__(self) -> None:
        self.rates = base_rates([self.optimiser])

    def step(self, batch: Batch, rate: float = 1.0) -> float:
        """Accumulate over the micro-batches, then step."""
        self.model.train()
        cut = list(parts_of(batch, self.place, self.places, self.parts, self.device))
        shares: list[Tensor] = []
        for number, (x, y, share) in enumerate(cut, start=1):
            self.synchronise(number == len(cut))
            loss = self.work.loss(self.model(x), y) * share
            # Gradients are averaged over the places; a row's weight is 1 / B whatever slice it is in.
            torch.autograd.backward(loss * self.places)
            shares.append(loss.detach())
        if self.work.clip is not None:
            clip_gradient(self.model.parameters(), self.work.clip)
        set_rate([self.optimiser], self.rates, rate)
        self.optimiser.step()
        self.optimiser.zero_grad()
        return mean_loss(torch.stack(shares).sum(), self.group)

    def state(self) -> State:
        """Return what is trained, as it lies on this rank."""
        return state_of([(self.model, self.optimiser)])

    def load(self, state: State) -> None:
        """Go on from a state."""
        load_state([(self.model, self.optimiser)], state)

    def full_state(self) -> State:
        """Return the weights on rank 0."""
        return full_model_state(self.model)
