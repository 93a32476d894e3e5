"""Which rows of a dataset version evaluate looks at, and their digest, which binds a blessing to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from components.core.artifacts import digest_of
from components.core.errors import DataError

__all__ = ["DATA_FILE", "Rows", "evaluated", "evaluation_set", "read_table"]

DATA_FILE = "data.parquet"
_NEEDED = ("_id", "_group", "_label", "_source", "_case", "_split")
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Rows:
    """The evaluated rows: every test and holdout row, and every case row wherever it is (n rows).

    Attributes:
        table: All columns.
        claimed: Case ids that this run merged for the first time.
    """

    table: pa.Table
    claimed: frozenset[str]

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @cached_property
    def labels(self) -> list[Any]:
        """(n) the truth."""
        return self._column("_label")

    @cached_property
    def groups(self) -> list[str]:
        """(n) the group that each row is resampled with."""
        return self._column("_group")

    @cached_property
    def cases(self) -> list[str | None]:
        """(n) case ids."""
        return self._column("_case")

    @cached_property
    def splits(self) -> list[str]:
        """(n) train, validation, test or holdout."""
        return self._column("_split")

    @cached_property
    def test(self) -> Mask:
        """(n) the test split."""
        return np.array([split == "test" for split in self.splits], dtype=bool)

    @cached_property
    def holdout(self) -> Mask:
        """(n) the case holdout: cases that never train."""
        return np.array([split == "holdout" for split in self.splits], dtype=bool)

    @cached_property
    def is_case(self) -> Mask:
        """(n) whether the row is a case."""
        return np.array([case is not None for case in self.cases], dtype=bool)

    @cached_property
    def is_claimed(self) -> Mask:
        """(n) whether the row is a case of this run: it is here because the champion failed on it."""
        return np.array([case in self.claimed for case in self.cases], dtype=bool)

    def pick(self, mask: Mask) -> NDArray[np.intp]:
        """Return the positions of a mask's rows."""
        return np.flatnonzero(mask)

    def _column(self, name: str) -> list[Any]:
        values: list[Any] = self.table.column(name).to_pylist()
        return values


def read_table(folder: Path) -> pa.Table:
    """Read a dataset version.

    Raises:
        DataError: It is no dataset version: unreadable, or without splits.
    """
    try:
        table = pq.read_table(folder / DATA_FILE)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"the dataset's {DATA_FILE} can't be read: {error}", do="give the dataset that label_merge wrote") from error
    if missing := [name for name in _NEEDED if name not in table.column_names]:
        raise DataError(f"the dataset lacks the columns {', '.join(missing)}", do="give the dataset that label_merge wrote")
    return table


def evaluated(table: pa.Table, claimed: Sequence[str] = ()) -> Rows:
    """Select the rows to evaluate, in the dataset's order (by `_id`)."""
    wanted = pc.or_(pc.is_in(table.column("_split"), value_set=pa.array(["test", "holdout"])), pc.is_valid(table.column("_case")))
    return Rows(table.filter(wanted), frozenset(claimed))


def evaluation_set(table: pa.Table) -> str:
    """Return the sha256 over id, label and split of the evaluated rows: what a blessing vouches for."""
    chosen = evaluated(table).table
    columns = [chosen.column(name).to_pylist() for name in ("_id", "_label", "_split")]
    return digest_of(sorted(zip(*columns, strict=True)))
