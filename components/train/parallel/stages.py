"""A chain of layers cut into the stages of a pipeline; parameters keep the names that they have in the whole model."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from components.core.errors import ConfigError
from components.train.parallel.section import STAGES_A_RANK, Schedule

__all__ = ["cut", "places_of", "split"]


def cut(weights: Sequence[float], parts: int) -> list[slice]:
    """Cut a sequence into contiguous, non-empty parts so that the heaviest is as light as can be.

    Dynamic programming over (items, parts): O(items^2 x parts).

    Args:
        weights: Of the items, at least as many as parts; none is negative.
        parts: How many.

    Returns:
        The parts, in order; of equally good cuts the one whose last parts are longest.
    """
    ends = [0.0]
    for weight in weights:
        ends.append(ends[-1] + weight)
    best = {(1, end): (ends[end], 0) for end in range(1, len(ends))}
    for part in range(2, parts + 1):
        for end in range(part, len(ends)):
            best[part, end] = min((max(best[part - 1, begin][0], ends[end] - ends[begin]), begin) for begin in range(part - 1, end))
    found, end = [], len(weights)
    for part in range(parts, 0, -1):
        begin = best[part, end][1]
        found.append(slice(begin, end))
        end = begin
    return found[::-1]


def split(model: nn.Module, stages: int) -> list[nn.Sequential]:
    """Cut a chain into stages of about equal work.

    A layer's work is taken as its number of parameters, those of embeddings (which are looked up, not multiplied) left out.

    Raises:
        ConfigError: The model is no chain, or has fewer layers than stages.
    """
    if not isinstance(model, nn.Sequential):
        raise ConfigError(
            f"a pipeline needs a chain of layers, the model is a {type(model).__name__}", do="give the work's model as an nn.Sequential"
        )
    layers = list(model.named_children())
    if len(layers) < stages:
        raise ConfigError(f"{len(layers)} layers can't be cut into {stages} stages", do="use fewer processes, or another schedule")
    return [nn.Sequential(OrderedDict(layers[part])) for part in cut([_work(layer) for _, layer in layers], stages)]


def _work(layer: nn.Module) -> float:
    looked_up = {id(p) for m in layer.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag) for p in m.parameters()}
    return 1.0 + sum(p.numel() for p in layer.parameters() if id(p) not in looked_up)


def places_of(schedule: Schedule, rank: int, ranks: int) -> list[int]:
    """Return which stages a rank of a pipeline holds: one after `ranks` others, or for ZBV down and up again, like the letter."""
    if schedule == "zbv":
        return [rank, 2 * ranks - 1 - rank]
    return [rank + ranks * turn for turn in range(STAGES_A_RANK[schedule])]
