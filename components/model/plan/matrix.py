"""Executing a plan: shared columns first, then for each fold the columns that were learned from labels."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Self

import numpy as np
from pydantic import Field, model_validator

from components.core.errors import DataError
from components.core.params import Frozen
from components.model.plan.coded import Bins, Category, Coded, Joined
from components.model.plan.numeric import Moment, Number, Pair
from components.model.plan.values import Columns, Reader
from components.model.runtime import Float32

__all__ = ["Column", "Plan", "Single", "transform"]

Single = Number | Moment | Pair
"""One number of a row."""
Column = Annotated[Single | Category | Bins | Joined, Field(discriminator="kind")]


class Plan(Frozen):
    """How a row becomes D numbers.

    Attributes:
        columns: What becomes columns, in order. The matrix has all columns that the folds share, then fold 0's own, fold 1's own, ….
        views: For each fold, the matrix columns that its model sees, ascending; empty: the shared ones and its own.
        dropped: Feature -> why the plan leaves it out.
    """

    columns: tuple[Column, ...]
    views: tuple[tuple[int, ...], ...] = ()
    dropped: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if len({len(column.tables) for column in self.columns if isinstance(column, Coded) and column.tables}) > 1:
            raise ValueError("columns learned from labels have different numbers of folds")
        if any(not 0 <= column < self.width for view in self.views for column in view):
            raise ValueError(f"a view names a column that is none of {self.width}")
        return self

    @cached_property
    def features(self) -> tuple[str, ...]:
        """The features that the plan reads."""
        return tuple(dict.fromkeys(name for column in self.columns for name in column.names))

    @cached_property
    def shared(self) -> int:
        """How many columns all folds share."""
        return sum(column.width for column in self.columns)

    @cached_property
    def own(self) -> int:
        """How many columns each fold has of its own."""
        return sum(column.fold_width for column in self.columns if isinstance(column, Coded))

    @cached_property
    def folds(self) -> int:
        """How many folds have columns of their own; 0: none has."""
        return max((len(column.tables) for column in self.columns if isinstance(column, Coded)), default=0)

    @property
    def width(self) -> int:
        """D."""
        return self.shared + self.folds * self.own

    @cached_property
    def coded(self) -> list[int]:
        """Matrix columns that hold codes; all of them are shared."""
        return [start for start, column in self._starts if isinstance(column, Coded) and column.encoding == "code"]

    def columns_of(self, fold: int) -> tuple[int, ...]:
        """Return the matrix columns that the fold's model sees, ascending."""
        if self.views:
            return self.views[fold]
        start = self.shared + fold * self.own
        return (*range(self.shared), *range(start, start + self.own))

    def coded_of(self, fold: int) -> tuple[int, ...]:
        """Return which of `columns_of(fold)` hold codes, as positions therein."""
        coded = set(self.coded)
        return tuple(position for position, column in enumerate(self.columns_of(fold)) if column in coded)

    @cached_property
    def _starts(self) -> list[tuple[int, Column]]:
        found, at = [], 0
        for column in self.columns:
            found.append((at, column))
            at += column.width
        return found


def transform(plan: Plan, columns: Columns | Reader) -> Float32:
    """Execute the plan.

    Args:
        plan: Made by `components.train.features.learn_plan`.
        columns: Every feature the plan reads; others are ignored. A Reader does not read a column twice.

    Returns:
        (N, D) the matrix.

    Raises:
        DataError: A feature is missing, or a value is of the wrong type.
    """
    reader = columns if isinstance(columns, Reader) else Reader(columns)
    for name in plan.features:
        if name not in reader.columns:
            raise DataError(f"feature '{name}' is missing", do="give every feature of the model; null stands for a missing value")
    if not plan.width:
        raise DataError("the plan has no columns", do="leave at least one feature in the recipe")
    out = np.empty((len(reader.columns[plan.features[0]]), plan.width), dtype=np.float32)
    at, own = 0, plan.shared
    for column in plan.columns:
        if isinstance(column, Coded):
            codes = column.read(reader)
            column.write(codes, out[:, at : at + column.width])
            for fold in range(len(column.tables)):
                start = own + fold * plan.own
                column.write_fold(fold, codes, out[:, start : start + column.fold_width])
            own += column.fold_width
        else:
            column.write(reader, out[:, at : at + column.width])
        at += column.width
    return out
