"""Neighbour sampling across partitions (Hamilton, Ying & Leskovec, arXiv 1706.02216, algorithm 2), in NumPy.

Each hop asks the owners of the nodes so far for at most `fanout` of their neighbours, without replacement. What is drawn is a function of
(seed, step, hop, original node): any number of processes draws the sample that one draws.

n nodes, e sampled edges.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.core.errors import DataError
from components.train.graph.choosing import choose
from components.train.graph.exchange import Alone, Exchange, routed
from components.train.graph.files import Partition
from components.train.graph.hashing import GOLDEN, key, mix
from components.train.graph.ids import IdMap, Ids

__all__ = ["ALL", "Block", "Sample", "Sampler", "drawn_neighbours"]

ALL = 0
"""As a fan-out: every neighbour."""
_ROWS = 1 << 11
"""Rows that are drawn at once, so that their words stay in the second-level cache."""


@dataclass(frozen=True)
class Block:
    """One hop's bipartite graph; its nodes are the first of the sample's nodes.

    Attributes:
        targets: Nodes that receive: numbers 0…targets - 1.
        sources: Nodes that send: numbers 0…sources - 1; the targets are the first of them.
        source: (e,) number of the sending node.
        target: (e,) number of the receiving node, ascending.
    """

    targets: int
    sources: int
    source: NDArray[np.int32]
    target: NDArray[np.int32]


@dataclass(frozen=True)
class Sample:
    """What a model needs to compute the first `blocks[-1].targets` nodes.

    Attributes:
        nodes: (n,) ids, the asked ones first.
        blocks: The outermost hop first: the order in which layers use them.
    """

    nodes: Ids
    blocks: tuple[Block, ...]

    @property
    def edges(self) -> int:
        """How many edges were sampled, over all hops."""
        return sum(len(block.source) for block in self.blocks)


def drawn_neighbours(partition: Partition, local: Ids, fanout: int, word: int) -> tuple[Ids, Ids]:
    """Draw neighbours of (n,) local nodes of one partition.

    Returns:
        ((n,) how many each has, at most `fanout`; (e,) their ids, node after node).
    """
    begins = partition.indptr.take(local)
    degrees = partition.indptr.take(local + 1) - begins
    counts = np.minimum(degrees, fanout) if fanout != ALL else degrees
    ends = np.cumsum(counts)
    places = np.arange(ends[-1] if len(ends) else 0)
    places += np.repeat(begins - ends + counts, counts)
    wide = np.flatnonzero(degrees > counts)
    for first in range(0, len(wide), _ROWS):
        rows = wide[first : first + _ROWS]
        words = mix(partition.original.take(local.take(rows)).astype(np.uint64) * np.uint64(GOLDEN) ^ np.uint64(word))
        drawn = choose(degrees.take(rows), fanout, words)
        drawn += begins.take(rows)
        at = ends.take(rows) - fanout
        for turn in range(fanout):
            places[at + turn] = drawn[turn]
    return counts, partition.indices.take(places)


class Sampler:
    """Samples the neighbourhood of this process' nodes.

    Args:
        partition: This process' own.
        fanouts: Neighbours a node, the hop from the asked nodes first; `ALL` takes every one.
        exchange: The way to the other partitions' owners.

    Raises:
        DataError: There is no hop, a fan-out is negative, or processes and partitions are not the same.
    """

    def __init__(self, partition: Partition, fanouts: Sequence[int], exchange: Exchange | None = None) -> None:
        self.partition, self.fanouts, self.exchange = partition, tuple(fanouts), exchange or Alone()
        if not self.fanouts or min(self.fanouts) < 0:
            raise DataError(f"fan-outs are {list(self.fanouts)}", do=f"give one for each hop: at least 1, or {ALL} for all neighbours")
        if (self.exchange.rank, self.exchange.world) != (partition.number, partition.ids.parts):
            raise DataError(
                f"process {self.exchange.rank} of {self.exchange.world} has partition {partition.number} of {partition.ids.parts}",
                do="start one process for each partition; each opens the partition of its rank",
            )
        self._numbers = _Numbers(partition.ids)

    def sample(self, targets: Ids, *step: int) -> Sample:
        """Sample for (t,) local nodes; every process calls it, with none of its nodes if need be.

        Args:
            targets: Different local nodes.
            step: Numbers that name the sample, such as (seed, epoch, step): the same ones on all processes give the same sample again.

        Raises:
            DataError: A target is no local node, or is given twice.
            TryAgain: Another process is gone.
        """
        nodes = self.partition.global_ids(targets)
        blocks: list[Block] = []
        try:
            if len(self._numbers.add(nodes)[1]) < len(targets):
                raise DataError("a target is given twice", do="give different nodes")
            for hop, fanout in enumerate(self.fanouts):
                counts, neighbours = self._ask(nodes, fanout, key(*step, hop))
                source, fresh = self._numbers.add(neighbours)
                target = np.repeat(np.arange(len(nodes), dtype=np.int32), counts)
                reached = np.concatenate([nodes, neighbours.take(fresh)])
                blocks.append(Block(len(nodes), len(reached), source, target))
                nodes = reached
        finally:
            self._numbers.clear()
        return Sample(nodes, tuple(reversed(blocks)))

    def _ask(self, nodes: Ids, fanout: int, word: int) -> tuple[Ids, Ids]:
        owner, local = self.partition.ids.split(nodes)
        if self.exchange.world == 1:
            return drawn_neighbours(self.partition, local, fanout, word)
        order, cuts = routed(owner, self.exchange.world)
        asked = self.exchange.swap(np.split(local.take(order), cuts), "node ids")
        counts, neighbours = drawn_neighbours(self.partition, np.concatenate(asked), fanout, word)
        ends = np.cumsum([len(ids) for ids in asked])[:-1]
        replies = self.exchange.swap(np.split(counts, ends), "neighbours")
        drawn = np.cumsum(counts)
        per_asker = np.split(neighbours, [drawn[end - 1] if end else 0 for end in ends])
        found = np.concatenate(self.exchange.swap(per_asker, "neighbours"))
        return _unrouted(order, np.concatenate(replies), found)


def _unrouted(order: NDArray[np.intp], grouped: Ids, found: Ids) -> tuple[Ids, Ids]:
    """Put replies, which came grouped by owner, into the order of the question."""
    counts, begins = np.empty_like(grouped), np.empty_like(grouped)
    counts[order], begins[order] = grouped, np.cumsum(grouped) - grouped
    places = np.arange(len(found)) + np.repeat(begins - np.cumsum(counts) + counts, counts)
    return counts, found.take(places)


class _Numbers:
    """Numbers ids 0, 1, 2, … as they first appear.

    A stamp for every node of the graph, 4 bytes, of which the kernel gives only the pages that are touched: two look-ups an id instead
    of the sort that np.unique makes.
    """

    def __init__(self, ids: IdMap) -> None:
        self._ids = ids
        self._stamp = np.zeros(ids.total, np.int32)
        self._stamped: list[Ids] = []
        self._count = 0

    def add(self, ids: Ids) -> tuple[NDArray[np.int32], NDArray[np.intp]]:
        """Return ((e,) numbers of ids, (k,) places of those that are new, each once)."""
        slots = self._ids.place(ids)
        new = np.flatnonzero(self._stamp.take(slots) == 0)
        candidates = slots.take(new)
        turn = np.arange(1, len(new) + 1, dtype=np.int32)
        self._stamp[candidates] = turn  # of equal ids the last one wins, so exactly one finds its own turn there
        won = self._stamp.take(candidates) == turn
        fresh, slots_of_fresh = new[won], candidates[won]
        self._stamp[slots_of_fresh] = np.arange(self._count + 1, self._count + len(fresh) + 1, dtype=np.int32)
        self._stamped.append(slots_of_fresh)
        self._count += len(fresh)
        return self._stamp.take(slots) - np.int32(1), fresh

    def clear(self) -> None:
        """Forget all."""
        for slots in self._stamped:
            self._stamp[slots] = 0
        self._stamped, self._count = [], 0
