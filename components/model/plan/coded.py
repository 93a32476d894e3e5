"""Columns that make a code of a row (a text's place in a vocabulary, a number's interval, two of these together), and a code's columns."""

from __future__ import annotations

from abc import abstractmethod
from functools import cached_property
from itertools import pairwise, repeat
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator

from components.core.params import Frozen
from components.model.plan.values import Reader
from components.model.runtime import Float32

__all__ = ["MISSING", "OTHER", "Bins", "Category", "Coded", "Encoding", "Joined"]

MISSING, OTHER = 0, 1
"""Codes of a category that is missing, and of one that is rare or was never seen."""
Encoding = Literal["code", "onehot", "frequency", "none"]
Codes = NDArray[np.int64]


class Coded(Frozen):
    """What becomes of a code: 0 is missing, 1 rare or unseen, 2… the values.

    Attributes:
        encoding: `code`: one column, the code; `onehot`: a column for each of `levels`; `frequency`: one column, the value's share of
            the training rows; `none`: no such column.
        beside: Whether there is a column with the value's share beside the encoding.
        own: How many values keep a code of their own in `code` and `onehot`, the others count as rare there; None: all.
        levels: The codes that `onehot` has columns for; None: all.
        shares: Shares of missing, of rare, and of each value, among the training rows.
        tables: (folds, columns, codes) what each fold's model sees for a code, learned from labels; empty: there is nothing.
    """

    kind: str
    encoding: Encoding
    beside: bool = False
    own: int | None = Field(None, ge=0)
    levels: tuple[int, ...] | None = None
    shares: tuple[float, ...]
    tables: tuple[tuple[tuple[float, ...], ...], ...] = ()

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if len(self.shares) != self.size or any(len(column) != self.size for table in self.tables for column in table):
            raise ValueError(f"{self.kind} of {self.names}: shares and tables need an entry for each of {self.size} codes")
        if len({len(table) for table in self.tables}) > 1:
            raise ValueError(f"{self.kind} of {self.names}: every fold needs as many columns as the others")
        if any(not 0 <= code < self.size for code in self.levels or ()):
            raise ValueError(f"{self.kind} of {self.names}: levels are codes below {self.size}")
        return self

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """The features that it reads."""

    @property
    @abstractmethod
    def size(self) -> int:
        """How many codes there are."""

    @property
    def width(self) -> int:
        """How many matrix columns it becomes that all folds share."""
        main = 0 if self.encoding == "none" else len(self._levels) if self.encoding == "onehot" else 1
        return main + self.beside

    @property
    def fold_width(self) -> int:
        """How many matrix columns it becomes for each fold."""
        return len(self.tables[0]) if self.tables else 0

    @abstractmethod
    def read(self, reader: Reader) -> Codes:
        """Return (N,) codes."""

    def write(self, codes: Codes, out: Float32) -> None:
        """Write the columns that all folds share into `out`, (N, `width`)."""
        own = codes if self.own is None else np.where(codes < 2 + self.own, codes, OTHER)
        if self.encoding == "code":
            out[:, 0] = own
        elif self.encoding == "frequency":
            out[:, 0] = self._shares[codes]
        elif self.encoding == "onehot":
            at = self._place[own]
            rows = np.flatnonzero(at >= 0)
            out[:, : len(self._levels)] = 0
            out[rows, at[rows]] = 1
        if self.beside:
            out[:, -1] = self._shares[codes]

    def write_fold(self, fold: int, codes: Codes, out: Float32) -> None:
        """Write what a fold's model sees into `out`, (N, `fold_width`)."""
        out[:] = self._tables[fold][codes]

    @cached_property
    def _levels(self) -> tuple[int, ...]:
        return tuple(range(2 + (self.size - 2 if self.own is None else self.own))) if self.levels is None else self.levels

    @cached_property
    def _place(self) -> Codes:
        """(codes,) the one-hot column of a code, -1: none."""
        place = np.full(self.size, -1, dtype=np.int64)
        place[list(self._levels)] = np.arange(len(self._levels))
        return place

    @cached_property
    def _shares(self) -> Float32:
        return np.asarray(self.shares, dtype=np.float32)

    @cached_property
    def _tables(self) -> list[Float32]:
        return [np.asarray(table, dtype=np.float32).T for table in self.tables]


class Category(Coded):
    """A text's place in a vocabulary.

    Attributes:
        values: The known values, most frequent first.
    """

    kind: Literal["category"] = "category"
    name: str
    values: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The features that it reads."""
        return (self.name,)

    @property
    def size(self) -> int:
        """How many codes there are."""
        return 2 + len(self.values)

    def read(self, reader: Reader) -> Codes:
        """Return (N,) codes."""
        values, places = reader.distinct(self.name)
        return np.fromiter(map(self._known.get, values, repeat(OTHER)), np.int64, len(values))[places]

    @cached_property
    def _known(self) -> dict[str | None, int]:
        return {**{value: index + 2 for index, value in enumerate(self.values)}, None: MISSING}


class Bins(Coded):
    """A number's interval: code 2 lies below the first edge.

    Attributes:
        text: Whether the number stands in a text.
        edges: Ascending; an edge belongs to the interval above it.
    """

    kind: Literal["bins"] = "bins"
    name: str
    text: bool = False
    edges: tuple[float, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The features that it reads."""
        return (self.name,)

    @field_validator("edges")
    @classmethod
    def _ascending(cls, edges: tuple[float, ...]) -> tuple[float, ...]:
        if any(not low < high for low, high in pairwise(edges)):
            raise ValueError("edges ascend")
        return edges

    @property
    def size(self) -> int:
        """How many codes there are."""
        return 3 + len(self.edges)

    def read(self, reader: Reader) -> Codes:
        """Return (N,) codes."""
        value = reader.numbers(self.name, text=self.text)
        return np.where(np.isnan(value), MISSING, 2 + np.searchsorted(self.edges, value, side="right"))


class Joined(Coded):
    """Two codes as one.

    Attributes:
        left: Where the first code comes from; its own encoding does not matter here.
        right: Where the second comes from.
        values: The known pairs, most frequent first, each as left * (codes of right) + right.
    """

    kind: Literal["joined"] = "joined"
    left: Annotated[Category | Bins, Field(discriminator="kind")]
    right: Annotated[Category | Bins, Field(discriminator="kind")]
    values: tuple[int, ...]

    @model_validator(mode="after")
    def _pairs(self) -> Self:
        if any(not 0 <= pair < self.left.size * self.right.size for pair in self.values):
            raise ValueError(f"pairs are numbers below {self.left.size * self.right.size}")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """The features that it reads."""
        return (*self.left.names, *self.right.names)

    @property
    def size(self) -> int:
        """How many codes there are."""
        return 2 + len(self.values)

    def read(self, reader: Reader) -> Codes:
        """Return (N,) codes; none is missing, for missing is a value of each half."""
        return np.take(self._known, self.left.read(reader) * self.right.size + self.right.read(reader))

    @cached_property
    def _known(self) -> Codes:
        known = np.full(self.left.size * self.right.size, OTHER, dtype=np.int64)
        known[list(self.values)] = np.arange(2, 2 + len(self.values))
        return known
