"""The rows a model may learn from. Test and holdout rows are never even read: the Parquet filter leaves them out."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from components.core.errors import DataError
from components.core.params import Tabular, Task, TextLine
from components.core.tables import DATA_FILE, payload_columns
from components.model.predictor import column_values

__all__ = ["Data", "Rows", "check_enough", "check_pooled", "read_data"]

LEARNED_FROM = ("train", "validation")
MIN_TRAIN = 10
MIN_VALIDATION = 2
_NEEDED = ("_id", "_group", "_label", "_split", "_source")


@dataclass(frozen=True)
class Rows:
    """The rows of one split.

    Attributes:
        columns: `image` or feature name -> N values.
        labels: N texts, or numbers for regression.
        sources: How many rows come from the base annotations, and from cases.
        keys: N group keys: rows with the same one are never on both sides of a fold. Empty: every row is its own group.
    """

    columns: Mapping[str, Sequence[Any] | NDArray[Any]]
    labels: Sequence[Any]
    sources: Mapping[str, int] = field(default_factory=dict)
    keys: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def mappings(self) -> list[dict[str, Any]]:
        """Return the rows as `Predictor.predict` takes them."""
        names = list(self.columns)
        return [dict(zip(names, values, strict=True)) for values in zip(*self.columns.values(), strict=True)]


@dataclass(frozen=True)
class Data:
    """What a learner gets: rows to fit on, and rows to choose by."""

    task: Task
    train: Rows
    validation: Rows

    def pooled(self) -> Rows:
        """Return train and validation rows as one, train first; rows without keys get their number."""
        parts = (self.train, self.validation)
        columns = {name: _joined([part.columns[name] for part in parts]) for name in self.train.columns}
        labels = [label for part in parts for label in part.labels]
        keys = [key for part in parts for key in part.keys]
        sources = Counter(self.train.sources) + Counter(self.validation.sources)
        if len(keys) != len(labels):
            keys = [str(number) for number in range(len(labels))]
        return Rows(columns, labels, dict(sorted(sources.items())), keys)


def read_data(folder: Path, task: Task, *, max_rows: int | None = None) -> Data:
    """Read a dataset version's train and validation rows.

    Args:
        folder: `ctx.path("dataset")`.
        task: The scenario's task.
        max_rows: At most this many training rows; which ones is decided by the hash of their ids.

    Raises:
        DataError: A column is missing.
    """
    wanted = payload_columns(task)
    path = folder / DATA_FILE
    schema = pq.read_schema(path)
    if missing := [name for name in (*wanted, *_NEEDED) if name not in schema.names]:
        raise DataError(f"the dataset lacks the columns {', '.join(missing)}", do="check task.features")
    table = pq.read_table(path, columns=[*wanted, *_NEEDED], filters=[("_split", "in", LEARNED_FROM)])
    # Row order is part of the result, and a filtered read need not keep it.
    table = table.sort_by("_id")
    splits = np.asarray(table.column("_split").to_pylist(), dtype=object)
    parts = {name: table.take(np.flatnonzero(splits == name)) for name in LEARNED_FROM}
    if max_rows is not None:
        parts["train"] = _sampled(parts["train"], max_rows)
    return Data(task, *(_rows(parts[name], wanted) for name in LEARNED_FROM))


def _sampled(table: pa.Table, rows: int) -> pa.Table:
    """Keep the rows whose ids hash lowest: the same ones whenever they are there."""
    order = [hashlib.sha256(f"sample:{value}".encode()).digest() for value in table.column("_id").to_pylist()]
    kept = sorted(sorted(range(len(order)), key=order.__getitem__)[:rows])
    return table.take(np.asarray(kept, dtype=np.int64))


def _joined(parts: Sequence[Sequence[Any] | NDArray[Any]]) -> Sequence[Any] | NDArray[Any]:
    if all(isinstance(part, np.ndarray) for part in parts):
        return np.concatenate(parts)
    return [value for part in parts for value in part]


def _rows(table: pa.Table, wanted: Sequence[str]) -> Rows:
    sources = Counter(table.column("_source").to_pylist())
    columns = {name: column_values(table, name) for name in wanted}
    return Rows(columns, table.column("_label").to_pylist(), dict(sorted(sources.items())), table.column("_group").to_pylist())


def check_pooled(data: Data) -> None:
    """Check train and validation rows as one: folds are drawn from both. Raises as `check_enough`."""
    rows = data.pooled()
    check_enough(Data(data.task, rows, rows))


def check_enough(data: Data) -> None:
    """Check that there is something to learn, and something to choose by.

    Raises:
        DataError: A split has too few rows, a label is outside the vocabulary, or all labels are the same.
    """
    for name, rows, least in (("train", data.train, MIN_TRAIN), ("validation", data.validation, MIN_VALIDATION)):
        if len(rows) < least:
            raise DataError(
                f"the dataset has {len(rows)} {name} rows, at least {least} are needed",
                do=f"add annotations, or raise the share of {name} in label_merge.splits",
            )
    task = data.task
    if isinstance(task, Tabular) and task.problem != "regression":
        counts = Counter(data.train.labels)
        if len(counts) < 2:
            raise DataError(
                f"all {len(data.train)} training rows are of class '{next(iter(counts))}'", do="add labelled rows of the other classes"
            )
        if strange := sorted(set(counts) - set(task.classes)):
            raise DataError(f"labels outside the vocabulary: {', '.join(map(str, strange))}", do="correct task.classes, or the labels")
    elif isinstance(task, Tabular) and len(set(data.train.labels)) < 2:
        raise DataError(f"all {len(data.train)} training labels are {data.train.labels[0]}", do="add rows with other values")
    elif isinstance(task, TextLine) and not any(data.train.labels):
        raise DataError("no training line has any text", do="label some lines")
