"""Which classes take part in a step: those of the batch's rows, and of the others a share drawn anew every step.

Partial FC: An et al. 2022 (arXiv 2203.15565), §3. There every rank draws a fixed number; here a class is drawn or not by a hash of the
seed, the step and its id, so that a step's sample is the same at every world size, and nothing needs to be stored or sent.

Shapes: c classes of the shard, n that take part, B rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["sample"]

_BLOCK = 1 << 18  # classes hashed at once
_ODD = (-0x61C8864680B583EB, -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15)  # splitmix64's constants as int64 (Steele et al. 2014)
_BITS = 53  # of the hash; a double holds them


def sample(label_B: Tensor, *, first: int, classes: int, share: float, seed: int, step: int) -> Tensor:
    """Return the classes that take part (n,), as ascending positions in the shard.

    Args:
        label_B: Class ids of the batch; those in the shard always take part.
        first: Id of the shard's first class.
        classes: Of the shard.
        share: Of the other classes, in expectation; 1 takes all.
        seed: Of the draw.
        step: Every step draws anew.
    """
    salt = _mixed(torch.tensor([seed, step], dtype=torch.int64)).tolist()
    own = label_B[(label_B >= first) & (label_B < first + classes)] - first
    parts = []
    for start in range(0, classes, _BLOCK):
        stop = min(start + _BLOCK, classes)
        ids = torch.arange(first + start, first + stop, device=label_B.device)
        taken = _shifted(_mixed(_mixed(ids ^ salt[0]) ^ salt[1]), 64 - _BITS) < share * 2**_BITS
        taken[own[(own >= start) & (own < stop)] - start] = True
        parts.append(taken.nonzero()[:, 0] + start)
    return torch.cat(parts) if parts else own


def _mixed(x: Tensor) -> Tensor:
    """splitmix64; int64 products wrap."""
    x = x + _ODD[0]
    x = (x ^ _shifted(x, 30)) * _ODD[1]
    x = (x ^ _shifted(x, 27)) * _ODD[2]
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, places: int) -> Tensor:
    """Shift right and fill with zeros; int64's own shift repeats the sign."""
    return (x >> places) & ((1 << (64 - places)) - 1)
