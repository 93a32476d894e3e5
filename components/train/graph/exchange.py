"""What processes say to each other: rows to each of them, and sums. One process talks to itself and sends nothing.

P processes; each owns the partition of its rank.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch import distributed as dist

from components.core.errors import TryAgain

__all__ = ["Alone", "Exchange", "Processes", "routed"]


class Exchange(Protocol):
    """How processes exchange rows. Every process makes the same calls in the same order.

    Attributes:
        rank: This process, 0…world - 1.
        world: How many there are.
        sent: What for -> bytes handed over to other processes so far.
    """

    rank: int
    world: int
    sent: Counter[str]

    def swap(self, parts: Sequence[NDArray[Any]], what: str) -> list[NDArray[Any]]:
        """Send `parts[r]`, rows of one dtype and width, to process r; return what each process sent here.

        Raises:
            TryAgain: Another process is gone.
        """

    def sum_(self, values: Tensor, what: str) -> Tensor:
        """Add up a tensor over all processes, in place. Raises as `swap`."""


class Alone:
    """One process."""

    rank, world = 0, 1

    def __init__(self) -> None:
        self.sent: Counter[str] = Counter()

    def swap(self, parts: Sequence[NDArray[Any]], what: str) -> list[NDArray[Any]]:
        return list(parts)

    def sum_(self, values: Tensor, what: str) -> Tensor:
        return values


class Processes:
    """The processes of torch.distributed.

    Rows travel between host memories over a gloo group of their own, so a prefetching thread never gets between the gradients' calls;
    sums take the default group, on the device where the tensor is. To be made by all processes at the same time, once.
    """

    def __init__(self) -> None:
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.sent: Counter[str] = Counter()
        self._rows = dist.new_group(backend="gloo")

    def swap(self, parts: Sequence[NDArray[Any]], what: str) -> list[NDArray[Any]]:
        sizes = torch.tensor([len(part) for part in parts])
        arriving = torch.empty_like(sizes)
        leaving = torch.from_numpy(np.concatenate(parts))
        try:
            dist.all_to_all_single(arriving, sizes, group=self._rows)
            here, there = arriving.tolist(), sizes.tolist()
            received = torch.empty((sum(here), *leaving.shape[1:]), dtype=leaving.dtype)
            dist.all_to_all_single(received, leaving, here, there, group=self._rows)
        except RuntimeError as error:
            raise _gone(error) from error
        self.sent[what] += sum(part.nbytes for rank, part in enumerate(parts) if rank != self.rank)
        return np.split(received.numpy(), np.cumsum(here)[:-1])

    def sum_(self, values: Tensor, what: str) -> Tensor:
        try:
            dist.all_reduce(values)
        except RuntimeError as error:
            raise _gone(error) from error
        # What a ring sends, the least that an all-reduce can (Patarasuk & Yuan, JPDC 69:2, 2009).
        self.sent[what] += 2 * (self.world - 1) * values.nbytes // self.world
        return values


def routed(owner: NDArray[np.int64], world: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return ((n,) order that groups rows by owner, stable; (world - 1,) where to cut it)."""
    order = np.argsort(owner.astype(np.uint16), kind="stable")
    return order, np.cumsum(np.bincount(owner, minlength=world))[:-1]


def _gone(error: RuntimeError) -> TryAgain:
    return TryAgain(f"another process of the group does not answer: {error}", do="see that process' log, then run the step again")
