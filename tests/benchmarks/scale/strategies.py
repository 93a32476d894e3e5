"""`atlas bench scale strategies`: loss curves of every strategy, idle time of pipelines, overlap of DDP. One JSON row a line.

    python tests/benchmarks/scale/strategies.py [--quick]

Pipelines and overlap are measured with layers that *sleep*: two cores then stand for any number of devices. That tests the scheduler, the
order of sends and receives and the overlap of waiting; it tests neither NCCL nor a device. Gloo's own work is real and shares the cores.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

from components.train.parallel.ending import disband, leave
from components.train.parallel.section import Parallel
from components.train.parallel.strategies import Strategy, Work, make
from pipelines.bench.row import Row, row

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tests"))
curves = import_module("parallel_curves")
CPU = torch.device("cpu")
STAGES, MICRO_BATCHES = 4, 8
THEORY = (STAGES - 1) / (MICRO_BATCHES + STAGES - 1)
SCHEDULES = ("gpipe", "1f1b", "interleaved", "zero_bubble", "zbv")
OVERLAP_GOAL = {2: 0.97, 4: 0.95, 8: 0.90}
BUCKET_MB = 2
SLEEPS = "sleeping layers: the scheduler, not NCCL"


class _Input(torch.autograd.Function):
    """Sleeps as a layer's forward pass, and as the half of its backward pass that gives the input's gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, forward_s: float, backward_s: float) -> Tensor:  # type: ignore[override]
        time.sleep(forward_s)
        ctx.backward_s = backward_s
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        time.sleep(ctx.backward_s)
        return gradient, None, None


class _Weight(torch.autograd.Function):
    """Sleeps as the half of a layer's backward pass that gives the weight's gradient."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, backward_s: float) -> Tensor:  # type: ignore[override]
        ctx.backward_s = backward_s
        return weight.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        time.sleep(ctx.backward_s)
        return gradient, None


class _Sleeper(nn.Module):
    """(B, 4) -> (B, 4), in `forward_s`, and twice that backwards. The first of a chain gives its input a gradient, too."""

    def __init__(self, forward_s: float, numbers: int, first: bool) -> None:
        super().__init__()
        self.forward_s = forward_s
        self.weight = nn.Parameter(torch.zeros(numbers))
        self.anchor = nn.Parameter(torch.zeros(4)) if first else None

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.anchor is None else x + self.anchor
        return _Input.apply(x, self.forward_s, self.forward_s) + _Weight.apply(self.weight, self.forward_s)[:4]  # type: ignore[no-any-return]


def _work(layers: int, forward_s: float, numbers: int) -> Work:
    def model() -> nn.Module:
        return nn.Sequential(OrderedDict((f"layer{n}", _Sleeper(forward_s, numbers, first=n == 0)) for n in range(layers)))

    return Work(model=model, loss=lambda x, y: (x - y).square().mean(), optimiser=lambda params: torch.optim.SGD(params, lr=1e-3))


def _seconds(acts: dict[str, Callable[[], object]], times: int) -> dict[str, float]:
    """Return, for acts that take turns, the shortest time of the slowest rank, after one turn to warm up."""
    found: dict[str, list[float]] = {name: [] for name in acts}
    for turn in range(times + 1):
        for name, act in acts.items():
            dist.barrier()
            began = time.perf_counter()
            act()
            took = torch.tensor(time.perf_counter() - began, dtype=torch.float64)
            dist.all_reduce(took, op=dist.ReduceOp.MAX)
            found[name] += [float(took)] if turn else []
    return {name: min(seconds) for name, seconds in found.items()}


def _forward_s(quick: bool) -> float:
    return 0.03 if quick else 0.05


def bubbles(quick: bool) -> dict[str, float]:
    """Return the share of the time that a rank is idle, by schedule. Sleeping longer than asked counts as idle."""
    forward_s = _forward_s(quick)
    work = _work(2 * STAGES, forward_s / 2, 1024)
    batch = torch.zeros(MICRO_BATCHES, 4), torch.ones(MICRO_BATCHES, 4)
    acts: dict[str, Callable[[], object]] = {}
    for schedule in SCHEDULES:
        parallel = Parallel(strategy="pipeline", pipeline=STAGES, micro_batches=MICRO_BATCHES, schedule=schedule)  # type: ignore[arg-type]
        acts[schedule] = partial(make(parallel, work, CPU).step, batch)
    busy_s = MICRO_BATCHES * 3 * forward_s
    return {schedule: 1 - busy_s / seconds for schedule, seconds in _seconds(acts, 2 if quick else 5).items()}


def overlap(quick: bool) -> dict[str, float]:
    """Return seconds a step: alone, with DDP, and with the same gradients sent after the backward pass."""
    world = dist.get_world_size()
    work = _work(10, 0.015, 2**20 * BUCKET_MB // 4)
    rows = torch.zeros(1, 4), torch.ones(1, 4)
    batch = torch.zeros(world, 4), torch.ones(world, 4)
    alone = make(Parallel(), work, CPU)
    ddp = make(Parallel(strategy="ddp", data=world, bucket_mb=BUCKET_MB), work, CPU)
    acts: dict[str, Callable[[], object]] = {
        "alone": partial(alone.step, rows),
        "ddp": partial(ddp.step, batch),
        "after": partial(_step_then_send, alone, rows),
    }
    return _seconds(acts, 4 if quick else 10)


def _step_then_send(strategy: Strategy, rows: tuple[Tensor, Tensor]) -> None:
    """Take a step that sends every gradient, in the same buckets, only when the last is there."""
    model, optimiser, loss = strategy.model, strategy.optimiser, strategy.work.loss  # type: ignore[attr-defined]
    torch.autograd.backward(loss(model(rows[0]), rows[1]))
    gradients = [p.grad for p in reversed(list(model.parameters()))]
    for waiting in [dist.all_reduce(gradient, async_op=True) for gradient in gradients]:
        waiting.wait()
    for gradient in gradients:
        gradient /= dist.get_world_size()
    optimiser.step()
    optimiser.zero_grad()


def _ranks(what: str, world: int, quick: bool) -> dict[str, float]:
    """Run one of the functions above as `world` processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", str(world)]
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, __file__, what, *(["--quick"] if quick else [])], env=env, stdout=subprocess.PIPE, text=True, check=True
    )
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def _curves(world: int) -> Iterator[Row]:
    golden = json.loads(curves.GOLDEN.read_text())["losses"]
    with tempfile.TemporaryDirectory() as folder:
        found = curves.run(world, Path(folder))
    for name, case in curves.CASES[world].items():
        deviation = curves.deviation(found[name], golden)
        about = f"{name}, {world} ranks, {curves.STEPS} steps: largest relative deviation from the single process's loss curve"
        yield row(f"{about} (x 1e12)", deviation * 1e12, "1e-12", "stated tolerance", case.tolerance * 1e12, "<=")


def _rows(quick: bool) -> Iterator[Row]:
    idle = _ranks("bubbles", STAGES, quick)
    about = f"pipeline bubble, P = {STAGES}, M = {MICRO_BATCHES}, {1000 * _forward_s(quick):g} ms a forward pass, {SLEEPS}"
    yield row(f"{about}: gpipe", idle["gpipe"], "share", "theory (p-1)/(m+p-1)", THEORY, "")
    yield row(f"{about}: 1f1b", idle["1f1b"], "share", "1.05 x theory (p-1)/(m+p-1)", 1.05 * THEORY, "<=")
    yield row(f"{about}: interleaved", idle["interleaved"], "share", "limit", 0.2, "<=")
    best = min(("zero_bubble", "zbv"), key=idle.__getitem__)
    for schedule in ("zero_bubble", "zbv"):
        goal = "<" if schedule == best else ""
        yield row(f"{about}: {schedule}{' (the best)' if goal else ''}", idle[schedule], "share", "1f1b, same run", idle["1f1b"], goal)
    for world in (2, 4) if quick else (2, 4, 8):
        took = _ranks("overlap", world, quick)
        with_it, without = took["alone"] / took["ddp"], took["alone"] / took["after"]
        about = f"DDP overlap efficiency, {world} ranks, {SLEEPS}"
        yield row(about, with_it, "share", "limit", OVERLAP_GOAL[world], ">=")
        yield row(f"{about}: against no overlap", with_it, "share", "the same sent after the backward pass", without, ">=")
    for world in (2,) if quick else (2, 4):
        yield from _curves(world)


def main(argv: list[str]) -> None:
    """Print rows; as a rank, rank 0's figures."""
    quick = "--quick" in argv
    if "RANK" in os.environ:
        torch.set_num_threads(1)
        dist.init_process_group("gloo")
        found = {"bubbles": bubbles, "overlap": overlap}[argv[0]](quick)
        if dist.get_rank() == 0:
            sys.stdout.write(json.dumps(found) + "\n")
        disband()
        leave(0)
    for measured in _rows(quick):
        sys.stdout.write(json.dumps(measured) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
