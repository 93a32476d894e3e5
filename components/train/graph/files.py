"""A partitioned graph on disk: a folder a partition, .npy files that are mapped and never read whole.

Per partition with n nodes, e edges that end in them, F features:

    indptr (n + 1,)      indices (e,) ids of the sources, in the order of the edge list      edge_rows (e,) local edge ids
    features (n, F)      labels (n,), -1 where unknown      split (n,) TRAIN, VALIDATION or TEST
    original (n,)        halo (h,) ids of the other partitions' nodes that are sources here, ascending
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.core.errors import DataError
from components.train.graph.ids import IdMap, Ids
from components.train.graph.relabel import Relabelled
from components.train.graph.writing import NpyWriter, read_manifest, written

__all__ = ["KIND", "TEST", "TRAIN", "VALIDATION", "NodeData", "Partition", "read_partition", "whole", "write_partitions"]

KIND = "partitioned graph"
TRAIN, VALIDATION, TEST = 0, 1, 2
_ARRAYS = ("indptr", "indices", "edge_rows", "features", "labels", "split", "original", "halo")
_CHUNK = 1 << 16


@dataclass(frozen=True)
class NodeData:
    """What is known of N nodes, in their original order; arrays may be mapped files.

    Attributes:
        features: (N, F) float32 or float64.
        labels: (N,) class 0…classes - 1, or -1: unknown.
        split: (N,) `TRAIN`, `VALIDATION` or `TEST`.
        classes: How many classes there are.
    """

    features: NDArray[Any]
    labels: Ids
    split: NDArray[np.uint8]
    classes: int


@dataclass(frozen=True)
class Partition:
    """One partition, mapped; the attributes named in the module's docstring, and:

    Attributes:
        number: Which one it is.
        ids: The map of all node ids.
        classes: How many classes the labels have.
    """

    number: int
    ids: IdMap
    classes: int
    indptr: Ids
    indices: Ids
    edge_rows: Ids
    features: NDArray[Any]
    labels: Ids
    split: NDArray[np.uint8]
    original: Ids
    halo: Ids

    def __len__(self) -> int:
        return len(self.indptr) - 1

    def global_ids(self, local: Ids) -> Ids:
        """Return the (n,) ids of local nodes. Raises DataError where there is no such node."""
        return self.ids.join(np.full(len(local), self.number, np.int64), local)


def whole(edges: Ids, data: NodeData) -> Partition:
    """Return a graph as its only partition, in memory.

    Args:
        edges: (E, 2) source and target, 0…N - 1.
        data: What is known of the N nodes.
    """
    nodes = len(data.features)
    ids = IdMap.of([nodes])
    indptr, rows = _by_target(edges[:, 1], ids, nodes)
    arrays = {"indptr": indptr, "indices": np.ascontiguousarray(edges[:, 0][rows]), "edge_rows": rows, "features": data.features}
    arrays |= {"labels": data.labels, "split": data.split, "original": np.arange(nodes), "halo": np.empty(0, np.int64)}
    return Partition(0, ids, data.classes, **arrays)


def write_partitions(graph: Relabelled, data: NodeData, folder: Path) -> None:
    """Write the partition files of a relabelled graph; one partition is in memory at a time.

    Raises:
        DataError: The node data does not fit the graph, or the folder exists.
        TryAgain: The disk can't be written.
    """
    _check(graph, data)
    with written(folder, KIND) as (aside, facts):
        for part in range(graph.nodes.parts):
            _write_one(graph, data, part, aside / f"{part:05d}")
        facts.update(nodes=graph.nodes.counts.tolist(), edges=graph.edges.counts.tolist(), classes=data.classes)


def read_partition(folder: Path, number: int) -> Partition:
    """Map one partition's files.

    Raises:
        DataError: The folder holds no partitioned graph, or has no such partition.
        IntegrityError: A file is not as it was written.
    """
    manifest = read_manifest(folder, KIND)
    ids = IdMap.of(manifest["nodes"])
    if not 0 <= number < ids.parts:
        raise DataError(f"there is no partition {number}", do=f"give 0 to {ids.parts - 1}")
    arrays = {name: _map(folder / f"{number:05d}" / f"{name}.npy") for name in _ARRAYS}
    return Partition(number, ids, int(manifest["classes"]), **arrays)


def _map(path: Path) -> NDArray[Any]:
    # A plain view of the mapping: np.memmap's own slicing costs microseconds a slice.
    return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))


def _check(graph: Relabelled, data: NodeData) -> None:
    N = graph.nodes.total
    for name, array, axes in (("features", data.features, 2), ("labels", data.labels, 1), ("split", data.split, 1)):
        if array.ndim != axes or len(array) != N:
            raise DataError(f"{name} have the shape {array.shape}", do=f"give one row for each of the {N} nodes")
    if data.features.dtype not in (np.float32, np.float64):
        raise DataError(f"features are {data.features.dtype}", do="give float32 or float64")
    if data.classes < 1 or int(data.labels.min()) < -1 or int(data.labels.max()) >= data.classes:
        raise DataError(f"labels from {data.labels.min()} to {data.labels.max()}", do=f"give 0 to {data.classes - 1}, or -1 for unknown")
    if int(data.split.min()) < TRAIN or int(data.split.max()) > TEST:
        raise DataError(f"split from {data.split.min()} to {data.split.max()}", do=f"give {TRAIN}, {VALIDATION} or {TEST}")


def _write_one(graph: Relabelled, data: NodeData, part: int, target: Path) -> None:
    original = np.load(graph.folder / "original" / f"{part:05d}.npy", mmap_mode="r")
    edges = np.load(graph.folder / "edges" / f"{part:05d}.npy", mmap_mode="r")
    indptr, rows = _by_target(edges[:, 1], graph.nodes, len(original))
    indices = np.asarray(edges[:, 0])[rows]
    remote = indices[indices >> graph.nodes.bits != part]
    small = {"indptr": indptr, "indices": indices, "edge_rows": rows, "original": original, "halo": np.unique(remote)}
    small |= {"labels": data.labels[original].astype(np.int64), "split": data.split[original].astype(np.uint8)}
    target.mkdir(parents=True)
    for name, array in small.items():
        np.save(target / f"{name}.npy", array, allow_pickle=False)
    features = NpyWriter(target / "features.npy", data.features.dtype, data.features.shape[1])
    for first in range(0, len(original), _CHUNK):
        features.append(data.features[original[first : first + _CHUNK]])
    features.close()


def _by_target(targets: Ids, ids: IdMap, nodes: int) -> tuple[Ids, Ids]:
    """Return ((n + 1,) where each node's edges begin, (e,) edge rows ordered by target, stable)."""
    E = len(targets)
    local = targets & ((1 << ids.bits) - 1)
    bits = max(E - 1, 0).bit_length()
    if ids.bits + bits <= 63:  # sorting (target, row) as one word is several times as fast as a stable argsort
        rows = np.sort(local << bits | np.arange(E)) & ((1 << bits) - 1)
    else:
        rows = np.argsort(local, kind="stable")
    indptr = np.zeros(nodes + 1, np.int64)
    np.cumsum(np.bincount(local, minlength=nodes), out=indptr[1:])
    return indptr, rows
