"""Statistics over tables: systems are compared in pairs, on the same rows of the same table.

A *score* is a table's metric on its test rows. T tables, S systems.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

__all__ = ["error_cut", "gain", "mean_ranks", "quantile", "wilcoxon"]


def gain(ours: float, theirs: float, *, higher_is_better: bool) -> float:
    """Return how much better our score is, as a share of theirs; positive: we are better."""
    return ((ours - theirs) if higher_is_better else (theirs - ours)) / max(abs(theirs), 1e-12)


def error_cut(ours: float, theirs: float, *, higher_is_better: bool) -> float:
    """Return the difference of two errors as a share of the larger one, in [-1, 1]; positive: we are better.

    The error of a score that should be high (an AUC) is what it lacks to 1. That makes .98 against .99 as much as a loss of 2
    against 1, so that tables of different metrics can be ranked among each other.
    """
    mine, other = (1 - ours, 1 - theirs) if higher_is_better else (ours, theirs)
    worst = max(mine, other)
    return 0.0 if worst <= 0 else (other - mine) / worst


def mean_ranks(scores: Sequence[Mapping[str, float | None]], *, higher_is_better: Sequence[bool]) -> dict[str, float]:
    """Return each system's mean rank; 1 is the best, equal scores share the mean of their ranks.

    Args:
        scores: (T,) system -> score; None: it failed, and comes last. All have the same systems.
        higher_is_better: (T,) the direction of each table's metric.
    """
    names = sorted(scores[0]) if scores else []
    ranks = np.zeros((len(scores), len(names)))
    for number, (line, higher) in enumerate(zip(scores, higher_is_better, strict=True)):
        badness = np.array([_badness(line[name], higher) for name in names])
        below = (badness[None, :] < badness[:, None]).sum(axis=1)
        equal = (badness[None, :] == badness[:, None]).sum(axis=1)
        ranks[number] = below + (equal + 1) / 2
    return {name: float(rank) for name, rank in zip(names, ranks.mean(axis=0), strict=True)} if names else {}


def _badness(score: float | None, higher_is_better: bool) -> float:
    if score is None:
        return math.inf
    return -score if higher_is_better else score


def wilcoxon(differences: Sequence[float], *, margin: float = 0.0) -> float:
    """Return the p-value of the one-sided Wilcoxon signed-rank test that differences lie above `-margin`.

    With a margin this is the test of non-inferiority: a small p says "not worse by as much as that". Zeros are ranked and their
    ranks dropped (Pratt 1959). NaN where there is nothing to test.
    """
    from scipy.stats import wilcoxon as signed_rank

    shifted = np.asarray(differences, dtype=np.float64) + margin
    if not len(shifted):
        return math.nan
    if not np.any(shifted):
        return 1.0
    return float(signed_rank(shifted, alternative="greater", zero_method="pratt").pvalue)


def quantile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least `share` of them do not exceed; infinite ones may be among them."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan
