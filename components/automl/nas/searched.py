"""What a scenario's architecture search came to: what the report shows, and what `train` begins with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from scipy.stats import kendalltau

from components.automl.nas.budget import Cost, Limits
from components.train.spaces.space import Architecture, Space

__all__ = ["Judged", "Searched", "encode", "front"]


@dataclass(frozen=True)
class Judged:
    """An architecture that the search looked at.

    Attributes:
        inherited: How likely the truth is on validation items with the supernet's weights, 0 to 1; see `inherited_score`.
        alone: The share of validation items that are right when it is trained from nothing, where it was.
    """

    architecture: Architecture
    cost: Cost
    inherited: float
    alone: float | None = None


@dataclass(frozen=True)
class Searched:
    """A search, done.

    Attributes:
        strategy: Its name.
        found: What it chose.
        judged: All it looked at, the best first; `found` is one of them.
        learned: (CPU seconds, best score so far), in order of time.
        supernet_s: CPU seconds of the supernet's training.
        search_s: CPU seconds of choosing on it.
        sample_s: CPU seconds of training a sample alone, which only measures the ranking.
        start: The earlier search whose supernet this one went on from; None: from nothing.
    """

    space: Space
    strategy: str
    limits: Limits
    found: Judged
    judged: tuple[Judged, ...]
    learned: tuple[tuple[float, float], ...]
    supernet_s: float
    search_s: float
    sample_s: float = 0.0
    start: str | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def tau(self) -> float | None:
        """Kendall's tau between the order by inherited weights and the order when trained alone; None with fewer than three of both."""
        both = [(each.inherited, each.alone) for each in self.judged if each.alone is not None]
        if len(both) < 3:
            return None
        found = float(kendalltau(*zip(*both, strict=True)).statistic)
        return None if found != found else found


def front(judged: Sequence[Judged]) -> list[Judged]:
    """Return those that no other one beats in both MACs and inherited score; the cheapest first."""
    best, found = -1.0, []
    for each in sorted(judged, key=lambda one: (one.cost.macs, -one.inherited)):
        if each.inherited > best:
            found.append(each)
            best = each.inherited
    return found


def encode(searched: Searched) -> dict[str, Any]:
    """Return what was found as plain JSON: equal searches give equal JSON, so no seconds."""

    def row(each: Judged) -> dict[str, Any]:
        return {
            **searched.space.encode(each.architecture),
            "text": searched.space.describe(each.architecture),
            "cost": asdict(each.cost),
            "inherited": each.inherited,
            "alone": each.alone,
        }

    return {
        "space": {"name": searched.space.name, "input": list(searched.space.input), "classes": searched.space.classes},
        "strategy": searched.strategy,
        "limits": asdict(searched.limits),
        "found": row(searched.found),
        "judged": [row(each) for each in searched.judged],
        "tau": searched.tau,
        "start": searched.start,
        "notes": list(searched.notes),
    }
