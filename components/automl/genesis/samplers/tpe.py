"""TPE."""

from __future__ import annotations

import warnings

import optuna
from optuna.samplers import BaseSampler, TPESampler

from components.automl.genesis.samplers.random import derived

__all__ = ["tpe"]

_STARTUP = 8


def tpe(seed: int, place: int) -> BaseSampler:
    """Return multivariate TPE (Watanabe, arXiv 2304.11127), its randomness a function of seed and place alone.

    Every argument that steers it is given: defaults changed from Optuna 4 to 5 and will again.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # `group`: the space is conditional on the learner
        return TPESampler(
            seed=derived(seed, place),
            n_startup_trials=_STARTUP,
            n_ei_candidates=24,
            multivariate=True,
            group=True,
            constant_liar=False,
        )
