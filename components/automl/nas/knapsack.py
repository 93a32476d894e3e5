"""The best architecture within limits, exactly: one option a block, sums of scores and of costs.

Nothing is drawn and rejected, and no penalty needs tuning. Shapes: L limits, K options of a block.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.automl.nas.budget import MEASURES, Cost, Costs, Latency, Limits, Measure, costs
from components.automl.nas.selection import best_selection, front_selections
from components.core.errors import ConfigError, DataError
from components.train.spaces.space import Architecture, Space

__all__ = ["Choice", "best", "best_architecture", "front"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Choice:
    """A selection on the Pareto front.

    Attributes:
        options: Number of the option, for each block.
        score: Their sum.
    """

    options: tuple[int, ...]
    score: float
    cost: Cost


def best(scores: Sequence[Sequence[float]], costs: Costs, limits: Limits, *, fill: float = 0.0) -> Choice:
    """Return the selection with the highest sum of scores within the limits.

    Args:
        scores: For each block, (options,) finite numbers; log-probabilities of a trained superposition, say.
        costs: Of the same blocks.
        limits: Never exceeded.
        fill: What using the whole budget is worth, in points of score; a share of it is worth that share (the mean, of several limits).

    Raises:
        DataError: No selection is within the limits, or scores and costs do not belong together.
        ConfigError: There is a limit of latency, but the costs have none.
    """
    values, room = _checked(scores, costs), _Room.of(costs, limits)
    if fill and room.columns:
        values = [value + fill * (block / room.whole).mean(axis=1) for value, block in zip(values, room.blocks, strict=True)]
    found = best_selection(values, room.blocks, room.most)
    if found is None:
        raise DataError(f"no selection is within {limits}", do=_least(costs))
    return _choice(scores, costs, found)


def best_architecture(
    space: Space,
    scores: Sequence[Sequence[float]],
    widths: Sequence[float],
    limits: Limits,
    *,
    latency: Latency | None = None,
    fill: float = 0.0,
) -> Architecture:
    """Return the best selection at the best width multiplier.

    Args:
        widths: Scores of the multipliers, added to the blocks'.
        latency: Needed where there is a limit of latency.
        fill: As for `best`.

    Raises:
        DataError: No architecture is within the limits.
        ConfigError: There is a limit of latency, but no latency.
    """
    found: list[tuple[float, Architecture]] = []
    refusals: list[DataError] = []
    for width, score in enumerate(widths):
        try:
            choice = best(scores, costs(space, width, latency), limits, fill=fill)
        except DataError as refusal:
            refusals.append(refusal)
            continue
        found.append((score + choice.score + fill * limits.used(choice.cost), Architecture(width, choice.options)))
    if not found:
        raise refusals[0]  # of the smallest width
    return max(found, key=lambda pair: pair[0])[1]


def front(scores: Sequence[Sequence[float]], costs: Costs, by: Measure, limits: Limits | None = None) -> list[Choice]:
    """Return, in one run, every selection within the limits that no other one beats in both score and one cost; the cheapest first.

    Raises:
        DataError: No selection is within the limits, or scores and costs do not belong together.
        ConfigError: Latency is asked for, but the costs have none.
    """
    limits = limits or Limits()
    values, room = _checked(scores, costs), _Room.of(costs, limits, by)
    found = front_selections(values, room.blocks, room.most)
    if not found:
        raise DataError(f"no selection is within {limits}", do=_least(costs))
    return [_choice(scores, costs, options) for options in found]


@dataclass(frozen=True)
class _Room:
    """What limits leave to the blocks.

    Attributes:
        columns: Of `Costs`, which are limited.
        blocks: For each block, (K, L).
        most: (L,) what the blocks may need together.
        whole: (L,) the limits themselves.
    """

    columns: list[int]
    blocks: list[Ints]
    most: Ints
    whole: Floats

    @classmethod
    def of(cls, costs: Costs, limits: Limits, by: Measure | None = None) -> _Room:
        """Read limits; the cost `by` comes first, limited or not."""
        counted = dict(limits.counted())
        if by is not None:
            column = MEASURES.index(by)
            counted = {column: counted.pop(column, int(costs.most[column])), **counted}
        columns = list(counted)
        if MEASURES.index("latency_ms") in columns and not costs.timed:
            raise ConfigError("latency is limited, but no layer was timed", do="give the costs a table of latencies of this device")
        whole = np.array(list(counted.values()), dtype=np.int64)
        return cls(columns, [block[:, columns] for block in costs.blocks], whole - costs.fixed[columns], np.maximum(whole, 1).astype(float))


def _checked(scores: Sequence[Sequence[float]], costs: Costs) -> list[Floats]:
    values = [np.asarray(row, dtype=np.float64) for row in scores]
    if [len(row) for row in values] != [len(block) for block in costs.blocks]:
        raise DataError(
            f"scores for {[len(row) for row in values]} options, costs for {[len(block) for block in costs.blocks]}",
            do="give a score for every option of every block",
        )
    if not all(np.isfinite(row).all() for row in values):
        raise DataError("a score is not finite", do="take log-probabilities, whose probabilities are above 0")
    return values


def _choice(scores: Sequence[Sequence[float]], costs: Costs, options: tuple[int, ...]) -> Choice:
    return Choice(options, math.fsum(float(row[option]) for row, option in zip(scores, options, strict=True)), costs.of(options))


def _least(costs: Costs) -> str:
    params, macs, _ = costs.least.tolist()
    return f"the least there is at this width needs {params} parameters and {macs} MACs: allow more, or make the space's widths smaller"
