"""Learners by name. A new one is a file here, a line below, and a class in `tests/contract/test_learners.py`."""

from __future__ import annotations

from importlib import import_module

from components.core.errors import ConfigError, nearest
from components.core.params import Task
from components.train.learners.base import Learner, Prepared, Progress, Trained, never

__all__ = ["LEARNERS", "Learner", "Prepared", "Progress", "Trained", "learner", "learners_for", "never"]

LEARNERS = ("arcface", "catboost", "crnn", "extra_trees", "lightgbm", "logistic", "mlp", "recognizer", "resnet", "sage", "xgboost")


def learner(name: str) -> Learner:
    """Return a learner; its libraries are imported only now.

    Raises:
        ConfigError: There is no such learner.
    """
    if name not in LEARNERS:
        raise ConfigError(f"there is no learner '{name}'", do=nearest(name, LEARNERS))
    found: Learner = import_module(f"components.train.learners.{name}").LEARNER
    return found


def learners_for(task: Task, wanted: tuple[str, ...] = ()) -> list[Learner]:
    """Return the learners that fit a task, in a fixed order.

    Args:
        task: The scenario's task.
        wanted: Only these; empty: all that fit.

    Raises:
        ConfigError: A wanted learner is unknown or does not fit, or none is left.
    """
    found = []
    for name in wanted or LEARNERS:
        candidate = learner(name)
        if candidate.fits(task):
            found.append(candidate)
        elif wanted:
            raise ConfigError(f"learner '{name}' can't learn a {task.kind} task", do="remove it from automl.learners")
    return sorted(found, key=lambda entry: LEARNERS.index(entry.name))
