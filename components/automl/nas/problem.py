"""What networks of a search learn: a `Problem` says what a batch is, and what is right. Training and strategies know no more.

Shapes: N items of a batch, C classes. Outputs have C last: (N, C) for images, (N, T, C) for the frames of a line of text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from components.core.errors import DataError

__all__ = ["Batch", "Images", "Part", "Problem", "Split", "likelihood", "score", "stream"]

Part = Literal["train", "validation"]
Batch = tuple[Tensor, Any]
"""Inputs, and what they should become: the problem's own."""


class Problem(Protocol):
    """What is learned."""

    def steps(self) -> int:
        """Return the training batches of an epoch."""
        ...

    def batches(self, part: Part, draw: torch.Generator | None = None) -> Iterator[Batch]:
        """Yield a part once: shuffled and in whole batches if `draw` is given, else all of it in order."""
        ...

    def loss(self, outputs: Tensor, target: Any) -> Tensor:
        """Return the mean loss of a batch, a scalar."""
        ...

    def right(self, outputs: Tensor, target: Any) -> tuple[int, int]:
        """Return how many items were answered right, and how many there are."""
        ...


@dataclass(frozen=True)
class Split:
    """Images x (N, channels, height, width) and their classes y (N,) int64."""

    x: Tensor
    y: Tensor


@dataclass(frozen=True)
class Images:
    """Classification of images by cross-entropy.

    Raises:
        DataError: There is not one whole batch to train on, or none to validate on.
    """

    training: Split
    validation: Split
    batch: int = 64

    def __post_init__(self) -> None:
        if self.batch < 2 or min(len(self.training.y), len(self.validation.y)) < self.batch:
            given = f"{len(self.training.y)} images to train on and {len(self.validation.y)} to validate on"
            raise DataError(f"{given}, batches have {self.batch}", do="give at least one batch of each, of 2 images or more")

    def steps(self) -> int:
        """Return the whole batches of an epoch."""
        return len(self.training.y) // self.batch

    def batches(self, part: Part, draw: torch.Generator | None = None) -> Iterator[Batch]:
        """Yield (N, channels, height, width) images and (N,) classes."""
        split = self.training if part == "train" else self.validation
        order = torch.arange(len(split.y)) if draw is None else torch.randperm(len(split.y), generator=draw)
        for rows in torch.split(order, self.batch):
            if draw is None or len(rows) == self.batch:
                # Channels last: convolutions of small images take two thirds of the time on CPUs.
                yield split.x[rows].contiguous(memory_format=torch.channels_last), split.y[rows]

    def loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Return the cross-entropy of (N, C) logits and (N,) classes."""
        return functional.cross_entropy(outputs, target)

    def right(self, outputs: Tensor, target: Tensor) -> tuple[int, int]:
        """Count the rows whose largest logit is the class."""
        return int((outputs.argmax(dim=1) == target).sum()), len(target)


def stream(problem: Problem, part: Part, draw: torch.Generator) -> Iterator[Batch]:
    """Yield whole batches for ever, each epoch in another order.

    Raises:
        DataError: The part has no whole batch.
    """
    while True:
        empty = True
        for batch in problem.batches(part, draw):
            empty = False
            yield batch
        if empty:
            raise DataError(f"'{part}' has no whole batch", do="give more items, or a smaller batch")


def score(answer: Callable[[Tensor], Tensor], batches: Iterable[Batch], problem: Problem) -> float:
    """Return the share of items that are answered right.

    Raises:
        DataError: There are no items.
    """
    right = total = 0
    with torch.inference_mode():
        for x, target in batches:
            found, count = problem.right(answer(x), target)
            right, total = right + found, total + count
    if not total:
        raise DataError("there is nothing to judge by", do="give validation items")
    return right / total


def likelihood(answer: Callable[[Tensor], Tensor], batches: Iterable[Batch], problem: Problem) -> float:
    """Return exp(-mean loss): the geometric mean of the probability that is given to what is right, 0 to 1.

    A few hundred items order networks better by it than by the share that is right, which knows of each item only on which side it fell.

    Raises:
        DataError: There are no items.
    """
    total, items = 0.0, 0
    with torch.inference_mode():
        for x, target in batches:
            total, items = total + len(x) * float(problem.loss(answer(x), target)), items + len(x)
    if not items:
        raise DataError("there is nothing to judge by", do="give validation items")
    return math.exp(-total / items)
