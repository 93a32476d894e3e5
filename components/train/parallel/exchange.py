"""What the ranks of a sharded head tell each other: three collectives a step, none of them as large as the number of classes.

A rank with a bad input must not leave the others waiting: it sends a packet that says so, and all of them raise an error. Packets have room
for `capacity` rows. A rank with more rows says how many; then all make room and send again, which happens in the first step.

Shapes: B rows of all ranks, b of this one, D dimensions, P places in all packets, W ranks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

import torch
from torch import Tensor, distributed
from torch.distributed import ProcessGroup

from components.core.errors import DataError

__all__ = ["Exchange", "Gathered"]

_REFUSES = -1


@dataclass(frozen=True)
class Gathered:
    """The rows of all ranks, in their order.

    Attributes:
        embedding_BD: Of unit length.
        label_B: Class ids, checked.
        sizes: Rows that each rank gave.
        capacity: Rows that its packet had room for.
    """

    embedding_BD: Tensor
    label_B: Tensor
    sizes: tuple[int, ...]
    capacity: int


class Exchange:
    """The collectives of one head. Without a process group, or in a group of one, nothing is sent.

    Args:
        group: The ranks that share the classes.
        classes: Of all ranks together.
        dim: Of an embedding.
    """

    def __init__(self, group: ProcessGroup | None, *, classes: int, dim: int) -> None:
        self._group, self._classes, self._dim = group, classes, dim
        self._capacity = 0
        self.world = 1 if group is None else distributed.get_world_size(group)
        self.rank = 0 if group is None else distributed.get_rank(group)

    def gather(self, embedding_bD: Tensor, label_b: Tensor) -> Gathered:
        """Gather rows and labels in one collective. The ranks may have different numbers of rows; one may have none.

        Args:
            embedding_bD: (b, D) of unit length, in the head's dtype.
            label_b: (b,) int64.

        Raises:
            DataError: On every rank, when a label of any rank is no class, a rank refuses, or there is no row at all.
        """
        while True:
            capacity = self._capacity
            packets = self._all_gather(_packet(embedding_bD, label_b, len(label_b), capacity))
            says = _ids(packets[:, 0], self._dim).tolist()
            if _REFUSES in says:
                raise DataError(f"rank {says.index(_REFUSES)} was given what the head can't use", do="read that rank's own error")
            if max(says) <= capacity:
                return self._unpacked(packets, says)
            self._capacity = max(says)

    def refuse(self, like: Tensor, why: str) -> NoReturn:
        """Take part in the others' `gather` and say that this rank's input can't be used.

        Args:
            like: Any tensor with the head's device and dtype.
            why: What was given.

        Raises:
            DataError: Always.
        """
        ids = torch.zeros(0, dtype=torch.int64, device=like.device)
        self._all_gather(_packet(like.new_empty(0, self._dim), ids, _REFUSES, self._capacity))
        raise DataError(why, do="give embeddings (b, dim) and whole-numbered labels (b,), both on the head's device")

    def sum(self, figures: Tensor) -> Tensor:
        """Return the sum over all ranks."""
        if self.world > 1:
            distributed.all_reduce(figures, group=self._group)
        return figures

    def scatter(self, gradient_BD: Tensor, rows: Gathered) -> Tensor:
        """Return this rank's rows of the sum over all ranks, (b, D)."""
        if self.world == 1:
            return gradient_BD
        places_PD = gradient_BD.new_zeros(self.world, rows.capacity, self._dim)
        for place, part in zip(places_PD, torch.split(gradient_BD, list(rows.sizes)), strict=True):
            place[: len(part)] = part
        own = gradient_BD.new_empty(rows.capacity, self._dim)
        distributed.reduce_scatter_single(own, places_PD.view(-1, self._dim), group=self._group)
        return own[: rows.sizes[self.rank]]

    def _all_gather(self, packet: Tensor) -> Tensor:
        if self.world == 1:
            return packet[None]
        packets = packet.new_empty(self.world * len(packet), packet.shape[1])
        distributed.all_gather_single(packets, packet, group=self._group)
        return packets.view(self.world, *packet.shape)

    def _unpacked(self, packets: Tensor, sizes: list[int]) -> Gathered:
        if not sum(sizes):
            raise DataError("no rank has a row", do="give a batch")
        rows = torch.cat([packet[1 : 1 + size] for packet, size in zip(packets, sizes, strict=True)])
        label_B = _ids(rows, self._dim)
        low, high = torch.stack([label_B.min(), label_B.max()]).tolist()
        if low < 0 or high >= self._classes:
            wrong = low if low < 0 else high
            rank = next(rank for rank, part in enumerate(torch.split(label_B, sizes)) if bool((part == wrong).any()))
            raise DataError(f"rank {rank} has a label {wrong}; the head has {self._classes} classes", do="number the classes from 0")
        return Gathered(rows[:, : self._dim].contiguous(), label_B, tuple(sizes), self._capacity)


def _packet(embedding_bD: Tensor, label_b: Tensor, says: int, capacity: int) -> Tensor:
    """Return (1 + capacity, D + k): the first row's id says how many rows follow. Ids are int64; their bits travel as k numbers."""
    sent = len(label_b) if len(label_b) <= capacity else 0
    dim = embedding_bD.shape[1]
    ids = torch.zeros(1 + capacity, 1, dtype=torch.int64, device=embedding_bD.device)
    ids[0] = says
    ids[1 : 1 + sent, 0] = label_b[:sent]
    bits = ids.view(embedding_bD.dtype)
    packet = embedding_bD.new_zeros(1 + capacity, dim + bits.shape[1])
    packet[1 : 1 + sent, :dim] = embedding_bD[:sent]
    packet[:, dim:] = bits
    return packet


def _ids(rows: Tensor, dim: int) -> Tensor:
    return rows[:, dim:].contiguous().view(torch.int64)[:, 0]
