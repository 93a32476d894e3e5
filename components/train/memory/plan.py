"""Which blocks to recompute.

`auto` chooses a mode for every block so that a step's peak fits a budget at the least extra time. The peak is not the sum of what is
kept: block i is recomputed when the blocks behind it are free again. With held(j) what block j keeps and local(i) the most that is alive
on top of the blocks before it while it works, a plan fits if

    start + Σ_{j<i} held(j) + local(i) <= budget   for every i, and
    start + Σ_j held(j) + head <= budget           at the end of the forward pass.

So keeping the last block often costs nothing. It is solved exactly, by the Pareto front over (bytes held, seconds) block by block
(Nemhauser and Ullmann 1969, "Discrete dynamic programming and capital allocation"); the front of equal blocks stays small.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

from torch import nn

from components.core.errors import ConfigError
from components.train.memory.blocks import find
from components.train.memory.measure import Loss, Step, forecast, seconds
from components.train.memory.recompute import MODES, Mode

__all__ = ["Option", "Plan", "Problem", "Survey", "auto", "every", "least", "solve"]


@dataclass(frozen=True)
class Option:
    """What a block takes in one mode.

    Attributes:
        mode: The mode.
        held: Bytes alive from its forward pass to its backward pass.
        local: The most bytes alive while it works, on top of what the blocks before it hold.
        seconds: Extra, against keeping everything.
    """

    mode: Mode
    held: int
    local: int
    seconds: float


@dataclass(frozen=True)
class Problem:
    """What there is to choose from.

    Attributes:
        start: Bytes alive before the first block.
        options: Block -> its options, in the order of the forward pass.
        head: Bytes on top of all that is held, between the last block and its backward pass.
    """

    start: int
    options: Mapping[str, Sequence[Option]]
    head: int


@dataclass(frozen=True)
class Plan:
    """A mode for every block.

    Attributes:
        modes: Block -> mode, for `recompute.apply`.
        held_bytes: Forecast of what is alive at the end of the forward pass.
        peak_bytes: Forecast of the most alive at once; at most the budget.
        extra_share: Extra time expected, as a share of the step's time without recomputation.
    """

    modes: Mapping[str, Mode]
    held_bytes: int
    peak_bytes: int
    extra_share: float


def every(blocks: Collection[str], n: int = 1, mode: Mode = "full") -> dict[str, Mode]:
    """Return the modes that recompute every n-th block, beginning with the first.

    Raises:
        ConfigError: `n` is below 1.
    """
    if n < 1:
        raise ConfigError(f"every {n}th block can't be recomputed", do="give 1 (every block) or more")
    return {name: mode if index % n == 0 else "none" for index, name in enumerate(blocks)}


def auto(model: nn.Module, loss: Loss, batch: Any, budget_bytes: int, *, rows: int | None = None, blocks: Sequence[str] = ()) -> Plan:
    """Return the plan with the least extra time whose peak fits; arguments as `Survey`'s and `Survey.plan`'s.

    Raises:
        ConfigError: No plan fits; the message says what the least peak is.
    """
    return Survey(model, loss, batch, rows=rows, blocks=blocks).plan(budget_bytes)


class Survey:
    """What the blocks of a model take in every mode: forecast sizes, measured times. Made once for any number of budgets.

    Args:
        model: Not wrapped, in training mode.
        loss: Calls the model.
        batch: Real rows, for the times; they must fit without recomputation. What a mode costs beside arithmetic weighs more on few rows.
        rows: Of the micro-batch that is planned for; None: as many as `batch` has.
        blocks: See `blocks.find`.

    Attributes:
        problem: What there is to choose from.
        whole: The step without recomputation, as forecast.
    """

    def __init__(self, model: nn.Module, loss: Loss, batch: Any, *, rows: int | None = None, blocks: Sequence[str] = ()) -> None:
        self._names = list(find(model, blocks))
        self._forecast = partial(forecast, model, loss, batch, rows=rows)
        steps = {mode: self._forecast(dict.fromkeys(self._names, mode), blocks=self._names) for mode in MODES}
        durations = seconds(model, loss, batch, self._names)
        self.problem = _problem(self._names, steps, _extra(model, self._names, durations))
        self.whole = steps["none"]
        self._seconds = sum(durations["none"].values())

    def plan(self, budget_bytes: int) -> Plan:
        """Return the plan with the least extra time whose peak fits.

        The plan's own forecast has the last word: where it exceeds the budget by what the blocks' sizes did not tell, the plan is made anew
        with that much less.

        Args:
            budget_bytes: For activations and temporaries, see `measure`.

        Raises:
            ConfigError: No plan fits; the message says what the least peak is.
        """
        if self.whole.peak_bytes <= budget_bytes:  # noise in the times must not choose here
            return Plan(dict.fromkeys(self._names, "none"), self.whole.held_bytes, self.whole.peak_bytes, 0.0)
        allowed = budget_bytes
        while (chosen := solve(self.problem, allowed)) is not None:
            found = self._judged(chosen)
            if found.peak_bytes <= budget_bytes:
                return found
            allowed -= found.peak_bytes - budget_bytes
        smallest = self._judged(solve(self.problem, least(self.problem)) or {})
        raise ConfigError(
            f"no plan of recomputation fits {budget_bytes:,} bytes; the least possible is {smallest.peak_bytes:,} bytes",
            do="allow more, or use a smaller micro-batch",
        )

    def _judged(self, chosen: Mapping[str, Option]) -> Plan:
        modes = {name: option.mode for name, option in chosen.items()}
        step = self._forecast(modes)
        return Plan(modes, step.held_bytes, step.peak_bytes, sum(option.seconds for option in chosen.values()) / self._seconds)


def solve(problem: Problem, budget: int) -> dict[str, Option] | None:
    """Return block -> option with the least seconds, then the fewest bytes held, that fits; None if nothing fits."""
    front: list[tuple[int, float, tuple[int, ...]]] = [(problem.start, 0.0, ())]
    for options in problem.options.values():
        grown = [
            (held + option.held, spent + option.seconds, (*chosen, index))
            for held, spent, chosen in front
            for index, option in enumerate(options)
            if held + option.local <= budget
        ]
        front, fastest = [], float("inf")
        for state in sorted(grown):
            if state[1] < fastest:
                front.append(state)
                fastest = state[1]
    fitting = [state for state in front if state[0] + problem.head <= budget]
    if not fitting:
        return None
    _, _, chosen = min(fitting, key=lambda state: (state[1], state[0]))
    return {name: problem.options[name][index] for name, index in zip(problem.options, chosen, strict=True)}


def least(problem: Problem) -> int:
    """Return the smallest budget that something fits."""
    low, high = 0, problem.start + problem.head + sum(max(o.held, 0) + o.local for options in problem.options.values() for o in options)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if solve(problem, middle) is not None else (middle + 1, high)
    return low


def _extra(model: nn.Module, names: Sequence[str], durations: Mapping[Mode, Mapping[str, float]]) -> dict[Mode, dict[str, float]]:
    """Seconds more than with everything kept. Blocks of one build share their mean, so that noise does not choose between them."""
    builds = {name: (type(model.get_submodule(name)), *(p.shape for p in model.get_submodule(name).parameters())) for name in names}
    extra: dict[Mode, dict[str, float]] = {}
    for mode, of_mode in durations.items():
        own = {name: max(0.0, of_mode[name] - durations["none"][name]) for name in names}
        alike = {name: [own[other] for other in names if builds[other] == builds[name]] for name in names}
        extra[mode] = {name: sum(alike[name]) / len(alike[name]) for name in names}
    return extra


def _problem(names: Sequence[str], steps: Mapping[Mode, Step], extra: Mapping[Mode, Mapping[str, float]]) -> Problem:
    """Take the blocks' sizes out of steps in which all blocks have one mode."""
    first = steps["none"].regions
    order = list(dict.fromkeys(region.block for region in first if region.kind == "forward"))
    once = sum(region.kind == "forward" for region in first) == len(order)
    start = next(region.before for region in first if region.kind == "forward")
    options: dict[str, list[Option]] = {name: [] for name in order}
    head = 0
    for mode, step in steps.items():
        entered = [region for region in step.regions if region.kind in ("forward", "loss")]
        held = dict.fromkeys(order, 0)
        for region, following in pairwise(entered):
            held[region.block] += following.before - region.before
        top = [r for r in step.regions if r.kind == "loss" or (r.kind == "after" and r.block == order[-1])]
        # A block that is called again has no single place in the backward pass: count it as if it worked on top of everything.
        head = max(head, (max(r.peak for r in top) if once else step.peak_bytes) - step.held_bytes)
        for name in order:
            here = [r for r in step.regions if r.block == name and (r.kind != "after" or name != order[-1])]
            local = max(r.peak for r in here) - next(r.before for r in here if r.kind == "forward")
            options[name].append(Option(mode, held[name], local if once else 0, extra[mode][name]))
    return Problem(start, options, head)
