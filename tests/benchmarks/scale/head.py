"""ShardedHead: how exact, how much memory, how fast, how large; one JSON object a line.

    python tests/benchmarks/scale/head.py [--quick]

Every measurement is a job of its own: gloo processes on this machine, one thread each. Against torch's `loss_parallel` and a plain sharded
softmax that keeps its logits (head_rivals.py), by the kernel's figures (head_rank.py). Nothing here says anything about NCCL or a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.bench.row import Row, row

__all__ = ["rows_of"]

ROOT = Path(__file__).resolve().parents[3]
RANK = Path(__file__).with_name("head_rank.py")
MIB, GB = 2**20, 1e9
LIMIT_S = 3600
SGD_RIVALS = {"plain_sgd": "plain sharded softmax and SGD"}
RIVALS = {"loss_parallel": "torch loss_parallel", "plain": "plain sharded softmax"}


@dataclass(frozen=True)
class Sizes:
    """How large the cases are.

    Attributes:
        classes: Of the comparison.
        scaled: Classes whose memory is measured at several world sizes.
        largest: Of the largest head.
        repetitions: Of every timed step.
    """

    classes: int = 300_000
    scaled: int = 800_000
    largest: int = 10_000_000
    repetitions: int = 7


QUICK = Sizes(classes=60_000, scaled=400_000, largest=400_000, repetitions=3)
DIM, ROWS = 128, 128
LARGEST_DIM = 64


def _job(world: int, **job: Any) -> list[dict[str, Any]]:
    """Run a job; return what its ranks say."""
    job = {"rows": ROWS, "dim": DIM, "seed": 0, "threads": 1} | job
    env = os.environ | {
        "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(job["threads"]), "GLOO_SOCKET_IFNAME": "lo", "WORLD_SIZE": str(world),
    }  # fmt: skip
    started = []
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(RANK), json.dumps(job | {"meet": f"{folder}/meet"})]
        try:
            for rank in range(world):
                started.append(subprocess.Popen(command, env=env | {"RANK": str(rank)}, stdout=subprocess.PIPE, text=True))
            said = [process.communicate(timeout=LIMIT_S)[0] for process in started]
        finally:
            for process in started:
                process.kill()
                process.wait()
    if any(process.returncode for process in started):
        raise RuntimeError(f"a rank of {job} failed: see above")
    return [json.loads(text.splitlines()[-1]) for text in said]


def _exactness() -> Iterator[Row]:
    margins = {"arcface": 0.5, "cosface": 0.35}
    for world in (1, 2, 4):
        given = {"classes uneven": (1003, 1003), "all labels on one rank": (1003, 100)}
        if world == 4:
            given["a shard empty"] = (5, 5)
        cases = {
            f"{kind}, world {world}, {name}": {"margin": [kind, 64.0, margin], "classes": classes, "below": below}
            for kind, margin in margins.items()
            for name, (classes, below) in given.items()
        }
        said = _job(world, do="exact", dim=16, rows=32, chunk=37, cases=cases)
        for name in cases:
            # In units of the limit: a row shows four decimals.
            worst = max(part[name] for part in said) / 1e-12
            yield row(f"head: {name}: loss, dE, dW in 3 steps", worst, "1e-12", "limit: dense autograd, float64", 1.0, "<=")


def _comparison(sizes: Sizes, ours: str, rivals: Mapping[str, str], called_ours: str) -> Iterator[Row]:
    what = f"{sizes.classes} classes × {DIM}, {ROWS} rows, world 2{called_ours}"
    heads = [ours, *rivals]
    found = {name: _job(2, do="memory", head=name, classes=sizes.classes) for name in heads}
    extra = {name: max(part["extra"] for part in said) / MIB for name, said in found.items()}
    for name, called in rivals.items():
        yield row(f"head: {what}: peak extra memory a rank", extra[ours], "MiB", called, extra[name], "")
        yield row(f"head: {what}: share of its memory", extra[ours] / extra[name], "", f"limit, of {called}", 0.25, "<=")
    said = _job(2, do="speed", heads=heads, classes=sizes.classes, repetitions=sizes.repetitions)
    best = {f"{clock} {name}": max(part[name][clock] for part in said) for name in heads for clock in ("cpu_s", "wall_s")}
    losses = [part[name]["first_loss"] for part in said for name in heads]
    for name, called in rivals.items():
        for clock, unit in (("cpu_s", "CPU s"), ("wall_s", "s")):
            yield row(f"head: {what}: a step", best[f"{clock} {ours}"], unit, called, best[f"{clock} {name}"], "")
        yield row(
            f"head: {what}: speed, CPU time", best[f"cpu_s {name}"] / best[f"cpu_s {ours}"], "times", f"limit, of {called}", 1.5, ">="
        )
    yield row(f"head: {what}: all agree on the loss", max(losses) / min(losses) - 1, "", "limit", 1e-3, "<=")


def _scaling(sizes: Sizes) -> Iterator[Row]:
    what = f"{sizes.scaled} classes × {DIM}"
    products = []
    for world in (1, 2, 4):
        said = _job(world, do="memory", head="ours", classes=sizes.scaled)
        products.append(max(part["extra"] for part in said) / MIB * world)
        yield row(f"head: {what}, world {world}: peak extra memory a rank", products[-1] / world, "MiB", "", None, "")
    yield row(f"head: {what}: memory × world, most / least", max(products) / min(products), "", "limit", 1.15, "<=")


def _largest(sizes: Sizes) -> Iterator[Row]:
    what = f"{sizes.largest} classes × {LARGEST_DIM}, {ROWS} rows, one process, exact"
    for name, called in (("ours", "forward and backward"), ("fused", "forward and backward that is the SGD step")):
        said = _job(1, do="memory", head=name, classes=sizes.largest, dim=LARGEST_DIM, threads=os.cpu_count() or 1)[0]
        yield row(f"head: {what}: {called}, whole process", said["peak"] / GB, "GB", "limit", 24.0, "<=")
        yield row(f"head: {what}: {called}", said["wall_s"], "s", "", None, "")


def _arithmetic() -> Iterator[Row]:
    """By calculation, float32: bytes a class is `4 · dim · (weights + gradient + optimiser)`; a chunk and a batch are small beside it."""
    for dim in (LARGEST_DIM, 512):
        for copies, called in ((1, "fused SGD: weights"), (2, "SGD: weights, gradient"), (3, "momentum"), (4, "AdamW")):
            most = 8 * 80 * GB / (4 * dim * copies) / 1e6
            yield row(f"head: by calculation, exact on 8 × 80 GB, dim {dim}, {called}", most, "million classes", "", None, "")
    yield row("head: by calculation, 29 M × 512 with momentum on 8 GPUs, of each", 29e6 * 512 * 4 * 3 / 8 / GB, "GB", "limit", 32.0, "<=")


def rows_of(sizes: Sizes) -> Iterator[Row]:
    """Measure everything."""
    yield from _exactness()
    yield from _comparison(sizes, "ours", RIVALS, "")
    yield from _comparison(sizes, "fused_kept", SGD_RIVALS, ", with SGD's step, kept logits in the gradient's room")
    yield from _scaling(sizes)
    yield from _largest(sizes)
    yield from _arithmetic()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes: the figures are not the goals'")
    for measured in rows_of(QUICK if parser.parse_args().quick else Sizes()):
        print(json.dumps(measured), flush=True)
