"""Which neighbours are drawn: subsets of equal size, each as likely as any other, for many nodes at once.

R rows (nodes of more neighbours than are wanted), f neighbours wanted.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from components.train.graph.hashing import GOLDEN, mix

__all__ = ["choose"]

_HALF = np.uint64(32)


def choose(degrees: NDArray[np.int64], fanout: int, words: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Draw `fanout` different numbers below each degree.

    Floyd's algorithm (Bentley & Floyd, CACM 30:9, 1987), all rows side by side: no row is sorted or drawn again. A number of 32 bits
    times the degree, shifted, is the draw: neighbours of a node of degree d are equally likely but for d / 2^32.

    Args:
        degrees: (R,) each above `fanout` and below 2^31.
        fanout: f.
        words: (R,) random words, one a row: equal words and degrees give equal draws.

    Returns:
        (f, R).
    """
    turns = np.arange(fanout, dtype=np.uint64)[:, None]
    mixed = mix(turns[: (fanout + 1) // 2] * np.uint64(GOLDEN) + words)
    drawn = np.empty((2 * len(mixed), len(words)), np.uint64)
    np.bitwise_and(mixed, np.uint64(0xFFFFFFFF), out=drawn[0::2])  # a word is worth two draws
    np.right_shift(mixed, _HALF, out=drawn[1::2])
    last = (degrees - fanout).astype(np.uint64) + turns
    picks = drawn[:fanout]
    picks *= last + np.uint64(1)
    picks >>= _HALF
    for turn in range(1, fanout):
        taken = (picks[:turn] == picks[turn]).any(axis=0)
        np.copyto(picks[turn], last[turn], where=taken)
    return picks.view(np.int64)
