"""Graphs at scale: the map of ids, streaming relabelling, neighbour sampling, data-parallel training.

    python tests/benchmarks/scale/graph.py [--quick] [--cases map,relabel,sampler,training]

Process CPU time, the rival in the same run and in turn with ours, the least of several. Only `relabel` also needs disk: some 6 GB.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.train.graph.files import NodeData, Partition, read_partition, write_partitions
from components.train.graph.ids import IdMap, Ids
from components.train.graph.partition import partitioner
from components.train.graph.planted import planted_partition
from components.train.graph.relabel import relabel
from components.train.graph.sampler import Sampler
from components.train.graph.writing import NpyWriter
from pipelines.bench.row import Row, row

__all__ = ["CASES", "rows"]

CASES = ("map", "relabel", "sampler", "training")
SEED = 0
TALK_BYTES_AN_ENTRY, DENSE_BYTES_AN_ID = 80, 8
MAP_BYTES, MAP_NS, MAP_TIMES = 65_536, 2.0, 10.0
RELABEL_BYTES, SAMPLER_EDGES = 2e9, 6.5e6
DGL_EDGES = (6.3e6, 7.7e6)
FANOUTS = (15, 10, 5)
LOSS_APART = 1e-9
"""Relative, in float64, where sums in another order leave no trace: the steps are the same. In float32 a rounding error now and then puts
a unit's input of one node on the other side of zero, where ReLU passes another gradient; orders of sums then part by some thousandths."""
RMAT = (0.57, 0.19, 0.19, 0.05)


def rows(quick: bool, cases: Sequence[str] = CASES) -> Iterator[Row]:
    """Yield the rows as they are measured."""
    for case in cases:
        yield from {"map": _map, "relabel": _relabel, "sampler": _sampler, "training": _training}[case](quick)


def _cpu_s(work: Callable[[], Any]) -> float:
    begin = time.process_time()
    work()
    return time.process_time() - begin


def _least(works: Sequence[Callable[[], Any]], times: int) -> list[float]:
    """Return the least CPU time of each, taken in turn."""
    found = [[_cpu_s(work) for work in works] for _ in range(times)]
    return [min(column) for column in zip(*found, strict=True)]


def _map(quick: bool) -> Iterator[Row]:
    draw = np.random.default_rng(SEED)
    asked = 1 << (18 if quick else 22)
    for total in (10**7, 10**8, 10**9):
        for parts in (8, 64, 1024):
            weights = draw.uniform(0.5, 1.5, parts)
            counts = (weights / weights.sum() * total).astype(np.int64)
            counts[-1] += total - counts.sum()
            ids = IdMap.of(counts)
            places = draw.integers(0, total, asked)  # the rival's ids; a sample, because 1e9 would be 8 GB of benchmark
            new = ids.at(places)
            partition, local = np.empty_like(new), np.empty_like(new)
            boundaries = ids.starts[1:]
            ours, searched = _least(
                [
                    lambda new=new, ids=ids, partition=partition, local=local: ids.split(new, partition, local),  # type: ignore[misc]
                    lambda boundaries=boundaries, places=places: np.searchsorted(boundaries, places, side="right"),  # type: ignore[misc]
                ],
                5,
            )
            case, ns = f"map of {total:.0e} ids, P = {parts}", 1e9 / asked
            yield row(f"{case}: memory", ids.nbytes, "B", "limit", MAP_BYTES, "<=", seed=SEED)
            yield row(f"{case}: memory", ids.nbytes, "B", "dense int64 (arithmetic)", DENSE_BYTES_AN_ID * total, "<=", seed=SEED)
            yield row(f"{case}: (partition, local)", ours * ns, "ns an id", "limit", MAP_NS, "<=", seed=SEED)
            yield row(
                f"{case}: (partition, local)", ours * ns, "ns an id", "np.searchsorted, partition only", searched * ns, "<", seed=SEED
            )
            yield row(f"{case}: times as fast as np.searchsorted", searched / ours, "x", "limit", MAP_TIMES, ">=", seed=SEED)
    both = 2 * IdMap.of([10**9 // 1024] * 1024).nbytes
    talk = 2 * 10**9 * TALK_BYTES_AN_ENTRY
    yield row("maps of 1e9 nodes and 1e9 edges, P = 1024", both, "B", "facts: the talk's table of 80 B an entry", talk, "<=")
    yield _dense(10**6 if quick else 10**8, asked, draw)


def _dense(total: int, asked: int, draw: np.random.Generator) -> Row:
    """The look-up of the dense table, at a size that this machine holds."""
    ids = IdMap.of([total // 64] * 64)
    table = np.repeat(np.arange(64), ids.counts)
    places = draw.integers(0, ids.total, asked)
    new, partition, local = ids.at(places), np.empty(asked, np.int64), np.empty(asked, np.int64)
    ours, dense = _least([lambda: ids.split(new, partition, local), lambda: table.take(places, out=partition, mode="clip")], 5)
    ns = 1e9 / asked
    case = f"look-up among {total:.0e} ids, P = 64"
    return row(case, ours * ns, "ns an id", "dense int64 table, partition only", dense * ns, "<", seed=SEED)


def _relabel(quick: bool) -> Iterator[Row]:
    edges, nodes, parts = (2 * 10**6, 2 * 10**5, 64) if quick else (10**8, 10**7, 64)
    with tempfile.TemporaryDirectory(prefix="atlas-graph-") as name:
        folder = Path(name)
        draw = np.random.default_rng(SEED)
        np.save(folder / "owner.npy", draw.integers(0, parts, nodes))
        pairs = NpyWriter(folder / "pairs.npy", np.int64, 2)
        for first in range(0, edges, 1 << 20):
            pairs.append(draw.integers(0, nodes, (min(1 << 20, edges - first), 2)))
        pairs.close()
        ours, plain = (_child(how, folder, parts) for how in ("ours", "plain"))
    case = f"relabelling {edges:.0e} edges of {nodes:.0e} nodes, P = {parts}"
    yield row(f"{case}: peak memory", ours["peak_bytes"], "B", "limit", RELABEL_BYTES, "<=", seed=SEED)
    yield row(f"{case}: peak memory", ours["peak_bytes"], "B", "plain NumPy in memory", plain["peak_bytes"], "<", seed=SEED)
    rates = [edges / measured["cpu_s"] for measured in (ours, plain)]
    yield row(f"{case}: speed", rates[0], "edges a CPU second", "plain NumPy in memory", rates[1], "", seed=SEED)


def _child(how: str, folder: Path, parts: int) -> dict[str, float]:
    """Measure in a process of its own: peak memory is a process' whole life's."""
    command = [sys.executable, __file__, "--child", how, str(folder), str(parts)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _in_child(how: str, folder: Path, parts: int) -> None:
    work = _streamed if how == "ours" else _plain
    cpu_s = _cpu_s(lambda: work(folder, parts))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"cpu_s": cpu_s, "peak_bytes": peak}))


def _streamed(folder: Path, parts: int) -> None:
    relabel(folder / "owner.npy", folder / "pairs.npy", folder / "graph", parts)


def _plain(folder: Path, parts: int) -> None:
    """The same files as `relabel`, with everything in memory."""
    owner, pairs, target = np.load(folder / "owner.npy"), np.load(folder / "pairs.npy"), folder / "plain"
    target.mkdir()
    nodes = IdMap.of(np.bincount(owner, minlength=parts))
    order = np.argsort(owner.astype(np.uint16), kind="stable")
    permutation = np.empty(len(owner), np.int64)
    permutation[order] = nodes.at(np.arange(len(owner)))
    np.save(target / "nodes.npy", permutation)
    for part, original in enumerate(np.split(order, nodes.starts[1:])):
        np.save(target / f"original-{part}.npy", original)
    new = permutation[pairs]
    of_edge = (new[:, 1] >> nodes.bits).astype(np.uint16)
    edges = IdMap.of(np.bincount(of_edge, minlength=parts))
    order = np.argsort(of_edge, kind="stable")
    edge_ids = np.empty(len(pairs), np.int64)
    edge_ids[order] = edges.at(np.arange(len(pairs)))
    np.save(target / "edge_ids.npy", edge_ids)
    for part, of_part in enumerate(np.split(new[order], edges.starts[1:])):
        np.save(target / f"edges-{part}.npy", of_part)


def _sampler(quick: bool) -> Iterator[Row]:
    scale, batches, batch = (16, 3, 512) if quick else (20, 8, 1024)
    with tempfile.TemporaryDirectory(prefix="atlas-graph-") as name:
        folder, nodes = Path(name), 1 << scale
        pairs = _rmat(scale, 16 * nodes)
        none = NodeData(np.zeros((nodes, 1), np.float32), np.zeros(nodes, np.int64), np.zeros(nodes, np.uint8), 1)
        partition = read_partition(_parted(folder, pairs, none, np.zeros(nodes, np.int64), 1), 0)
        draw = np.random.default_rng(SEED)
        asked = [draw.choice(nodes, batch, replace=False) for _ in range(batches)]
        sampler, rivals = Sampler(partition, FANOUTS), [_Plain(partition, replace=replace) for replace in (False, True)]
        edges = [sum(sampler.sample(targets, SEED, number).edges for number, targets in enumerate(asked))]
        edges += [sum(rival.sample(targets) for targets in asked) for rival in rivals]
        times = _least(
            [
                lambda: [sampler.sample(targets, SEED, number) for number, targets in enumerate(asked)],
                *(lambda rival=rival: [rival.sample(targets) for targets in asked] for rival in rivals),  # type: ignore[misc]
            ],
            3 if quick else 5,
        )
    case = f"sampler, RMAT-{scale} x 16, 15-10-5, batch {batch}, one core"
    rates = [count / cpu_s for count, cpu_s in zip(edges, times, strict=True)]
    unit = "edges a CPU second"
    yield row(case, rates[0], unit, "limit", SAMPLER_EDGES, ">=", seed=SEED)
    yield row(case, rates[0], unit, "plain NumPy, np.unique a hop, without replacement as ours", rates[1], ">=", seed=SEED)
    yield row(case, rates[0], unit, "plain NumPy, np.unique a hop, with replacement: less work", rates[2], ">=", seed=SEED)
    for dgl in DGL_EDGES:
        yield row(case, rates[0], unit, "facts: DGL's C++ on another day, RMAT-20", dgl, ">=", seed=SEED)


def _rmat(scale: int, edges: int) -> Ids:
    """Recursive matrix (Chakrabarti, Zhan & Faloutsos, SDM 2004): each of `scale` bits of an edge falls into one of four quadrants."""
    draw = np.random.default_rng(SEED)
    a, b, c, _ = RMAT
    found = np.zeros((edges, 2), np.int64)
    for first in range(0, edges, 1 << 20):
        part = found[first : first + (1 << 20)]
        for _ in range(scale):
            place = draw.random(len(part), dtype=np.float32)
            part <<= 1
            part[:, 0] |= place >= a + b
            part[:, 1] |= ((place >= a) & (place < a + b)) | (place >= a + b + c)
    return found


class _Plain:
    """The sampler one writes first: per hop, random offsets, or random keys that are sorted, and np.unique."""

    def __init__(self, partition: Partition, *, replace: bool) -> None:
        self.indptr, self.indices, self.draw = partition.indptr, partition.indices, np.random.default_rng(SEED)
        self.replace = replace

    def sample(self, targets: Ids) -> int:
        nodes, edges = targets, 0
        for fanout in FANOUTS:
            begins = self.indptr[nodes]
            degrees = self.indptr[nodes + 1] - begins
            counts = np.minimum(degrees, fanout)
            wide = np.repeat(degrees > fanout, counts)
            offsets = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
            offsets[wide] = self._drawn(degrees[degrees > fanout], fanout)
            sources = self.indices[np.repeat(begins, counts) + offsets]
            # The targets stay first; the positions are what a model needs.
            reached, positions = np.unique(np.concatenate([nodes, sources]), return_inverse=True)
            self.block: tuple[NDArray[np.intp], NDArray[np.intp]] = (positions[len(nodes) :], np.repeat(positions[: len(nodes)], counts))
            nodes, edges = reached, edges + len(sources)
        return edges

    def _drawn(self, degrees: Ids, fanout: int) -> Ids:
        if self.replace:
            span = np.repeat(degrees, fanout)
            return (self.draw.random(len(span)) * span).astype(np.int64)
        begins = np.cumsum(degrees) - degrees
        keys = np.repeat(np.arange(len(degrees)), degrees) + self.draw.random(int(degrees.sum()))
        taken = np.argsort(keys).take(np.repeat(begins, fanout) + np.tile(np.arange(fanout), len(degrees)))
        return taken - np.repeat(begins, fanout)


def _parted(folder: Path, pairs: Ids, data: NodeData, owner: Ids, parts: int) -> Path:
    folder.mkdir(exist_ok=True)
    np.save(folder / "owner.npy", owner)
    np.save(folder / "pairs.npy", pairs)
    write_partitions(relabel(folder / "owner.npy", folder / "pairs.npy", folder / "graph", parts), data, folder / "parts")
    return folder / "parts"


def _training(quick: bool) -> Iterator[Row]:
    nodes, classes, parts = (1_000, 4, 4) if quick else (40_000, 16, 4)
    options = {"fanouts": [10, 5], "hidden": 64, "batch": 1024 if not quick else 256, "epochs": 2 if quick else 5, "seed": SEED}
    edges, data = planted_partition(nodes, classes, features=64, signal=0.25, seed=SEED)
    exact = replace(data, features=data.features.astype(np.float64))
    with tempfile.TemporaryDirectory(prefix="atlas-graph-") as name:
        results = []
        for how, processes in (("metis", 1), ("metis", parts), ("hash", parts)):
            owner = partitioner(how, SEED)(edges, nodes, processes)
            for given in (data, exact):
                target = _parted(Path(name) / str(len(results)), edges, given, owner, processes)
                results.append(_trained(target, processes, options))
    one, one_exact, metis, metis_exact, hashed, hashed_exact = results
    tests = int((data.split == 2).sum())
    noise = 2 * math.sqrt(one["accuracy"] * (1 - one["accuracy"]) / tests)
    case = f"GraphSAGE, planted partition of {nodes} nodes, {parts} processes"
    yield row(f"{case}: test accuracy", metis["accuracy"], "share", "one process", one["accuracy"], "", seed=SEED)
    for how, ours, ours_exact in (("METIS", metis, metis_exact), ("hash", hashed, hashed_exact)):
        apart = abs(ours["accuracy"] - one["accuracy"])
        yield row(f"{case}, {how}: accuracy apart from one process", apart, "share", "two standard errors", noise, "<=", seed=SEED)
        what = f"{case}, {how}: loss curve apart from one process"
        yield row(f"{what}, float64 (x 1e12)", 1e12 * _apart(ours_exact, one_exact), "1e-12", "limit", 1e12 * LOSS_APART, "<=", seed=SEED)
        rounded = _apart(one, one_exact)
        yield row(f"{what}, float32", _apart(ours, one), "relative", "one process in float32 from its float64", rounded, "", seed=SEED)
    for what in ("features", "node ids", "neighbours", "gradients", "all"):
        ours, theirs = (_sent(found, what) for found in (metis, hashed))
        goal = "" if what == "gradients" else "<"
        yield row(f"{case}: bytes sent a step, all processes, {what}", ours, "B", "hash partition", theirs, goal, seed=SEED)
    shares = [_share(found) for found in (metis, hashed)]
    yield row(f"{case}: remote share of feature rows, METIS", shares[0], "share", "hash partition", shares[1], "<", seed=SEED)


def _trained(folder: Path, processes: int, options: dict[str, Any]) -> dict[str, Any]:
    to = folder.with_name("result")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)] if processes > 1 else []
    module = ["-m", "components.train.graph", str(folder), "--to", str(to), "--options", json.dumps(options)]
    env = {"GLOO_SOCKET_IFNAME": "lo", **os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, *launcher, *module], env=env, check=True)
    found: dict[str, Any] = json.loads((to / "result.json").read_text())
    return found


def _apart(ours: dict[str, Any], theirs: dict[str, Any]) -> float:
    """Return the largest relative difference of two loss curves."""
    pairs = zip(ours["epochs"], theirs["epochs"], strict=True)
    return max(abs(mine["loss"] - other["loss"]) / other["loss"] for mine, other in pairs)


def _sent(found: dict[str, Any], what: str) -> float:
    sent = [process["sent"] for process in found["processes"]]
    return sum(sum(each.values()) if what == "all" else each[what] for each in sent) / found["steps"]


def _share(found: dict[str, Any]) -> float:
    counts = [process["rows"] for process in found["processes"]]
    return sum(each["remote"] for each in counts) / sum(each["needed"] for each in counts)


def main() -> None:
    """Print the rows, one JSON object a line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        how, folder, parts = arguments.child
        _in_child(how, Path(folder), int(parts))
        return
    cases = arguments.cases.split(",")
    if unknown := set(cases) - set(CASES):
        parser.error(f"there is no case {', '.join(sorted(unknown))}: use some of {', '.join(CASES)}")
    for found in rows(arguments.quick, cases):
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
