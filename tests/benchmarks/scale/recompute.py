"""Recomputation on a 6-layer GPT: what is held, what it costs, and what a fixed activation budget is worth.

    python tests/benchmarks/scale/recompute.py [--quick]

Times are the process' CPU time on one thread, interleaved, the least of several rounds. `held` is what is alive when the forward pass has
ended, `peak` the most alive at once, gradients on their way included; both counted on real tensors, parameters and their gradients apart.
The rival is torch's own `activation_memory_budget` (partitioner of AOTAutograd, backend aot_eager_decomp_partition), which compiles; its
held bytes are what the compiled backward has saved. On a CPU a larger micro-batch hardly makes arithmetic faster: what it gains on a GPU
is not shown here. `--quick` has a quarter of the tokens, so what a mode costs in Python weighs four times as much.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from components.core.errors import ConfigError
from components.train.memory import blocks, measure, micro_batch, plan, recompute
from pipelines.bench.row import Row, row

sys.path.insert(0, str(Path(__file__).parent))
from gpt import Gpt, Size

__all__ = ["rows"]

_BUDGETS = (1.0, 0.5, 0.2)


class Case:
    """A model, a batch of token ids (B, T + 1) and its loss.

    Attributes:
        net: What the loss calls: the model, or its compiled form.
    """

    def __init__(self, size: Size, batch: int) -> None:
        torch.manual_seed(0)
        self.model = Gpt(size)
        self.net: Callable[[Tensor], Tensor] = self.model
        self.names = list(blocks.find(self.model))
        self.ids = torch.randint(size.vocabulary, (batch, size.tokens + 1))

    def loss(self, ids: Tensor) -> Tensor:
        return functional.cross_entropy(self.net(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())

    def step(self) -> None:
        self.model.zero_grad()
        torch.autograd.backward(self.loss(self.ids))

    def survey(self, rows: int) -> plan.Survey:
        return plan.Survey(self.model, self.loss, self.ids, rows=rows)


def rows(*, quick: bool) -> Iterator[Row]:
    """Yield the rows as they are measured."""
    torch.set_num_threads(1)
    rounds, batch, tokens = (2, 4, 128) if quick else (15, 8, 256)
    for dropout in (0.0,) if quick else (0.0, 0.1):
        case = Case(Size(layers=6, width=256, heads=4, tokens=tokens, vocabulary=512, dropout=dropout), batch)
        yield from _modes(case, f"GPT, dropout {dropout}", rounds, rival=dropout == 0)
        if dropout == 0:
            yield from _fixed_budget(case, rounds)


def _modes(case: Case, label: str, rounds: int, *, rival: bool) -> Iterator[Row]:
    none = measure.measured(case.model, case.loss, case.ids, {})
    survey = case.survey(len(case.ids))
    plans: dict[str, Mapping[str, recompute.Mode]] = {
        "none": {},
        "every second block": plan.every(case.names, 2),
        "selective": plan.every(case.names, mode="selective"),
        "every block": plan.every(case.names),
        "auto for half held": _holding(survey, 0.5 * none.held_bytes) or plan.every(case.names),
        "auto for half the peak": survey.plan(none.peak_bytes // 2).modes,
        "auto for a fifth held": _holding(survey, 0.2 * none.held_bytes) or plan.every(case.names),
    }
    steps = {name: measure.measured(case.model, case.loss, case.ids, modes) for name, modes in plans.items()}
    spent: dict[str, list[float]] = {name: [] for name in plans}
    for turn in range(rounds + 1):
        for name, modes in plans.items():
            with recompute.applied(case.model, modes):
                seconds = _cpu_seconds(case.step)
            if turn:
                spent[name].append(seconds)
    # A share is that of neighbours in time: the machine's drift is in both.
    shares = {name: statistics.median(a / b for a, b in zip(spent[name], spent["none"], strict=True)) for name in plans}
    yield row(f"{label}, none: held", none.held_bytes / 2**20, "MiB", "its peak", none.peak_bytes / 2**20, "")
    yield row(f"{label}, none: step", min(spent["none"]), "CPU seconds", "", None, "")
    goals = {"auto for half held": (0.5, 1.1), "auto for half the peak": (0.5, 1.1), "auto for a fifth held": (0.2, 1.35)}
    for name in list(plans)[1:]:
        size, duration = goals.get(name, (None, None))
        held, peak = steps[name].held_bytes / none.held_bytes, steps[name].peak_bytes / none.peak_bytes
        what = f"{label}, {name}"
        yield row(f"{what}: held", held, "share of none", "goal" if size else "", size, "<=" if size else "")
        half = 0.5 if name == "auto for half the peak" else None  # one block's recomputation alone takes more than a fifth of six
        yield row(f"{what}: peak", peak, "share of none", "goal" if half else "", half, "<=" if half else "")
        yield row(f"{what}: CPU time", shares[name], "share of none", "goal" if size else "", duration, "<=" if size else "")
    if rival:
        ours = {0.5: plans["auto for half the peak"], 0.2: plans["auto for a fifth held"]}
        yield from _compiled(case, label, rounds, ours, none.held_bytes)


def _holding(survey: plan.Survey, most: float) -> Mapping[str, recompute.Mode] | None:
    """Return the modes for the largest of some peak budgets whose plan holds at most this."""
    for hundredths in range(60, 0, -2):
        try:
            found = survey.plan(survey.whole.peak_bytes * hundredths // 100)
        except ConfigError:
            return None
        if found.held_bytes <= most:
            return found.modes
    return None


def _compiled(case: Case, label: str, rounds: int, ours: Mapping[float, Mapping[str, recompute.Mode]], held: int) -> Iterator[Row]:
    """torch's partitioner at the same shares, beside our plan for it (without one: beside no recomputation), interleaved."""
    import torch._functorch.config as partitioner

    for share in _BUDGETS:
        torch._dynamo.reset()
        with partitioner.patch(activation_memory_budget=share):
            compiled = torch.compile(case.model, backend="aot_eager_decomp_partition")
            case.net = compiled
            case.step()
            kept = _saved_bytes(case)
            theirs = own = float("inf")
            for _ in range(rounds + 1):
                case.net = compiled
                theirs = min(theirs, _cpu_seconds(case.step))
                case.net = case.model
                with recompute.applied(case.model, ours.get(share, {})):
                    own = min(own, _cpu_seconds(case.step))
        rival = f"activation_memory_budget {share}"
        yield row(f"{label}, torch's {rival}: held", kept / held, "share of none", "", None, "")
        goal = "<=" if share in ours else ""
        yield row(f"{label}, CPU time at {share} of the activations", own, "CPU seconds", rival, theirs, goal)
    torch._dynamo.reset()


def _saved_bytes(case: Case) -> int:
    """What the backward pass's nodes have saved; each storage once."""
    known = {parameter.untyped_storage().data_ptr() for parameter in case.model.parameters()} | {case.ids.untyped_storage().data_ptr()}
    sizes: dict[int, int] = {}
    seen: set[Any] = set()
    open_nodes = [case.loss(case.ids).grad_fn]
    while open_nodes:
        node: Any = open_nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        own = [getattr(node, name) for name in dir(node) if name.startswith("_saved_")]
        for tensor in [*own, *getattr(node, "saved_tensors", ())]:
            if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() not in known:
                sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        open_nodes += [following for following, _ in node.next_functions]
    return sum(sizes.values())


def _fixed_budget(case: Case, rounds: int) -> Iterator[Row]:
    """One budget: the peak of two rows without recomputation. A training step each way, the optimiser's included."""
    model, most = case.model, 64
    budget = measure.forecast(model, case.loss, case.ids, {}, rows=2).peak_bytes
    plain, _ = micro_batch.largest(lambda n: measure.forecast(model, case.loss, case.ids, {}, rows=n).peak_bytes, budget, most)
    every = plan.every(case.names)
    rows, _ = micro_batch.largest(lambda n: measure.forecast(model, case.loss, case.ids, every, rows=n).peak_bytes, budget, most)
    chosen = case.survey(rows).plan(budget)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-6)
    ids = torch.randint(512, (rows, case.ids.shape[1]))

    def train(batch: Tensor, micro: int, modes: Mapping[str, recompute.Mode]) -> float:
        with recompute.applied(model, modes):
            spent = _cpu_seconds(lambda: _train(model, case.loss, optimiser, batch, micro))
        return spent / len(batch)

    ways = {
        "recomputed": lambda: train(ids, rows, chosen.modes),
        "plain": lambda: train(ids[:plain], plain, {}),
        "accumulated": lambda: train(ids, plain, {}),
    }
    least = dict.fromkeys(ways, float("inf"))
    for _ in range(rounds + 1):
        for name, way in ways.items():
            least[name] = min(least[name], way())
    what = f"GPT, {budget / 2**20:.0f} MiB for activations"
    yield row(f"{what}: largest micro-batch", rows, "rows", "no recomputation", plain, ">=")
    speed = 1 / least["recomputed"]
    yield row(f"{what}: auto", speed, "samples per CPU second", "no recomputation, its smaller batch", 1 / least["plain"], "")
    yield row(f"{what}: auto", speed, "samples per CPU second", "gradient accumulation, the same batch", 1 / least["accumulated"], "")


def _train(model: nn.Module, loss: Callable[[Any], Tensor], optimiser: torch.optim.Optimizer, batch: Tensor, micro: int) -> None:
    optimiser.zero_grad()
    micro_batch.accumulate(model, loss, batch, micro)
    optimiser.step()


def _cpu_seconds(work: Callable[[], Any]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    for line in rows(quick=parser.parse_args().quick):
        print(json.dumps(line), flush=True)
