"""The multiple-choice knapsack (Kellerer, Pferschy & Pisinger 2004, chapter 11): one option of each block, whole costs, several limits.

Dynamic programming over blocks keeps the partial selections that no other one dominates (Nemhauser & Ullmann 1969). To find the best one,
those that a Lagrangian bound (Fisher 1981) shows to end below a selection already known are dropped too, which is what makes several limits
at once cheap. Both are exact.

Shapes: S partial selections, L limits, B blocks, K options of a block.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["best_selection", "front_selections"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_CHUNK = 512
_COMPARED = 2048  # kept selections that later ones are compared with; comparing with fewer drops fewer, and is as exact
_STEPS = 150  # of the subgradient method
_BOUNDS = 4
_CLOSE = 1e-12  # relative: scores are sums of floats


def best_selection(scores: Sequence[Floats], costs: Sequence[Ints], most: Ints) -> tuple[int, ...] | None:
    """Return the number of the option of each block, so that the sum of scores is highest; None if nothing is within the limits.

    Args:
        scores: For each block, (K,).
        costs: For each block, (K, L), 0 or more.
        most: (L,) what all blocks may need together.
    """
    known, multipliers = _relaxed(scores, costs, most)
    if known is not None and not len(multipliers):
        return known
    floor = -np.inf if known is None else _sum(scores, known)
    floor += _CLOSE * max(1.0, abs(floor)) if np.isfinite(floor) else 0.0
    bounds = [_Bound.of(scores, costs, most, multiplier) for multiplier in multipliers]
    needed, states = _least_after(costs), _States.start(len(most))
    for number, (score, cost) in enumerate(zip(scores, costs, strict=True)):
        states = states.extended(score, cost)
        states = states.where((states.used + needed[number] <= most).all(axis=1))
        for bound in bounds:
            states = states.where(bound.above(states, number) > floor)
        states = states.undominated()
    if not (states.score > floor).any():
        return known
    return tuple(states.options[int(states.score.argmax())].tolist())


def front_selections(scores: Sequence[Floats], costs: Sequence[Ints], most: Ints) -> list[tuple[int, ...]]:
    """Return every selection within the limits that no other one beats in both its score and its first cost; the cheapest first.

    Args:
        scores: For each block, (K,).
        costs: For each block, (K, L), 0 or more; L at least 1.
        most: (L,) what all blocks may need together.
    """
    needed, states = _least_after(costs), _States.start(len(most))
    for number, (score, cost) in enumerate(zip(scores, costs, strict=True)):
        states = states.extended(score, cost)
        states = states.where((states.used + needed[number] <= most).all(axis=1)).undominated()
    final = _States(states.used[:, :1], states.score, states.options).undominated()
    return [tuple(row) for row in final.options.tolist()]


@dataclass(frozen=True)
class _States:
    """Partial selections.

    Attributes:
        used: (S, L).
        score: (S,).
        options: (S, blocks so far).
    """

    used: Ints
    score: Floats
    options: NDArray[np.int16]

    @classmethod
    def start(cls, limits: int) -> _States:
        return cls(np.zeros((1, limits), np.int64), np.zeros(1), np.zeros((1, 0), np.int16))

    def extended(self, score: Floats, cost: Ints) -> _States:
        """Combine with every option of the next block."""
        count, options = len(self.score), len(score)
        used = (self.used[:, None] + cost[None]).reshape(count * options, cost.shape[1])
        chosen = np.tile(np.arange(options, dtype=np.int16), count)
        before = np.repeat(self.options, options, axis=0)
        return _States(used, (self.score[:, None] + score[None]).ravel(), np.column_stack([before, chosen]))

    def where(self, kept: NDArray[Any]) -> _States:
        """Keep some, by a mask or by numbers."""
        return _States(self.used[kept], self.score[kept], self.options[kept])

    def undominated(self) -> _States:
        """Drop those that need as much as another one, or more, of everything, and score no better."""
        limits = self.used.shape[1]
        order = np.lexsort((*self.used.T[::-1], -self.score)) if limits != 1 else np.lexsort((-self.score, self.used[:, 0]))
        ordered = self.where(order)
        if limits > 1:
            return ordered.where(_unbeaten(ordered.used))
        # Cheapest first: a dearer one must score higher than all before it. Without limits, only the first, which is the best.
        before = np.concatenate([[-np.inf], np.maximum.accumulate(ordered.score)[:-1]])
        return ordered.where(ordered.score > before)


@dataclass(frozen=True)
class _Bound:
    """A Lagrangian upper bound of what a partial selection can become.

    Attributes:
        price: (L,) of a unit of cost.
        most: (L,).
        after: (B,) the most that the blocks after each one can add, prices paid.
    """

    price: Floats
    most: Ints
    after: Floats

    @classmethod
    def of(cls, scores: Sequence[Floats], costs: Sequence[Ints], most: Ints, price: Floats) -> _Bound:
        gains = [float((score - cost @ price).max()) for score, cost in zip(scores, costs, strict=True)]
        return cls(price, most, np.append(np.cumsum(gains[::-1])[::-1], 0.0)[1:])

    def above(self, states: _States, number: int) -> Floats:
        """(S,) a bound on the score of what each selection of the blocks up to `number` can become."""
        return np.asarray(states.score + (self.most - states.used) @ self.price + self.after[number])


def _relaxed(scores: Sequence[Floats], costs: Sequence[Ints], most: Ints) -> tuple[tuple[int, ...] | None, list[Floats]]:
    """Solve the Lagrangian relaxation by subgradients (Held, Wolfe & Crowder 1974).

    Returns:
        The best selection within the limits that was met, if any; and the prices that give the lowest upper bounds, none if the selection
        is proven to be the best.
    """
    scale = np.maximum(most, 1).astype(float)
    loads = [cost / scale for cost in costs]
    known, floor = None, -np.inf
    price, lowest, prices, step = np.zeros(len(most)), np.inf, [np.zeros(len(most))], 1.0
    candidates = [tuple(int(load.sum(axis=1).argmin()) for load in loads)]
    for turn in range(_STEPS):
        chosen = tuple(int((score - load @ price).argmax()) for score, load in zip(scores, loads, strict=True))
        for options in [*candidates, chosen]:
            if (sum(cost[o] for cost, o in zip(costs, options, strict=True)) <= most).all() and _sum(scores, options) > floor:
                known, floor = options, _sum(scores, options)
        candidates = []
        if turn == 0 and known == chosen:
            return known, []
        excess = sum(load[o] for load, o in zip(loads, chosen, strict=True)) - most / scale
        upper = _sum(scores, chosen) - float(price @ excess)
        if upper < lowest:
            lowest, prices = upper, [*prices, price][-_BOUNDS:]
        slope = float(excess @ excess)
        if slope == 0:
            break
        gap = upper - floor if np.isfinite(floor) else abs(upper) + 1.0
        price = np.maximum(0.0, price + step * max(gap, _CLOSE) / slope * excess)
        step *= 0.97
    if known is not None:
        known = _improved(scores, costs, most, known)
    return known, [each / scale for each in prices]


def _improved(scores: Sequence[Floats], costs: Sequence[Ints], most: Ints, options: tuple[int, ...]) -> tuple[int, ...]:
    """Change the option that gains most within the limits, one at a time, until none gains."""
    chosen = list(options)
    while True:
        used = sum(cost[o] for cost, o in zip(costs, chosen, strict=True))
        gains = []
        for number, (score, cost) in enumerate(zip(scores, costs, strict=True)):
            within = (used - cost[chosen[number]] + cost <= most).all(axis=1)
            gain = np.where(within, score - score[chosen[number]], -np.inf)
            gains.append((float(gain.max()), number, int(gain.argmax())))
        gain_of_best, number, option = max(gains)
        if gain_of_best <= _CLOSE:
            return tuple(chosen)
        chosen[number] = option


def _least_after(costs: Sequence[Ints]) -> Ints:
    """(B, L) the least that the blocks after each one need."""
    least = np.array([cost.min(axis=0) for cost in costs])
    return np.asarray(np.cumsum(least[::-1], axis=0)[::-1] - least)


def _unbeaten(used: Ints) -> Ints:
    """Return the numbers of rows, best scores first, that need less of something than every row before them."""
    if used.shape[1] == 2:
        return _below_stairs(used)
    kept = np.zeros(0, np.int64)
    for first in range(0, len(used), _CHUNK):
        rows = np.arange(first, min(first + _CHUNK, len(used)))
        if len(kept):
            rows = rows[~_beaten(used[rows], used[kept[:_COMPARED]])]
        within = (used[rows][:, None] >= used[rows][None]).all(axis=2)
        rows = rows[~np.any(np.tril(within, -1), axis=1)]
        kept = np.concatenate([kept, rows])
    return kept


def _below_stairs(used: Ints) -> Ints:
    """Do so for two limits: the least of what came before are stairs that go down, and a row is kept if it lies below them."""
    firsts: list[int] = [-1]
    seconds: list[int] = [int(used[:, 1].max(initial=0)) + 1]
    kept = []
    for row, (first, second) in enumerate(used.tolist()):
        place = bisect_right(firsts, first)
        if seconds[place - 1] <= second:
            continue
        kept.append(row)
        end = place
        while end < len(seconds) and seconds[end] >= second:
            end += 1
        begin = place - 1 if firsts[place - 1] == first else place
        firsts[begin:end], seconds[begin:end] = [first], [second]
    return np.array(kept, dtype=np.int64)


def _beaten(rows: Ints, by: Ints) -> NDArray[np.bool_]:
    return np.asarray(np.any(np.all(rows[:, None] >= by[None], axis=2), axis=1))


def _sum(scores: Sequence[Floats], options: Sequence[int]) -> float:
    return float(sum(score[option] for score, option in zip(scores, options, strict=True)))
