"""Search strategies, by the name that a scenario gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from components.automl.nas.strategies.base import Budget, Found, Meter, Moment, SearchTask, Strategy
from components.automl.nas.strategies.effects import Effects
from components.automl.nas.strategies.evolutionary import Evolutionary
from components.automl.nas.strategies.gradient import Darts, Gradient
from components.automl.nas.strategies.random import Random
from components.core.errors import ConfigError, nearest

__all__ = [
    "STRATEGIES",
    "Budget",
    "Darts",
    "Effects",
    "Evolutionary",
    "Found",
    "Gradient",
    "Meter",
    "Moment",
    "Random",
    "SearchTask",
    "Strategy",
    "strategy",
]

STRATEGIES: Mapping[str, Callable[[], Strategy]] = {
    "effects": Effects,
    "evolutionary": Evolutionary,
    "gradient": Gradient,
    "random": Random,
    "darts": Darts,
}


def strategy(name: str) -> Strategy:
    """Return a strategy with its usual settings.

    Raises:
        ConfigError: No strategy has this name.
    """
    if name not in STRATEGIES:
        raise ConfigError(f"there is no search strategy '{name}'", do=nearest(name, STRATEGIES))
    return STRATEGIES[name]()
