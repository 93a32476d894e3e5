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
    chosen = np.empty((fanout, len(degrees)), np.int64)
    word, spare, drawn = np.empty_like(words), np.empty_like(words), np.empty_like(words)
    above = (degrees - fanout + 1).astype(np.uint64)
    for turn in range(fanout):
        if turn % 2:  # a word is worth two draws
            np.right_shift(word, _HALF, out=drawn)
        else:
            np.add(words, np.uint64(GOLDEN * (turn + 1) & 0xFFFFFFFFFFFFFFFF), out=word)
            np.bitwise_and(mix(word, spare), np.uint64(0xFFFFFFFF), out=drawn)
        np.multiply(drawn, above, out=drawn)
        np.right_shift(drawn, _HALF, out=drawn)
        pick = chosen[turn]
        pick[:] = drawn.view(np.int64)
        if turn:
            taken = (chosen[:turn] == pick).any(axis=0)
            np.copyto(pick, above.view(np.int64) - 1, where=taken)
        above += np.uint64(1)
    return chosen
