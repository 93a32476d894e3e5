"""The tables of `atlas bench automl`, how they are split, and how answers about them are judged."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from components.core.errors import ConfigError, DataError, nearest
from components.core.params import Tabular
from components.core.settings import Settings
from components.evaluate.bootstrap import resamples
from components.evaluate.metrics import measures

__all__ = ["KEYS", "TABLES", "TIME", "Entry", "Split", "index", "judge", "read", "smaller", "split", "task_of", "write"]

TABLES = (
    "credit_data",
    "lending_club",
    "taiwan_default",
    "bank_marketing",
    "adult",
    "sick",
    "weather",
    "letter",
    "hpc_jobs",
    "bike",
    "ames",
    "diamonds",
    "air_quality",
    "deliveries",
)
"""Chosen before anything was measured: credit first, every problem, 3,700 to 54,000 rows, all four that are ordered by time."""
KEYS = "keys.parquet"
TIME = "time_index"
TEST_SHARE = 0.25
YESTERDAY = 0.7
RESAMPLES = 500


@dataclass(frozen=True)
class Entry:
    """A line of the index.

    Attributes:
        name: Of the table.
        path: Its Parquet file.
        target: The column to predict.
        problem: binary, multiclass or regression.
        metric: auc, logloss or rmse.
        time_ordered: Whether the rows are in the order of time.
    """

    name: str
    path: Path
    target: str
    problem: str
    metric: str
    time_ordered: bool


@dataclass(frozen=True)
class Split:
    """A table, split.

    Attributes:
        entry: Which table.
        task: What is to be learned.
        train: Rows to learn from, in the order of time or in a random one.
        test: Rows to be judged on, with the target.
        numbers: For each row of `train`, its number in the whole table: the same today and yesterday.
    """

    entry: Entry
    task: Tabular
    train: pa.Table
    test: pa.Table
    numbers: NDArray[np.int64]


@dataclass(frozen=True)
class _Said:
    """One answer, as `components.evaluate.metrics` reads it."""

    label: str | float
    confidence: float
    scores: Mapping[str, float] | None


def index(settings: Settings) -> dict[str, Entry]:
    """Return the tables that are there, by name.

    Raises:
        ConfigError: There is no folder of tables.
    """
    folder = None if settings.data is None else settings.data / "tabular"
    if folder is None or not (folder / "index.csv").is_file():
        raise ConfigError(f"there is no {folder or 'data folder'}/index.csv", do="set ATLAS_DATA to the folder that has tabular/index.csv")
    with (folder / "index.csv").open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    return {
        line["name"]: Entry(
            line["name"], folder / line["file"], line["target"], line["task"], line["metric"], line["time_ordered"].lower() == "true"
        )
        for line in lines
    }


def read(entries: Mapping[str, Entry], name: str) -> tuple[Entry, pa.Table]:
    """Return a table's entry and its rows; rows without a target are left out.

    Rows in the order of time get a column that says so, for every system: real tables have a date, these have lost theirs.

    Raises:
        ConfigError: There is no such table.
    """
    if name not in entries:
        raise ConfigError(f"there is no table '{name}'", do=nearest(name, entries))
    entry = entries[name]
    table = pq.read_table(entry.path)
    table = table.filter(table.column(entry.target).is_valid())
    if entry.time_ordered:
        table = table.append_column(TIME, pa.array(np.arange(len(table), dtype=np.float64)))
    return entry, table


def task_of(entry: Entry, table: pa.Table) -> Tabular:
    """Return the task of a table; classes are the target's values as text, in order, the larger of two is the positive one."""
    names = [name for name in table.column_names if name != entry.target]
    kinds = {name: "number" if _is_number(table.schema.field(name).type) else "category" for name in names}
    classes = [] if entry.problem == "regression" else sorted(str(value) for value in table.column(entry.target).unique().to_pylist())
    given = {"problem": entry.problem, "classes": classes, "features": kinds, "metric": entry.metric}
    return Tabular.model_validate(given)


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def split(entry: Entry, table: pa.Table, seed: int) -> Split:
    """Put a quarter of the rows aside: the last ones where rows are in the order of time, else random ones."""
    order = np.arange(len(table)) if entry.time_ordered else np.random.Generator(np.random.PCG64(seed)).permutation(len(table))
    learned = len(table) - round(len(table) * TEST_SHARE)
    train, test = order[:learned], order[learned:]
    return Split(entry, task_of(entry, table), table.take(train), table.take(test), train.astype(np.int64))


def smaller(today: Split) -> Split:
    """Return yesterday's split: the first 70 % of the rows to learn from (30 % smaller), and the same rows to be judged on."""
    rows = round(len(today.train) * YESTERDAY)
    return Split(today.entry, today.task, today.train.slice(0, rows), today.test, today.numbers[:rows])


def write(given: Split, folder: Path) -> None:
    """Write what a system may see; see tests/benchmarks/automl/protocol.py. `keys.parquet` numbers the rows, for ours."""
    pq.write_table(given.train, folder / "train.parquet")
    pq.write_table(given.test.drop_columns([given.entry.target]), folder / "test.parquet")
    pq.write_table(pa.table({"row": given.numbers}), folder / KEYS)
    task = given.task.model_dump(mode="json") | {
        "name": given.entry.name,
        "target": given.entry.target,
        "time": TIME if given.entry.time_ordered else None,
    }
    (folder / "task.json").write_text(json.dumps(task, indent=1))


def judge(given: Split, answers: pa.Table, seed: int) -> tuple[float, float]:
    """Return the test rows' metric and its standard error (bootstrap of the rows).

    Args:
        given: The split.
        answers: A column a class with probabilities, or `value`; a row a test row.
        seed: Of the bootstrap.

    Raises:
        DataError: Answers are missing, not finite, or columns are.
    """
    task = given.task
    names = list(task.classes) or ["value"]
    if missing := [name for name in names if name not in answers.column_names]:
        raise DataError(f"the answers lack the columns {', '.join(missing)}", do="correct the system's script")
    values = np.column_stack([answers.column(name).to_numpy() for name in names]).astype(np.float64)
    if len(values) != len(given.test) or not np.isfinite(values).all():
        raise DataError(f"{len(values)} answers for {len(given.test)} rows, or some are not finite", do="correct the system's script")
    truth = given.test.column(given.entry.target).to_pylist()
    labels = truth if task.problem == "regression" else [str(value) for value in truth]
    measure = measures(task, labels, [_said(task, line) for line in values])[task.metric]
    drawn = [measure(weights) for weights in resamples([str(n) for n in range(len(labels))], times=RESAMPLES, seed=seed)]
    return float(measure(np.ones((1, len(labels))))[0]), float(np.nanstd(np.concatenate(drawn), ddof=1))


def _said(task: Tabular, line: NDArray[np.float64]) -> _Said:
    if task.problem == "regression":
        return _Said(float(line[0]), 1.0, None)
    best = int(line.argmax())
    return _Said(task.classes[best], float(line[best]), dict(zip(task.classes, map(float, line), strict=True)))
