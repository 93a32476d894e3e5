"""New ids for the nodes and edges of a graph of any size, in a stream: memory is bounded by the chunk, not by the graph.

N nodes, E edges, P partitions. Nodes keep their order within a partition; an edge belongs to the partition of its target, so that each
partition's file holds all that its nodes receive. The permutation original -> new exists offline only, as a file.

    nodes.npy            (N,) new id of each original node
    original/PPPPP.npy   (n_p,) original number of each local node, ascending
    edges/PPPPP.npy      (e_p, 2) new ids (source, target); an edge's own id is (partition, row)
    edge_ids.npy         (E,) new id of each original edge
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from components.core.errors import DataError
from components.train.graph.ids import IdMap, Ids
from components.train.graph.writing import NpyWriter, read_manifest, rows_of, shape_of, written

__all__ = ["KIND", "Relabelled", "read_relabelled", "relabel"]

KIND = "relabelled graph"
CHUNK = 1 << 20
"""Rows that are in memory at once."""
WINDOW = 1 << 28
"""Bytes of the permutation that are in memory at once."""
_MOST_PARTS = 1 << 16


@dataclass(frozen=True)
class Relabelled:
    """A relabelled graph on disk.

    Attributes:
        folder: Where its files are.
        nodes: The map of node ids.
        edges: The map of edge ids.
    """

    folder: Path
    nodes: IdMap
    edges: IdMap


def relabel(partitions: Path, edges: Path, folder: Path, parts: int, *, chunk: int = CHUNK, window: int = WINDOW) -> Relabelled:
    """Give every node and edge its new id, and write a file of edges for each partition.

    Args:
        partitions: .npy, (N,) integers 0…P - 1: who owns a node.
        edges: .npy, (E, 2) integers 0…N - 1: source, target.
        folder: Where to write; it must not exist.
        parts: P.
        chunk: Rows that are in memory at once; memory grows by some 100 bytes a row.
        window: Bytes of the permutation that are. Beyond N x 8 bytes it makes no difference; below, each chunk reads the file in windows.

    Raises:
        DataError: A file is not as described, a number is out of range, the graph has no nodes, or fewer nodes than partitions.
        TryAgain: The disk can't be written.
    """
    count = _checked(partitions, edges, parts)
    with written(folder, KIND) as (aside, facts):
        nodes = IdMap.of(_sizes(partitions, parts, chunk))
        _number_nodes(partitions, nodes, aside, chunk)
        with _mapped(aside / "nodes.npy") as permutation:
            sizes = _edge_sizes(edges, permutation, nodes, chunk, window) if count else np.zeros(parts, np.int64)
            found = IdMap.of(sizes)
            _number_edges(edges, permutation, nodes, found, aside, chunk, window)
        facts.update(nodes=nodes.counts.tolist(), edges=found.counts.tolist())
    return Relabelled(folder, nodes, found)


def read_relabelled(folder: Path) -> Relabelled:
    """Open what `relabel` wrote. Raises as `read_manifest`."""
    manifest = read_manifest(folder, KIND)
    return Relabelled(folder, IdMap.of(manifest["nodes"]), IdMap.of(manifest["edges"]))


def _checked(partitions: Path, edges: Path, parts: int) -> int:
    (shape, dtype), (pairs, kind) = shape_of(partitions), shape_of(edges)
    if len(shape) != 1 or dtype.kind not in "iu":
        raise DataError(f"{partitions} holds {dtype} of shape {shape}", do="give one integer for each node")
    if len(pairs) != 2 or pairs[1] != 2 or kind.kind not in "iu":
        raise DataError(f"{edges} holds {kind} of shape {pairs}", do="give two integers, source and target, for each edge")
    if not shape[0]:
        raise DataError("the graph has no nodes", do="give a graph of at least one node")
    if not 1 <= parts <= min(shape[0], _MOST_PARTS):
        raise DataError(f"{parts} partitions for {shape[0]} nodes", do=f"give 1 to {min(shape[0], _MOST_PARTS)} partitions")
    return pairs[0]


def _sizes(partitions: Path, parts: int, chunk: int) -> Ids:
    counts = np.zeros(parts, np.int64)
    for owner in rows_of(partitions, chunk):
        _within(owner, parts, "partition number")
        counts += np.bincount(owner.astype(np.int64), minlength=parts)
    return counts


def _within(numbers: NDArray[np.integer], end: int, what: str) -> None:
    if numbers.size and (int(numbers.min()) < 0 or int(numbers.max()) >= end):
        raise DataError(f"{what}s from {numbers.min()} to {numbers.max()}", do=f"give {what}s from 0 to {end - 1}")


def _number_nodes(partitions: Path, nodes: IdMap, aside: Path, chunk: int) -> None:
    seen, first = np.zeros(nodes.parts, np.int64), 0
    with _writers(aside, "original", nodes.parts) as originals, ExitStack() as stack:
        permutation = NpyWriter(aside / "nodes.npy", np.int64)
        stack.callback(permutation.close)
        for owner in rows_of(partitions, chunk):
            order, ends = _grouped(owner, nodes.parts)
            permutation.append(_numbered(order, ends, seen, nodes))
            for part in _filled(ends):
                originals[part].append(order[ends[part] : ends[part + 1]] + first)
            seen += np.diff(ends)
            first += len(owner)


def _grouped(owner: NDArray[np.integer], parts: int) -> tuple[Ids, Ids]:
    """Return ((n,) order by owner, stable; (P + 1,) where each owner begins)."""
    narrow = owner.astype(np.uint16)
    order = np.argsort(narrow, kind="stable")  # a radix sort, for 16 bits only
    ends = np.zeros(parts + 1, np.int64)
    np.cumsum(np.bincount(narrow, minlength=parts), out=ends[1:])
    return order, ends


def _filled(ends: Ids) -> list[int]:
    return list(map(int, np.flatnonzero(np.diff(ends))))


def _numbered(order: Ids, ends: Ids, seen: Ids, ids: IdMap) -> Ids:
    """Return the (n,) new ids of a chunk whose partitions have `seen` numbers so far."""
    sizes = np.diff(ends)
    partition = np.repeat(np.arange(len(sizes)), sizes)
    local = np.arange(len(order)) + np.repeat(seen - ends[:-1], sizes)
    new = np.empty(len(order), np.int64)
    new[order] = ids.join(partition, local)
    return new


def _edge_sizes(edges: Path, permutation: _Mapped, nodes: IdMap, chunk: int, window: int) -> Ids:
    counts = np.zeros(nodes.parts, np.int64)
    for pairs in rows_of(edges, chunk):
        _within(pairs, nodes.total, "node number")
        counts += np.bincount(permutation.take(pairs[:, 1].astype(np.int64), window) >> nodes.bits, minlength=nodes.parts)
    return counts


def _number_edges(edges: Path, permutation: _Mapped, nodes: IdMap, ids: IdMap, aside: Path, chunk: int, window: int) -> None:
    seen = np.zeros(nodes.parts, np.int64)
    with _writers(aside, "edges", nodes.parts, width=2) as files, ExitStack() as stack:
        numbers = NpyWriter(aside / "edge_ids.npy", np.int64)
        stack.callback(numbers.close)
        for pairs in rows_of(edges, chunk):
            new = permutation.take(pairs.reshape(-1).astype(np.int64, copy=False), window).reshape(-1, 2)
            order, ends = _grouped(new[:, 1] >> nodes.bits, nodes.parts)
            numbers.append(_numbered(order, ends, seen, ids))
            new = new.take(order, axis=0)
            for part in _filled(ends):
                files[part].append(new[ends[part] : ends[part + 1]])
            seen += np.diff(ends)


@contextmanager
def _writers(aside: Path, name: str, parts: int, width: int | None = None) -> Iterator[list[NpyWriter]]:
    with ExitStack() as stack:
        files = []
        for part in range(parts):
            files.append(NpyWriter(aside / name / f"{part:05d}.npy", np.int64, width))
            stack.callback(files[-1].close)
        yield files


class _Mapped:
    """(N,) int64 in a file, of which no more than a window is in memory at a time."""

    def __init__(self, pages: mmap.mmap, begin: int) -> None:
        self._pages, self._begin = pages, begin

    def take(self, places: Ids, window: int) -> Ids:
        """Return the (n,) values at places that are known to be within the file."""
        count = (len(self._pages) - self._begin) // 8
        step = max(window // 8, 1)
        if count <= step:
            return self._values().take(places)
        out = np.empty(len(places), np.int64)
        for first in range(0, count, step):
            here = np.flatnonzero((places >= first) & (places < first + step))
            out[here] = self._values().take(places[here])
            self._pages.madvise(mmap.MADV_DONTNEED)
        return out

    def _values(self) -> Ids:
        return np.frombuffer(self._pages, np.int64, offset=self._begin)


@contextmanager
def _mapped(path: Path) -> Iterator[_Mapped]:
    with path.open("rb") as file:
        npy.read_magic(file)
        npy.read_array_header_1_0(file)
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as pages:
            yield _Mapped(pages, file.tell())
