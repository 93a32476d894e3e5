"""A table made ready once for all folds and all hyperparameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.core.errors import ConfigError, DataError, nearest
from components.core.params import Tabular
from components.model.plan import Column, Plan, Reader, transform
from components.model.runtime import Float32
from components.train.data import Data, Rows
from components.train.features.coded import Draft
from components.train.features.labels import with_labels
from components.train.features.matrices import Matrices, targets
from components.train.features.options import Features
from components.train.features.plans import drafts
from components.train.features.selection import best_view
from components.train.folds import Folds, Validation, everything, hashed_folds, holdout, time_folds

__all__ = ["Matrices", "Table", "folds_of", "prepare"]

_RANKED_ROWS = 10_000
"""As many of a fold's learning rows are enough to rank its columns."""


@dataclass(frozen=True)
class Table:
    """A table prepared once for all folds.

    Attributes:
        plan: Makes the matrix from columns, in production too.
        x: (N, D) the plan's matrix of all rows. Columns that were learned from labels come once a fold, at the end:
            `plan.columns_of(fold)` names the ones that a fold's model sees.
        y: (N,) targets.
        folds: Who learns, who judges.
        classes: K; 0 for regression.
        replaced: fold -> (L, T) what the L rows that learn see in the fold's T own columns (out-of-fold within the fold), ascending;
            empty when there are none.
    """

    plan: Plan
    x: Float32
    y: NDArray[np.float64]
    folds: Folds
    classes: int
    replaced: Mapping[int, Float32] = field(default_factory=dict)

    @property
    def preprocessing(self) -> dict[str, Any]:
        """The plan as plain JSON."""
        return self.plan.model_dump(mode="json")

    def part(self, fold: int, limit: int | None = None) -> Matrices:
        """Return what the fold's model learns from and is judged on, in the columns that it sees; at most `limit` rows to learn from."""
        learned, judged = self.folds.learned(fold, limit), self.folds.judged(fold)
        view = np.asarray(self.plan.columns_of(fold), dtype=np.intp)
        x, x_judged = (self.x[rows] if len(view) == self.x.shape[1] else self.x[np.ix_(rows, view)] for rows in (learned, judged))
        if self.replaced:
            first = self.plan.shared + fold * self.plan.own
            own = np.flatnonzero(view >= first)
            every = self.folds.learned(fold)
            rows = slice(None) if len(learned) == len(every) else np.searchsorted(every, learned)
            x[:, own] = self.replaced[fold][rows][:, view[own] - first]
        return Matrices(x, self.y[learned], x_judged, self.y[judged], self.classes, self.plan.coded_of(fold))


def prepare(data: Data, features: Features, validation: Validation) -> Table:
    """Learn a plan from the rows and execute it.

    Statistics that need no label (fill values, scales, vocabularies) are those of all rows of train and validation; what is
    learned from labels is learned anew for each fold, without the fold's rows.

    Raises:
        DataError: The task is not tabular, or there is no usable feature.
        ConfigError: An option names an unknown feature.
    """
    task = data.task
    if not isinstance(task, Tabular):
        raise DataError("this learner learns from tables only", do="use a learner for lines of text")
    rows = data.pooled()
    folds, y, classes = folds_of(data, rows, validation), targets(task, rows), len(task.classes)
    reader = Reader(rows.columns)
    found, dropped = drafts(task, features, reader)
    columns: list[Column] = []
    seen: list[list[Float32]] = []
    for part in found:
        if isinstance(part, Draft):
            column, of_folds = with_labels(part, reader, y, classes, folds, features.smoothing)
            columns.append(column)
            seen += [of_folds] if of_folds else []
        else:
            columns.append(part)
    plan = Plan(columns=tuple(columns), dropped=dropped)
    replaced = {fold: np.concatenate([parts[fold] for parts in seen], axis=1) for fold in range(folds.count) if seen}
    table = Table(plan, transform(plan, reader), y, folds, classes, replaced)
    if features.keep_best == 1:
        return table
    parts = (table.part(fold, _RANKED_ROWS) for fold in range(folds.count))
    views = tuple(best_view(plan, fold, part, features.keep_best) for fold, part in enumerate(parts))
    return replace(table, plan=plan.model_copy(update={"views": views}))


def folds_of(data: Data, rows: Rows, validation: Validation) -> Folds:
    """Return the folds of the pooled rows.

    Raises:
        ConfigError: `validation.time` is no feature, or holds neither numbers nor dates.
    """
    if validation.kind == "holdout":
        return holdout(len(data.train), len(data.validation), rows.keys)
    if validation.kind == "none":
        return everything(rows.keys)
    if validation.kind == "hash":
        return hashed_folds(rows.keys, validation.folds)
    name, kinds = str(validation.time), data.task.features if isinstance(data.task, Tabular) else {}
    if name not in kinds:
        raise ConfigError(f"validation.time names '{name}'", do=nearest(name, kinds))
    reader = Reader(rows.columns)
    order = reader.numbers(name) if kinds[name] == "number" else reader.times(name)
    if np.isnan(order).all():
        raise ConfigError(
            f"validation.time names '{name}', which holds no number and no ISO date", do="name a feature that orders the rows"
        )
    return time_folds(order, validation.folds, rows.keys)
