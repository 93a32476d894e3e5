"""Pipelines that are good somewhere: tried before anything is proposed, in this order (Feurer et al., arXiv 2007.04074, section 3).

The first of each learner is its defaults. Later ones differ where learners differ most from table to table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from components.automl.genesis.configuration import Configuration
from components.automl.genesis.space import completed, sized
from components.core.params import Tabular, Task

__all__ = ["portfolio"]

_TABLE: Sequence[tuple[str, Mapping[str, Any], Mapping[str, Any]]] = (
    ("lightgbm", {}, {}),
    ("catboost", {}, {}),
    ("logistic", {}, {}),
    ("xgboost", {}, {}),
    ("extra_trees", {}, {}),
    ("mlp", {}, {}),
)


def portfolio(task: Task, learners: Sequence[str]) -> list[Configuration]:
    """Return the pipelines for a task whose learners may be used; learners that the portfolio lacks come last, with their defaults."""
    rows = _TABLE if isinstance(task, Tabular) else ()
    classes = len(task.classes) if isinstance(task, Tabular) else 0
    found = [sized(completed(name, features, params, "portfolio"), classes) for name, features, params in rows if name in learners]
    named = {configuration.learner for configuration in found}
    return [*found, *(sized(completed(name, {}, {}, "portfolio"), classes) for name in learners if name not in named)]
