"""Uniform proposals: the yardstick, and the start of every model."""

from __future__ import annotations

import hashlib

from optuna.samplers import BaseSampler, RandomSampler

__all__ = ["derived", "uniform"]


def derived(seed: int, place: int) -> int:
    """Return a 32-bit seed that is a function of the search's seed and the trial's place alone."""
    return int.from_bytes(hashlib.sha256(f"genesis:{seed}:{place}".encode()).digest()[:4], "big")


def uniform(seed: int, place: int) -> BaseSampler:
    """Return a sampler that draws every dimension evenly on its own scale."""
    return RandomSampler(seed=derived(seed, place))
