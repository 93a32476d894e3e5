"""What a fitted model costs in production, from its bytes alone: the same answer on every machine.

The constants were fitted by hand to ten models of four tables, timed on one core of a slow machine in batches of 2,048 rows: trees
took 0.9 to 1.4 times as long, networks 0.4 to 4 times. No benchmark prints them. Reading raw columns, about 0.1 us each, is not in it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

__all__ = ["megabytes", "microseconds"]

_LEAVES = re.compile(rb"\nnum_leaves=(\d+)")
_A_LEVEL_US = 0.011
"""One level of one tree, one row."""
_A_WEIGHT_US = 0.0001
"""One float32 weight of a network, one row."""
_A_ROW_US = 0.3
"""What every member costs beside its model: its matrix, its share of the mean."""


class Model(Protocol):
    """One or several folds' models in a file."""

    @property
    def runtime(self) -> str:
        """What executes `weights`."""

    @property
    def weights(self) -> bytes:
        """The file's bytes."""


def megabytes(fits: Sequence[Model]) -> float:
    """Return the size of a member's file."""
    return sum(len(fit.weights) for fit in fits) / 1e6


def microseconds(fits: Sequence[Model]) -> float:
    """Return how long a member takes for a row of a batch, on one core."""
    return _A_ROW_US + sum(_one(fit) for fit in fits)


def _one(fit: Model) -> float:
    if fit.runtime == "onnx":
        return len(fit.weights) / 4 * _A_WEIGHT_US
    leaves = [int(found) for found in _LEAVES.findall(fit.weights)]
    return sum(max(count, 1).bit_length() for count in leaves) * _A_LEVEL_US
