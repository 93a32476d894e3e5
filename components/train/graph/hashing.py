"""Random numbers that belong to a node, not to a process: a hash of (seed, step, node), the same wherever it is computed.

That is what makes P processes draw the very sample that one process draws. The mixer is the finaliser of SplitMix64 (Steele, Lea &
Flood, OOPSLA 2014).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["GOLDEN", "buckets", "key", "mix"]

GOLDEN = 0x9E3779B97F4A7C15
"""SplitMix64's step: consecutive multiples of it, mixed, are its stream."""
_FIRST, _SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_WORD = (1 << 64) - 1


def key(*numbers: int) -> int:
    """Fold numbers, such as (seed, epoch, step), into one word of 64 bits."""
    word = 0
    for number in numbers:
        word = (word ^ (number & _WORD)) + GOLDEN & _WORD
        word = (word ^ word >> 30) * _FIRST & _WORD
        word = (word ^ word >> 27) * _SECOND & _WORD
        word ^= word >> 31
    return word


def mix(words: NDArray[np.uint64], spare: NDArray[np.uint64] | None = None) -> NDArray[np.uint64]:
    """Mix in place, and return, words of 64 bits of any shape; `spare` is scratch of that shape."""
    spare = np.empty_like(words) if spare is None else spare
    for shift, factor in ((30, _FIRST), (27, _SECOND)):
        np.right_shift(words, np.uint64(shift), out=spare)
        np.bitwise_xor(words, spare, out=words)
        np.multiply(words, np.uint64(factor), out=words)
    np.right_shift(words, np.uint64(31), out=spare)
    return np.bitwise_xor(words, spare, out=words)


def buckets(numbers: NDArray[np.int64], count: int, word: int) -> NDArray[np.int64]:
    """Deal (N,) numbers into `count` < 2^31 buckets by their hash under the key `word`; equal numbers share one."""
    hashed = mix(numbers.astype(np.uint64) * np.uint64(GOLDEN) ^ np.uint64(word))
    return ((hashed >> np.uint64(32)) * np.uint64(count) >> np.uint64(32)).astype(np.int64)
