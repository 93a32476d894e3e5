"""Which rows a model may be judged on: folds by the hash of a row's group key, so they stay put when rows come or go.

Yesterday's fold model never saw its fold's rows, nor any row that joined the fold since: it can be judged on today's rows
without being trained again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.train.validation import Validation

__all__ = ["ALWAYS_TRAINS", "INNER", "Folds", "Validation", "hashed_folds", "holdout", "time_folds"]

ALWAYS_TRAINS = -1
"""The fold number of rows that no model is judged on."""
INNER = 5
"""How many parts a fold's learning rows have, for what is learned from labels out of fold."""


@dataclass(frozen=True)
class Folds:
    """The folds of N rows.

    Attributes:
        number: (N,) the fold that judges a row, or `ALWAYS_TRAINS`.
        count: How many folds.
        place: (N,) uniform in [0, 1), a hash of the group key that is independent of `number`: who is in a sample.
        forward: Whether a fold's model learns from earlier folds only.
    """

    number: NDArray[np.int64]
    count: int
    place: NDArray[np.float64]
    forward: bool = False

    @property
    def inner(self) -> NDArray[np.int64]:
        """(N,) the part of a fold's learning rows, 0…INNER - 1, that a row belongs to; rows of a group belong together."""
        return np.asarray(np.floor(self.place * 2.0**32).astype(np.int64) % INNER)

    def judged(self, fold: int) -> NDArray[np.intp]:
        """Return the rows that judge the fold's model."""
        return np.flatnonzero(self.number == fold)

    def learned(self, fold: int, limit: int | None = None) -> NDArray[np.intp]:
        """Return the rows that the fold's model learns from; at most `limit` of them, the same ones as long as they are there."""
        rows = np.flatnonzero(self.number < fold if self.forward else self.number != fold)
        if limit is None or len(rows) <= limit:
            return rows
        return np.sort(rows[np.argsort(self.place[rows], kind="stable")[:limit]])


def hashed_folds(keys: Sequence[str], count: int) -> Folds:
    """Give every group key a fold."""
    number, place = _hashes(keys)
    return Folds(number % count, count, place)


def holdout(train: int, validation: int, keys: Sequence[str]) -> Folds:
    """One fold: `train` rows that learn, then `validation` rows that judge."""
    number = np.concatenate([np.full(train, ALWAYS_TRAINS, dtype=np.int64), np.zeros(validation, dtype=np.int64)])
    return Folds(number, 1, _hashes(keys)[1])


def everything(keys: Sequence[str]) -> Folds:
    """One fold that learns from all rows and judges none."""
    return Folds(np.full(len(keys), ALWAYS_TRAINS, dtype=np.int64), 1, _hashes(keys)[1])


def time_folds(order: NDArray[np.float64], count: int, keys: Sequence[str]) -> Folds:
    """Cut rows into count + 1 blocks of equal size by time; the first only learns, each other judges a model of those before."""
    rank = np.empty(len(order), dtype=np.int64)
    rank[np.argsort(order, kind="stable")] = np.arange(len(order))
    number = rank * (count + 1) // max(len(order), 1) - 1
    return Folds(number, count, _hashes(keys)[1], forward=True)


def _hashes(keys: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    digests = np.frombuffer(b"".join(hashlib.sha256(f"fold:{key}".encode()).digest()[:8] for key in keys), dtype="<u4").reshape(-1, 2)
    return digests[:, 0].astype(np.int64), digests[:, 1] / 2.0**32
