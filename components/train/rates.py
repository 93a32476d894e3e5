"""How the learning rate moves through a training."""

from __future__ import annotations

import math

__all__ = ["warm_cosine"]

_WARM = 0.1  # of all steps, until the learning rate is reached


def warm_cosine(step: int, steps: int) -> float:
    """Return the share of the learning rate: up in a straight line, then down along half a cosine to almost nothing."""
    warm = max(1.0, _WARM * steps)
    return (step + 1) / warm if step + 1 < warm else 0.51 + 0.49 * math.cos(math.pi * min(1.0, (step - warm) / max(1.0, steps - warm)))
