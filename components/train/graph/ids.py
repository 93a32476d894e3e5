"""Global ids: the partition in the high bits, the place within it in the low ones. No table, whatever the number of ids.

    id = partition << bits | local        partition = id >> bits        local = id & (2^bits - 1)

Partitions may differ in size: what is missing to 2^bits are gaps in the space of ids, and those cost nothing. What is kept is a count a
partition. A dense table takes 8 or 16 bytes an id; boundaries and a binary search (DGL's RangePartitionBook) take log2(P) branches an id.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.core.errors import DataError

__all__ = ["IdMap", "Ids"]

Ids = NDArray[np.int64]

_BLOCK = 1 << 14
"""Ids that are split at once: 128 KiB, so that the second pass reads them from the cache."""


@dataclass(frozen=True, eq=False)
class IdMap:
    """The map between global ids and (partition, local).

    Attributes:
        counts: (P,) ids of each partition.
        starts: (P,) ids of the partitions before it.
        bits: How many low bits are the local id.
    """

    counts: Ids
    starts: Ids
    bits: int

    @classmethod
    def of(cls, counts: Sequence[int] | Ids) -> IdMap:
        """Make the map of partitions of these sizes; a partition may be empty.

        Raises:
            DataError: There is no partition, a size is negative, or the ids would need more than 63 bits.
        """
        sizes = np.array(counts, dtype=np.int64)
        if sizes.ndim != 1 or not len(sizes) or int(sizes.min()) < 0:
            raise DataError(f"partition sizes are {sizes.tolist()}", do="give one size, 0 or more, for each partition")
        bits = max(int(sizes.max()) - 1, 0).bit_length()
        if bits + (len(sizes) - 1).bit_length() > 63:
            raise DataError(f"{len(sizes)} partitions of up to {sizes.max()} ids do not fit 63 bits", do="use fewer partitions")
        return cls(sizes, np.cumsum(sizes) - sizes, bits)

    @property
    def parts(self) -> int:
        """How many partitions."""
        return len(self.counts)

    @property
    def total(self) -> int:
        """How many ids."""
        return int(self.starts[-1] + self.counts[-1])

    @property
    def nbytes(self) -> int:
        """Bytes the map takes: 16 a partition, whatever the number of ids."""
        return self.counts.nbytes + self.starts.nbytes + self.bits.__sizeof__()

    def split(self, ids: Ids, partition: Ids | None = None, local: Ids | None = None) -> tuple[Ids, Ids]:
        """Return ((N,) partitions, (N,) local ids) of (N,) ids, written into `partition` and `local` where they are given.

        This is the hot path: it does not check. Ids from outside go through `check` first.
        """
        partition = np.empty(len(ids), np.int64) if partition is None else partition
        local = np.empty(len(ids), np.int64) if local is None else local
        mask = (1 << self.bits) - 1
        for first in range(0, len(ids), _BLOCK):
            block = slice(first, first + _BLOCK)
            np.right_shift(ids[block], self.bits, out=partition[block])
            np.bitwise_and(ids[block], mask, out=local[block])
        return partition, local

    def join(self, partition: Ids, local: Ids, out: Ids | None = None) -> Ids:
        """Return the (N,) ids of (N,) partitions and local ids, written into `out` where it is given.

        Raises:
            DataError: There is no such partition, or it has no such local id.
        """
        self._refuse(partition, local)
        out = np.empty(len(partition), np.int64) if out is None else out
        np.left_shift(partition, self.bits, out=out)
        return np.bitwise_or(out, local, out=out)

    def check(self, ids: Ids) -> None:
        """Check that every id is one of the map's.

        Raises:
            DataError: One is negative, of no partition, or in a gap.
        """
        self._refuse(*self.split(ids))

    def place(self, ids: Ids) -> Ids:
        """Return the (N,) places of ids among all ids in order, 0…total - 1, without gaps: indices into arrays of all nodes."""
        if self.parts == 1:
            return ids
        partition, local = self.split(ids)
        return np.add(local, self.starts.take(partition), out=local)

    def at(self, places: Ids) -> Ids:
        """Return the (N,) ids at places 0…total - 1: the inverse of `place`.

        Raises:
            DataError: A place is outside that range.
        """
        if len(places) and (int(places.min()) < 0 or int(places.max()) >= self.total):
            raise DataError(f"places from {places.min()} to {places.max()}", do=f"give places from 0 to {self.total - 1}")
        partition = np.searchsorted(self.starts, places, side="right") - 1
        return self.join(partition, places - self.starts.take(partition))

    def _refuse(self, partition: Ids, local: Ids) -> None:
        if not len(partition):
            return
        known = (partition >= 0) & (partition < self.parts) & (local >= 0)
        known &= local < self.counts.take(partition, mode="clip")
        if not known.all():
            first = int(np.argmin(known))
            raise DataError(
                f"number {first} of {len(known)} ids is local id {local[first]} of partition {partition[first]}",
                do=f"give ids of the {self.parts} partitions, each with {self.counts.min()} to {self.counts.max()} nodes",
            )
