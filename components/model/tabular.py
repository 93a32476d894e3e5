"""Predicting from rows of features: plans turn them into matrices, members answer, their weighted mean is the model's answer.

Shapes: M members, F folds, N rows, D matrix columns, K classes (1 for regression).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from components.core.artifacts import canonical
from components.core.errors import AtlasError, DataError, IntegrityError
from components.core.params import Tabular
from components.model.answer import Answer
from components.model.format import Member
from components.model.plan import Columns, Plan, Reader, columns_of, numbers, transform
from components.model.runtime import Executable

__all__ = ["TabularModel"]

Floats = NDArray[np.float64]
_CHUNK = 2048
"""Rows transformed at once: bounds the memory, keeps threads equally busy, and never depends on the machine, because the last bits may
depend on it."""
_AGAIN = "train the model again"


class TabularModel:
    """Executes a tabular model.

    Args:
        task: Decides what is answered.
        members: The ensemble, each with its weights, loaded.

    Raises:
        IntegrityError: A preprocessing in `model.json` is not what this code executes, or does not fit the weights.
    """

    def __init__(self, task: Tabular, members: Sequence[tuple[Member, Executable]]) -> None:
        self.task = task
        self._members = list(members)
        self._plans: list[tuple[Plan, list[int]]] = []
        by_plan: dict[bytes, list[int]] = {}
        for index, (member, _) in enumerate(self._members):
            by_plan.setdefault(canonical(member.preprocessing), []).append(index)
        for indices in by_plan.values():
            self._plans.append((self._plan(indices), indices))
        self._features = list(dict.fromkeys(name for plan, _ in self._plans for name in plan.features))

    def _plan(self, indices: Sequence[int]) -> Plan:
        try:
            plan = Plan.model_validate(self._members[indices[0]][0].preprocessing)
        except ValidationError as error:
            raise IntegrityError(f"the preprocessing can't be read: {error.errors()[0]['msg']}", do=_AGAIN) from error
        try:
            width = transform(plan, {name: [None] for name in self.task.features}).shape[1]
        except AtlasError as error:
            raise IntegrityError(f"the preprocessing does not fit the task: {error.message}", do=_AGAIN) from error
        for index in indices:
            member, weights = self._members[index]
            if weights.width is not None and weights.width != width:
                raise IntegrityError(f"{member.file} takes {weights.width} columns, its preprocessing makes {width}", do=_AGAIN)
        return plan

    def check(self, row: Mapping[str, Any]) -> None:
        """Raise DataError when a feature is missing or of the wrong type."""
        columns = columns_of([row], list(self.task.features))
        for name, kind in self.task.features.items():
            if kind == "number":
                numbers(name, columns[name])
            elif columns[name][0] is not None and not isinstance(columns[name][0], str):
                raise DataError(f"feature '{name}' is {columns[name][0]!r}, a text is expected", do="give a text, or null")

    def answers(self, rows: Sequence[Mapping[str, Any]]) -> list[Answer]:
        """Answer rows of features."""
        return self.answers_of(self.scores(columns_of(rows, self._features)))

    def answers_of(self, scores: Floats) -> list[Answer]:
        """Turn (N, K) probabilities, or (N, 1) values, into answers."""
        if self.task.problem == "regression":
            return [Answer(value, 1.0) for value in scores[:, 0].tolist()]
        classes = self.task.classes
        best = scores.argmax(axis=1).tolist()
        return [Answer(classes[k], row[k], dict(zip(classes, row, strict=True))) for k, row in zip(best, scores.tolist(), strict=True)]

    def scores(self, columns: Columns, *, threads: int = 1) -> Floats:
        """Return (N, K) probabilities, or (N, 1) values.

        Args:
            columns: Every feature; others are ignored.
            threads: Parts of a large table are worked on by this many; they change no bit of the result.
        """
        parts = list(_chunks(columns))
        if threads == 1 or len(parts) < 2:
            return np.concatenate([self._scores(part) for part in parts])
        with ThreadPoolExecutor(threads) as pool:
            return np.concatenate(list(pool.map(self._scores, parts)))

    def _scores(self, columns: Columns) -> Floats:
        total: Floats | float = 0.0
        reader = Reader(columns)
        for plan, indices in self._plans:
            x = transform(plan, reader)
            for index in indices:
                member, weights = self._members[index]
                total = total + member.weight * self._shaped(weights.scores(x))
        return np.asarray(total)

    def folds(self, columns: Columns, numbers: Sequence[int]) -> Floats:
        """Return (M, F, N, K): what each member's models of F folds say alone."""
        return np.concatenate([self._folds(part, numbers) for part in _chunks(columns)], axis=2)

    def _folds(self, columns: Columns, numbers: Sequence[int]) -> Floats:
        found: dict[int, Floats] = {}
        reader = Reader(columns)
        for plan, indices in self._plans:
            x = transform(plan, reader)
            for index in indices:
                found[index] = np.stack([self._shaped(raw) for raw in self._members[index][1].folds(x, numbers)])
        return np.stack([found[index] for index in range(len(self._members))])

    def _shaped(self, raw: Floats) -> Floats:
        """Return (N, K); a binary task's model may answer with the positive class alone."""
        classes = len(self.task.classes) or 1
        if classes == 2 and raw.size == len(raw):
            positive = raw.reshape(len(raw), 1)
            raw = np.concatenate([1.0 - positive, positive], axis=1)
        if classes == 1 and raw.ndim == 1:
            raw = raw[:, None]
        if raw.shape != (len(raw), classes):
            raise IntegrityError(f"the model's output has shape {raw.shape}, not (N, {classes})", do=_AGAIN)
        return raw


def _chunks(columns: Columns) -> Iterator[Columns]:
    """Yield the rows in parts, in order; without rows, one empty part."""
    count = len(next(iter(columns.values()), ()))
    if count <= _CHUNK:
        yield columns
        return
    for start in range(0, count, _CHUNK):
        yield {name: values[start : start + _CHUNK] for name, values in columns.items()}
