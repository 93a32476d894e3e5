"""Who owns a node: partitioners behind one protocol, and the two figures by which they are judged.

METIS (Karypis & Kumar, SIAM J. Sci. Comput. 20:1, 1998) cuts few edges; a hash and ranges cost nothing and are what it is compared with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from components.core.errors import ConfigError, DataError, nearest
from components.train.graph.hashing import buckets, key
from components.train.graph.ids import Ids

__all__ = ["PARTITIONERS", "Hashed", "Metis", "Partitioner", "Ranges", "balance", "edge_cut", "partitioner"]

_MOST_NODES = 1 << 31


class Partitioner(Protocol):
    """Gives every node of a graph a partition."""

    def __call__(self, edges: Ids, nodes: int, parts: int) -> Ids:
        """Return (N,) partition numbers 0…P - 1.

        Args:
            edges: (E, 2) source and target, 0…N - 1.
            nodes: N.
            parts: P.

        Raises:
            DataError: The graph is empty, has fewer nodes than partitions, or an edge names a node that is not there.
        """


@dataclass(frozen=True)
class Hashed:
    """A node's partition is a hash of its number: balanced, blind to edges."""

    seed: int = 0

    def __call__(self, edges: Ids, nodes: int, parts: int) -> Ids:
        _check(edges, nodes, parts)
        return buckets(np.arange(nodes), parts, key(self.seed))


@dataclass(frozen=True)
class Ranges:
    """Runs of equal length: as good as the order in which the nodes were given."""

    def __call__(self, edges: Ids, nodes: int, parts: int) -> Ids:
        _check(edges, nodes, parts)
        return np.arange(nodes) * parts // nodes


@dataclass(frozen=True)
class Metis:
    """Few edges between partitions, nodes balanced. Directions and weights of edges do not count. In memory: 16 bytes an edge and more."""

    seed: int = 0

    def __call__(self, edges: Ids, nodes: int, parts: int) -> Ids:
        _check(edges, nodes, parts)
        try:
            pymetis = import_module("pymetis")
        except ImportError as error:
            raise ConfigError("the partitioner metis needs pymetis", do="install the extra 'learn', or choose hash or range") from error
        begins, neighbours = _undirected(edges, nodes)
        adjacency = pymetis.CSRAdjacency(adj_starts=begins, adjacent=neighbours)
        found = pymetis.part_graph(parts, adjacency=adjacency, options=pymetis.Options(seed=self.seed))
        return np.asarray(found.vertex_part, dtype=np.int64)


PARTITIONERS: Mapping[str, Callable[[int], Partitioner]] = {"metis": Metis, "hash": Hashed, "range": lambda seed: Ranges()}
"""Name -> what makes it from a seed."""


def partitioner(name: str, seed: int = 0) -> Partitioner:
    """Return the partitioner of that name.

    Raises:
        ConfigError: There is none.
    """
    if name not in PARTITIONERS:
        raise ConfigError(f"there is no partitioner '{name}'", do=nearest(name, PARTITIONERS))
    return PARTITIONERS[name](seed)


def edge_cut(edges: Ids, owner: Ids) -> float:
    """Return the share of edges between partitions, 0 to 1; `owner` is (N,) partition numbers."""
    return float(np.mean(owner[edges[:, 0]] != owner[edges[:, 1]])) if len(edges) else 0.0


def balance(owner: Ids, parts: int) -> float:
    """Return the largest partition's nodes over the mean: 1 is perfect."""
    return float(np.bincount(owner, minlength=parts).max() * parts / len(owner))


def _check(edges: Ids, nodes: int, parts: int) -> None:
    if nodes < 1:
        raise DataError("the graph has no nodes", do="give a graph of at least one node")
    if not 1 <= parts <= nodes:
        raise DataError(f"{parts} partitions for {nodes} nodes", do=f"give 1 to {nodes} partitions")
    if len(edges) and (int(edges.min()) < 0 or int(edges.max()) >= nodes):
        raise DataError(f"edges name nodes from {edges.min()} to {edges.max()}", do=f"number the nodes from 0 to {nodes - 1}")


def _undirected(edges: Ids, nodes: int) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    """Return the adjacency METIS wants: both directions, each edge once, no loops."""
    if nodes > _MOST_NODES:
        raise DataError(f"{nodes} nodes", do="METIS takes 2^31 in one process: choose hash or range")
    bits = max(nodes - 1, 1).bit_length()
    kept = edges[edges[:, 0] != edges[:, 1]]
    words = np.unique(np.concatenate([kept[:, 0] << bits | kept[:, 1], kept[:, 1] << bits | kept[:, 0]]))
    begins = np.zeros(nodes + 1, np.int64)
    np.cumsum(np.bincount(words >> bits, minlength=nodes), out=begins[1:])
    return begins, words & ((1 << bits) - 1)
