"""Pipelines that are good somewhere: tried before anything is proposed, in this order.

`portfolio.json` was learned by `tests/benchmarks/automl/portfolio.py` on tables that the benchmark does not use: greedily, each next
pipeline is the one that helps most where the earlier ones are weak (Feurer et al., arXiv 2007.04074, section 3).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import files

from components.automl.genesis.configuration import Configuration
from components.automl.genesis.space import completed, suited
from components.core.params import Tabular, Task

__all__ = ["portfolio"]

_FIRST = "lightgbm"
"""Its defaults are done in a moment, whatever the table: there is an answer, and something to compare with."""
_SOON, _AFTER = ("xgboost", "logistic", "catboost"), 3
"""Learners whose defaults are quick and strong where the learned pipelines are not; they come after so many of those."""
_NETWORKS, _MANY = ("mlp", "resnet"), 15
"""Every class costs a boosted model a tree a round, and a network one output: with more classes than that, networks come first."""
_PLAIN = ("resnet", {"bins": 0, "lr": 0.003})
"""The first of them: quick, since it does not embed numbers, and strong. It was found on the table `letter`, which flatters that one."""
_ORIGIN = "portfolio"


def portfolio(task: Task, learners: Sequence[str], *, tail: bool = False) -> list[Configuration]:
    """Return the pipelines for a task: quick ones and learned ones first, then the defaults of every other learner.

    Args:
        tail: Whether labels are `long_tailed`.
    """
    classes = len(task.classes) if isinstance(task, Tabular) else 0
    kept = json.loads((files("components.automl.genesis") / "portfolio.json").read_text()) if isinstance(task, Tabular) else []
    learned = [completed(entry["learner"], entry["features"], entry["params"], _ORIGIN) for entry in kept if entry["learner"] in learners]
    first, soon = ([completed(name, {}, {}, _ORIGIN) for name in names if name in learners] for names in ((_FIRST,), _SOON))
    found = [*first, *learned[:_AFTER], *soon, *learned[_AFTER:]]
    named = {configuration.learner for configuration in found}
    found += [completed(name, {}, {}, _ORIGIN) for name in learners if name not in named]
    if classes > _MANY:
        plain = [completed(name, {}, params, _ORIGIN) for name, params in (_PLAIN,) if name in learners]
        found = [*found[:1], *plain, *sorted(found[1:], key=lambda configuration: configuration.learner not in _NETWORKS)]
    return [suited(configuration, classes, tail=tail) for configuration in found]
